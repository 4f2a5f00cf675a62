"""The device that a step computes on: a GPU, or a part of one, that no other step uses, or the CPU without a GPU.

A step locks its GPU with locks of the operating system, which are released however the process ends. So no two jobs use
the same GPU, even if they belong to different runs or users. If the config's `jobs_per_gpu` is larger than 1, jobs that
say how much memory they need share a GPU: each holds some eighths of it, and may take no more of its memory than that.
"""

import contextlib
import fcntl
import functools
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ken.errors import UserError, did_you_mean

if TYPE_CHECKING:  # torch is slow to import, and not every importer of this module needs it
    import torch

VARIABLE = "STUDY_DEVICE"  # overrides the config's `device`
CHOICES = ("auto", "cpu", "cuda")
JOBS = "STUDY_JOBS_PER_GPU"  # overrides the config's `jobs_per_gpu`
PARTS = 8  # of a GPU
LOCKS = Path("/tmp")
POLL = 5.0  # seconds between attempts to lock a GPU
GIB = 2**30
HELD = 37 / 4  # models beside a GPU: `baselines.estimates.HELD_BYTES`, whose import is slow
WORKING, CONTEXT = 4.5 * GIB, 0.7 * GIB  # bytes on a GPU for a batch and blocks of rows; of a CUDA context

_held: list[int] = []  # open lock files: closing one would free its GPU


@dataclass(frozen=True)
class Needs:
    """Bytes of memory that a job needs at most, on the GPU and beside it."""

    gpu: float
    beside: float

    @classmethod
    def of_model(cls, dense_bytes: float, trains: bool) -> "Needs":
        """Needs of a job that trains or compresses a model of so many bytes in float32.

        In training, a GPU holds weights, gradients, two moments, the weights of the best epoch, and those a method
        resets to; in compression, the model, a choice over all its entries, and a copy of these. Beside it are the
        states of the cell, ranks, masks, and a file.
        """
        return cls((7 if trains else 5) * dense_bytes + WORKING, HELD * dense_bytes + GIB)

    @classmethod
    def of_checkpoint(cls, path: Path, trains: bool) -> "Needs":
        """The same from a checkpoint folder or a safetensors file."""
        from ken.sources import Checkpoint  # imports torch

        return cls.of_model(4 * sum(spec.size for spec in Checkpoint(path).specs.values()), trains)

    def parts(self, jobs: int, gpu_bytes: float, bytes_beside: float) -> int:
        """How many of the `PARTS` of a GPU such a job takes, all if there is too little memory or one job at a time."""
        share = max(1 / jobs, self.gpu / gpu_bytes, self.beside / bytes_beside)
        return min(PARTS, math.ceil(PARTS * share))


@functools.cache
def acquire_device(needs: Needs | None = None) -> "torch.device":
    """Lock a GPU for this process until it ends, and return the device to compute on; the same one in later calls.

    Waits while other processes hold all GPUs. Must be called before anything queries CUDA for its devices; no import
    does so.

    Args:
        needs: of a job that may share its GPU with others; None: it may not.

    Raises:
        UserError: the choice is unknown, or it is cuda and there is no GPU.
    """
    import torch

    parts = PARTS
    if names := gpus():
        parts = parts_of(needs, len(names))
        os.environ["CUDA_VISIBLE_DEVICES"] = hold_one(names, parts)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed for bitwise repeatable matrix products
    if chosen() != "cpu" and torch.cuda.is_available():
        if parts < PARTS:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(parts / PARTS - CONTEXT / total)
        return torch.device("cuda")
    check_available()
    return torch.device("cpu")


def parts_of(needs: Needs | None, devices: int) -> int:
    """Parts of a GPU that a job takes on this machine with so many GPUs, by the smallest of them."""
    if needs is None or jobs_per_gpu() == 1 or not (totals := _query("memory.total")):
        return PARTS
    beside = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / devices
    return needs.parts(jobs_per_gpu(), min(float(total) * 2**20 for total in totals.values()), beside)


def jobs_per_gpu() -> int:
    """Most jobs that share a GPU, in the environment; 1 without it.

    Raises:
        UserError: it is no number from 1 to `PARTS`.
    """
    jobs = os.environ.get(JOBS, "1")
    if jobs not in map(str, range(1, PARTS + 1)):
        raise UserError(f'{JOBS} is "{jobs}", expected a number from 1 to {PARTS}: correct or unset it.')
    return int(jobs)


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
    return _query("uuid")


def _query(what: str) -> dict[str, str]:
    """Index -> a property of the GPUs of this machine, in units of MiB for memory; none without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", f"--query-gpu=index,{what}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = [line.split(",") for line in answer.stdout.splitlines() if answer.returncode == 0 and "," in line]
    return {index.strip(): value.strip() for index, value in lines}


def hold_one(names: list[str], parts: int = PARTS) -> str:
    """Lock the first GPU with so many free parts until this process ends, and return its name; waits while none has."""
    waiting = False
    while True:
        for name in names:
            if _lock_parts(name, parts):
                return name
        if not waiting:
            print(f"waiting for a GPU: other processes hold {', '.join(names)}", flush=True)
        waiting = True
        time.sleep(POLL)


def _lock_parts(name: str, parts: int) -> bool:
    """Lock a GPU, or some parts of it and the rest only against jobs that need all of it. All or nothing."""
    if parts == PARTS:
        return _lock(name, fcntl.LOCK_EX)
    with _admission(name):  # one process at a time counts the free parts
        before = len(_held)
        if _lock(name, fcntl.LOCK_SH):
            for part in range(PARTS):
                if len(_held) - before <= parts:
                    _lock(f"{name}-{part}", fcntl.LOCK_EX)
            if len(_held) - before == 1 + parts:
                return True
        for file in _held[before:]:
            os.close(file)
        del _held[before:]
        return False


@contextlib.contextmanager
def _admission(name: str) -> Iterator[None]:
    file = _open(f"{name}-admission")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _lock(name: str, kind: int) -> bool:
    """Lock a GPU or a part of it, for this process (LOCK_EX) or with others (LOCK_SH), if it is free."""
    file = _open(name)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _held.append(file)
    return True


def _open(name: str) -> int:
    """The lock file of a name."""
    path = LOCKS / f"ken-benchmark-{re.sub('[^A-Za-z0-9-]', '_', name)}.lock"
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.fchmod(file, 0o644)  # whatever the umask: other users must be able to open it
        return file
