"""`python -m saga_worker` is `saga-worker`."""

from saga_worker.admin.cli import main

raise SystemExit(main())
