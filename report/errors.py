"""What a person can put right when a report cannot be made, said in one sentence."""

import sys
from collections.abc import Callable


class ReportError(Exception):
    """An input is missing or malformed; the message says what was found, what was expected, what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a step as a program: a `ReportError` prints its sentence and ends with status 1."""
    try:
        main()
    except ReportError as error:
        sys.exit(f"error: {error}")
