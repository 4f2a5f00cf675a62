"""Atomic writing of files, and a check of relative paths. Standard library only."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success.

    The temporary file is hidden and in the same folder, which is created if missing. It has the suffix of `path`, which
    some writers need. If the block raises, the file is removed and `path` is unchanged.

    Example:
        >>> with replacing("results/scores.csv") as temporary:  # doctest: +SKIP
        ...     frame.to_csv(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def leads_out(name: str) -> bool:
    """Whether a relative path from an untrusted source would leave its folder, on any system."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
