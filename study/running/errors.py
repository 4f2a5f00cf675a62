"""Mistakes a person can make and how a step reports them: one sentence, no traceback."""

import difflib
import sys
import traceback
from collections.abc import Callable, Iterable

PACKAGES = ("study", "baselines", "ken", "report")
LISTED = 12  # names listed in full when none of them resembles what was written


class UserError(Exception):
    """Something a user can put right; the message is one sentence: found what, expected what, do what."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Hint at the nearest valid names, to be put behind a sentence.

    Args:
        name: what was written.
        valid: what may be written.

    Returns:
        ``' Did you mean "bert"?'``, or the valid names when none of them is near, or "" when there are none.

    Example:
        >>> did_you_mean("brt", ["bert", "bloom"])
        ' Did you mean "bert"?'
    """
    names = sorted(set(map(str, valid)))
    lower = {candidate.lower(): candidate for candidate in names}
    if near := difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6):
        return f' Did you mean "{lower[near[0]]}"?'
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f" Valid: {', '.join(names[:LISTED])}{more}."


def run(main: Callable[[], object]) -> None:
    """Run a step's `main` as a program and leave with its exit status.

    A `UserError` prints its sentence, and so do a full or read-only disk and a full GPU. A `ValueError` raised by one
    of our own packages prints its sentence after the traceback, since it may be a mistake of the caller or of ours.
    Anything else is unexpected and keeps Python's own report. All of them end with status 1. The step also ends when
    its run is killed.
    """
    from study.running.workflow import end_with_snakemake

    end_with_snakemake()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except ValueError as error:
        if not _is_ours(error):
            raise
        traceback.print_exc()
        sys.exit(f"error: {error}")
    except Exception as error:
        if (said := disk_sentence(error) or gpu_sentence(error)) is None:
            raise
        sys.exit(f"error: {said}")


def gpu_sentence(error: BaseException) -> str | None:
    """What to do where a GPU has no memory left, or None; by name, since most steps do not import torch."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return "the GPU has too little memory for this step: end what else runs on it, or set device to cpu."


def disk_sentence(error: BaseException) -> str | None:
    """`ken.disk.sentence`, imported, with torch, only for errors of the system."""
    if not isinstance(error, OSError) and "(os error " not in str(error):
        return None
    from ken import disk

    return disk.sentence(error)


def _is_ours(error: BaseException) -> bool:
    """Whether the statement that raised stands in one of our packages."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__package__") or ""
    return package.partition(".")[0] in PACKAGES
