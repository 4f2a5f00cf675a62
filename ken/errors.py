"""Errors that a user can fix, reported as one sentence without traceback. Standard library only."""

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable

PACKAGES = ("study", "baselines", "ken", "report")
LISTED = 12  # up to this many valid names are listed if none resembles the given one
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_PERMITTED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN_PIPE = 128 + 13
_ADVICE = "run the same command again; finished work is kept"


class UserError(Exception):
    """An error that a user can fix. Its message is one sentence: what is wrong, what was expected, what to do."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Hint at the nearest valid name, to be appended to a sentence.

    Args:
        name: the given name.
        valid: the valid names.

    Returns:
        ``' Did you mean "bert"?'``, or the valid names if none is similar, or "" if there are none.

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


def import_sentence(error: ImportError, package: str, extra: str) -> str:
    """Why a package cannot be imported, and what to do.

    Args:
        error: what was raised.
        package: what was imported, which may be installed but lack or break on something else.
        extra: of ken-benchmark, which installs it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f'{package} is not installed: pip install "ken-benchmark[{extra}]".'
    reason = " ".join(str(error).split()).rstrip(".")
    return f"{package} is installed but cannot be imported ({reason}): repair its installation."


def disk_sentence(error: BaseException) -> str | None:
    """What to do about a full, read-only or protected disk; None for any other error.

    Args:
        error: an OSError, or an error of a library with the system's error number in its text (safetensors).
    """
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(in_text[1]) if in_text else None
    path = getattr(error, "filename", None)
    if number in _FULL:
        return f"the disk{f' of {path}' if path else ''} is full: free some space, then {_ADVICE}."
    if number == errno.EFBIG:
        return f"{path or 'a file'} exceeds the size limit for files: raise the limit, then {_ADVICE}."
    if number in _NOT_PERMITTED:
        reason = "the disk is read-only" if number == errno.EROFS else "permission denied"
        return f"{path or 'a file'} cannot be read or written ({reason}): change that, then {_ADVICE}."
    return None


def gpu_sentence(error: BaseException) -> str | None:
    """What to do if the GPU is out of memory; None for any other error. Compares names, to avoid importing torch."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return (
        "the GPU does not have enough memory: stop what else runs on it, or use the CPU "
        "(`device: cpu` in a study, `--device cpu` on the command line)."
    )


def run(main: Callable[[], object], expected: tuple[type[Exception], ...] = (UserError,)) -> None:
    """Run `main` as a program: errors that a user can fix are printed as one sentence and end it with status 1.

    Args:
        main: the program; its result is ignored.
        expected: errors whose message is such a sentence. A full or read-only disk and a full GPU always have one.

    A `ValueError` raised by one of our packages may be an error of the user or of the code, so its sentence follows the
    traceback. Any other error is reported by Python. If standard output is closed early, as by `head`, the program ends
    silently, with the status of a program that received SIGPIPE.
    """
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        sentence = None if isinstance(error, UserError) else disk_sentence(error) or gpu_sentence(error)
        if sentence is None and isinstance(error, ValueError) and not isinstance(error, expected) and _is_ours(error):
            traceback.print_exc()
        elif sentence is None and not isinstance(error, (UserError, *expected)):
            raise
        sys.exit(f"error: {sentence or error}")


def _is_ours(error: BaseException) -> bool:
    """Whether the statement that raised is in one of our packages."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__package__") or ""
    return package.partition(".")[0] in PACKAGES
