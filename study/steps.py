"""What surrounds the steps of a study: their environment, one run at a time, and an end with the run they belong to."""

import fcntl
import os
import socket
import sys
import tempfile
from pathlib import Path

from study.errors import UserError, disk_sentence

NEEDED = 2**20  # bytes, without which no step gets far


SNAKEMAKE = "STUDY_SNAKEMAKE"  # process id of the Snakemake that starts the steps
POLL = 1.0  # seconds between two looks whether it is still there

_held: list[int] = []  # open lock files: closing one would let another run in


def prepare_environment(device: str, checkpoint_minutes: float) -> None:
    """Let steps use the Python that runs Snakemake, activated or not, and keep their memory between tensors.

    glibc otherwise returns the memory of every larger tensor to the system and asks for it again, which takes a third
    of the time. What the user has set stays.

    Args:
        device: what the config says of it, see `study.device`.
        checkpoint_minutes: see `study.resumption`. Neither changes what a step is to do, so neither is part of its
            command, which would have to run again when it changes.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))


def check_writable(folder: str | Path) -> None:
    """Refuse to start a study whose results could not be written.

    A nameless file is written where the folder is, or where it will be, so that nothing is left behind.

    Raises:
        UserError: the disk is full or read-only, or the folder is closed to this user.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * NEEDED)
            file.flush()
    except OSError as error:
        error.filename = str(place)
        raise UserError(disk_sentence(error) or f"{place} cannot be written ({error.strerror}).") from None
