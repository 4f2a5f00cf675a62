"""What a person can put right when a report cannot be made, said in one sentence."""

import sys
from collections.abc import Callable


class ReportError(Exception):
    """An input is missing or malformed; the message says what was found, what was expected, what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a step as a program: a `ReportError`, or a full or read-only disk, is one sentence and status 1."""
    try:
        main()
    except ReportError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        from ken.errors import disk_sentence

        if (said := disk_sentence(error)) is None:
            raise
        sys.exit(f"error: {said}")
