"""What a full, read-only or closed disk does to a program, in one sentence."""

import errno
import re

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
ADVICE = "run the same command again; what was finished is kept"


def sentence(error: BaseException) -> str | None:
    """What happened to the disk and what to do; None for an error of any other kind.

    Args:
        error: an OSError, or one of a library that has the number of the system's error in its text, as safetensors.
    """
    named = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(named[1]) if named else None
    path = getattr(error, "filename", None)
    if number in _NO_ROOM:
        return f"there is no room left on the disk{f' of {path}' if path else ''}: make some, then {ADVICE}."
    if number == errno.EFBIG:
        return f"{path or 'a file'} may not grow so large here (File too large): raise the limit, then {ADVICE}."
    if number in _CLOSED:
        reason = "the disk is read-only" if number == errno.EROFS else "the system does not permit it"
        return f"{path or 'a file'} cannot be read or written ({reason}): change that, then {ADVICE}."
    return None
