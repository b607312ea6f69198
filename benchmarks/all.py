"""Every benchmark, one after the other, and all targets in one last line.

    ./dev bench all --pairs 5 --json

Takes a machine left alone; each benchmark by its own name does the same for its own targets.
"""

from __future__ import annotations

from benchmarks import activities, against_handwritten, compensation, growth, latency, pipeline, real_log, scale
from benchmarks.harness.command import main
from benchmarks.harness.verdicts import TARGETS

BENCHMARKS = (pipeline, latency, scale, growth, activities, compensation, against_handwritten, real_log)

if __name__ == "__main__":
    main(__doc__ or "", *(benchmark.measure for benchmark in BENCHMARKS), expected=list(TARGETS))
