"""Temporary folders in memory for files that are written, read back once and removed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "STUDY_SCRATCH"  # names another folder than MEMORY
MEMORY = Path("/dev/shm")
PREFIX = ".ken-benchmark-"  # hidden files are no results of a study
SPARE = 4  # times as much must be free as a file needs, since other jobs write there too
AGE = 60.0  # seconds after which a folder without a lock is abandoned


@contextlib.contextmanager
def folder(needed: int, beside: Path) -> Iterator[Path]:
    """A temporary folder in `STUDY_SCRATCH` or in memory, or in `beside` if there is too little space.

    Folders of processes that were killed are removed first, so that they do not fill the memory.

    Args:
        needed: bytes of the largest file.
        beside: folder on the disk, made if it does not exist.
    """
    root = Path(os.environ.get(VARIABLE) or MEMORY)
    beside.mkdir(parents=True, exist_ok=True)
    for place in (root, beside):
        remove_abandoned(place)
    if not (os.access(root, os.W_OK) and shutil.disk_usage(root).free >= SPARE * needed):
        root = beside
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=root) as name, open(Path(name, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def remove_abandoned(root: Path) -> None:
    """Remove the folders of this user in `root` whose process has ended without doing so."""
    for path in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            if stat.st_uid == os.getuid() and time.time() - stat.st_mtime > AGE and not _is_held(path / "lock"):
                shutil.rmtree(path, ignore_errors=True)


def _is_held(path: Path) -> bool:
    """Whether a process holds a lock file; False if there is none."""
    if not path.exists():
        return False
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
