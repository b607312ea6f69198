"""Every benchmark, one after the other, and all targets in one last line.

    ./dev bench all --pairs 5 --json

Takes a machine left alone; each benchmark by its own name does the same for its own targets.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from benchmarks.harness.command import main
from benchmarks.harness.verdicts import TARGETS

NAMES = (
    "pipeline", "latency", "scale", "growth", "activities", "compensation", "against_handwritten", "real_log",
)  # fmt: skip

if __name__ == "__main__":
    found = [import_module(f"benchmarks.{name}") for name in NAMES if find_spec(f"benchmarks.{name}")]
    modules = [module for module in found if hasattr(module, "measure")]
    measured = {figure for module in modules for figure in module.FIGURES}
    main(
        __doc__ or "",
        *(module.measure for module in modules),
        missing=[name for name in TARGETS if name not in measured],
    )
