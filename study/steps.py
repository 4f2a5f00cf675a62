"""What surrounds the steps of a study: their environment, one run at a time, and an end with the run they belong to."""

import fcntl
import os
import socket
import sys
from pathlib import Path


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
