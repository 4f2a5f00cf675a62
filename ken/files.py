"""Atomic writing of files, their permissions, and checks of paths. Standard library only."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success.

    The temporary file is hidden and in the same folder, which is created if missing. It has the suffix of `path`, which
    some writers need. If the block raises, the file is removed and `path` is unchanged. The new file has the
    permissions that the umask allows, whatever its writer set.

    Example:
        >>> with replacing("results/scores.csv") as temporary:  # doctest: +SKIP
        ...     frame.to_csv(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.{path.name}")
    try:
        yield temporary
        honour_umask(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def honour_umask(path: str | Path) -> None:
    """Give a file, or every file in a folder, the permissions of a new file; some libraries write them for one user."""
    path = Path(path)
    mode = 0o666 & ~_umask()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o777 != mode:
            with suppress(PermissionError):  # a file system without permissions
                file.chmod(mode)


def _umask() -> int:
    """The process's umask, which can only be read by setting it; for that moment new files are private."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def path_exists(path: str | Path) -> bool:
    """Whether a path exists.

    Raises:
        ValueError: it cannot be told, since a folder above may not be searched.
    """
    try:
        os.stat(path)
    except PermissionError:
        raise ValueError(f"{path} {MAY_NOT_READ}") from None
    except (OSError, ValueError):
        return False
    return True


MAY_NOT_READ = "may not be read (permission denied): ask its owner for read permission."
"""End of the sentence about a file that another user keeps private."""


def check_output(path: str | Path, inputs: Iterable[str | Path], kind: str, is_kind: Callable[[Path], bool]) -> None:
    """Refuse to write over an input, or over a file that is not of the kind that is written.

    Links are followed on both sides: a link to an input is that input.

    Args:
        path: the output.
        inputs: files that are read.
        kind: what is written, for the message, such as "a sub-network".
        is_kind: whether an existing file is one; an empty file is.

    Raises:
        ValueError: the output exists and must not be replaced.
    """
    path = Path(path)
    if not path.exists():
        return
    for file in map(Path, inputs):
        if file.exists() and path.samefile(file):
            raise ValueError(f"{path} is an input of this command ({file}): name another file to write.")
    if path.is_dir():
        return  # refused with its own sentence by what writes
    if not path.is_file() or (path.stat().st_size and not is_kind(path)):
        raise ValueError(f"{path} exists and is not {kind}: remove it, or name another file to write.")


def starts_with(path: Path, *beginnings: bytes) -> bool:
    """Whether a file begins with one of some bytes, apart from case and white space before them."""
    with open(path, "rb") as file:
        return file.read(256).lstrip().lower().startswith(tuple(beginning.lower() for beginning in beginnings))


def leads_out(name: str) -> bool:
    """Whether a relative path from an untrusted source would leave its folder, on any system."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
