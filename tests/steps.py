"""Run steps of a study or a report inside the test process."""

import sys
from types import ModuleType


def run_step(step: ModuleType, *arguments: object) -> None:
    """Call the `main` of a step with command-line arguments."""
    saved, sys.argv = sys.argv, [step.__name__, *map(str, arguments)]
    try:
        step.main()
    finally:
        sys.argv = saved
