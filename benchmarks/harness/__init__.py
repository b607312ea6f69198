"""What every benchmark needs: servers, a namespace of its own per run, load, accounting, checks, verdicts, output."""
