"""Locks on GPUs and on parts of them, which all runs and users of a machine respect.

They are locks of the operating system, which are released however a process ends. Each eighth of a GPU has one.

A process that does not get its parts at once becomes next in line for one GPU: it holds another lock of this GPU
until it has its parts. Meanwhile nobody else gets parts of that GPU, so small jobs cannot keep passing a large one. It
is next for one GPU only, so the others stay in use while it waits; but it takes the first GPU that has its parts and
that nobody else is next for. Those behind it try again every few seconds, in no order, whatever they need.

There is no deadlock: a process that waits holds no part. It only blocks for the lock of admission to a GPU, which a
process holds for the moment in which it tries the other locks of this GPU.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

PARTS = 8  # of a GPU
LOCKS = Path("/tmp")
POLL = 5.0  # seconds between attempts to get parts of a GPU

_held: list[int] = []  # open lock files: closing one would free its part of a GPU


def hold_one(wanted: dict[str, int]) -> str:
    """Lock parts of one GPU until this process ends, and return its name; waits while no GPU has enough free parts.

    Args:
        wanted: GPU -> parts to lock if it is this one, 1 to `PARTS`.
    """
    place: dict[str, int] = {}
    said = False
    try:
        while (name := _take_one(wanted, place)) is None:
            if not said:
                print(f"waiting for a GPU: other processes hold {', '.join(wanted)} or are next in line", flush=True)
            said = True
            time.sleep(POLL)
        return name
    finally:
        for file in place.values():
            os.close(file)


def _take_one(wanted: dict[str, int], place: dict[str, int]) -> str | None:
    """Lock parts of the first GPU that has them; None if no GPU has.

    Args:
        place: the GPU that this process is next in line for -> its open lock file. If it is empty, it is filled.
    """
    for name, parts in wanted.items():
        with _admission(name):
            if name not in place and not _is_free(f"{name}-next"):
                continue
            if _take(name, parts):
                return name
            if not place:
                place[name] = _lock(f"{name}-next")
    return None


def _take(name: str, parts: int) -> bool:
    """Lock so many parts of a GPU until this process ends, if as many are free."""
    free = [file for part in range(PARTS) if (file := _lock(f"{name}-{part}")) is not None]
    taken = free[:parts] if len(free) >= parts else []
    _held.extend(taken)
    for file in free[len(taken) :]:
        os.close(file)
    return bool(taken)


@contextlib.contextmanager
def _admission(name: str) -> Iterator[None]:
    """Only one process at a time looks at the locks of a GPU, so it may hold some of them for a moment."""
    file = _open(f"{name}-admission")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _is_free(name: str) -> bool:
    file = _lock(name)
    if file is not None:
        os.close(file)
    return file is not None


def _lock(name: str) -> int | None:
    """The open file of a lock that this process now holds; None if another process does."""
    file = _open(name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _open(name: str) -> int:
    """The lock file of a name."""
    path = LOCKS / f"ken-benchmark-{re.sub('[^A-Za-z0-9-]', '_', name)}.lock"
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        pass
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # another process was faster
        return os.open(path, os.O_RDONLY)
    os.fchmod(file, 0o644)  # whatever the umask: other users must be able to open it
    return file
