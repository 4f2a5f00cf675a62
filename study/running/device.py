"""The device that a step computes on: a GPU that no other step uses, or the CPU if there is no GPU.

A step locks its GPU with a lock of the operating system, which is released however the process ends. So two jobs never
share a GPU, even if they belong to different runs or users.
"""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ken.errors import UserError, did_you_mean

if TYPE_CHECKING:  # torch is slow to import, and not every importer of this module needs it
    import torch

VARIABLE = "STUDY_DEVICE"  # overrides the config's `device`
CHOICES = ("auto", "cpu", "cuda")
LOCKS = Path("/tmp")
POLL = 5.0  # seconds between attempts to lock a GPU

_held: list[int] = []  # open lock files: closing one would free its GPU


@functools.cache
def acquire_device() -> "torch.device":
    """Lock a GPU for this process until it ends, and return the device to compute on; the same one in later calls.

    Waits while other processes hold all GPUs. Must be called before anything queries CUDA for its devices; no import
    does so.

    Raises:
        UserError: the choice is unknown, or it is cuda and there is no GPU.
    """
    import torch

    if names := gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = hold_one(names)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed for bitwise repeatable matrix products
    if chosen() != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    check_available()
    return torch.device("cpu")


def check_available() -> None:
    """Refuse the choice cuda where torch finds no GPU.

    Raises:
        UserError: there is none, or the choice is unknown.
    """
    if chosen() == "cuda" and not _finds_gpu():
        raise UserError("a GPU is asked for (device: cuda), but torch finds none: set device to auto or cpu.")


def _finds_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def chosen() -> str:
    """The choice in the environment, one of `CHOICES`.

    Raises:
        UserError: it is none of them.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise UserError(f'{VARIABLE} is "{choice}", which is not known here.{did_you_mean(choice, CHOICES)}')
    return choice


def gpus() -> list[str]:
    """GPUs that a step may use, by UUID if nvidia-smi knows it; none if torch has no CUDA or the CPU is chosen."""
    import torch

    if chosen() == "cpu" or not torch.backends.cuda.is_built():
        return []
    uuids = _uuids()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return list(uuids.values())
    # On a cluster, an index may mean another GPU in every job; a UUID does not.
    return [uuids.get(name, name) for name in map(str.strip, allowed.split(",")) if name not in ("", "-1")]


def _uuids() -> dict[str, str]:
    """Index -> UUID of the GPUs of this machine, without initialising CUDA."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = [line.split(",") for line in answer.stdout.splitlines() if answer.returncode == 0 and "," in line]
    return {index.strip(): uuid.strip() for index, uuid in lines}


def hold_one(names: list[str]) -> str:
    """Lock the first free GPU until this process ends, and return its name; waits while other processes hold all."""
    waiting = False
    while True:
        for name in names:
            if _lock(name):
                return name
        if not waiting:
            print(f"waiting for a GPU: other processes hold {', '.join(names)}", flush=True)
        waiting = True
        time.sleep(POLL)


def _lock(name: str) -> bool:
    path = LOCKS / f"ken-benchmark-{re.sub('[^A-Za-z0-9-]', '_', name)}.lock"
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.fchmod(file, 0o644)  # whatever the umask: other users must be able to open it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _held.append(file)
    return True
