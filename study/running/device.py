"""The device that a step computes on: a GPU, or a part of one, that no other step uses, or the CPU without a GPU.

A step locks its GPU (`study.running.locks`), so no two jobs use the same one, even if they belong to different runs or
users. If the config's `jobs_per_gpu` is larger than 1, jobs that say how much memory they need share a GPU: each holds
some eighths of it, and may take no more of its memory than that.
"""

import contextlib
import functools
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ken.errors import UserError, did_you_mean
from study.running import locks
from study.running.locks import PARTS

if TYPE_CHECKING:  # torch is slow to import, and not every importer of this module needs it
    import torch

VARIABLE = "STUDY_DEVICE"  # overrides the config's `device`
CHOICES = ("auto", "cpu", "cuda")
JOBS = "STUDY_JOBS_PER_GPU"  # overrides the config's `jobs_per_gpu`
GIB = 2**30
FINETUNING, MASKED_TRAINING, COMPRESSION = 5, 6, 5  # models in float32 that a GPU holds; see `Needs`
HELD = 37 / 4  # models beside a GPU: `baselines.estimates.HELD_BYTES`, whose import is slow
WORKING, CONTEXT = 4.5 * GIB, 0.7 * GIB  # bytes on a GPU for a batch and blocks of rows; of a CUDA context
DEVICES = Path("/dev")
CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # control groups of this process, and of all


@dataclass(frozen=True)
class Needs:
    """Bytes of memory that a job needs at most, on the GPU and beside it."""

    gpu: float
    beside: float

    @classmethod
    def of_model(cls, dense_bytes: float, held: int) -> "Needs":
        """Needs of a job that trains or compresses a model of so many bytes in float32.

        In training, a GPU holds weights, gradients, two moments, a step of the optimiser and, for methods that train,
        the weights that a method resets to; in compression, the model, a choice over all its entries, and copies of
        these. Beside it are the states of the cell, ranks, masks, and a file.

        Args:
            held: `FINETUNING`, `MASKED_TRAINING` or `COMPRESSION`.
        """
        return cls(held * dense_bytes + WORKING, HELD * dense_bytes + GIB)

    @classmethod
    def of_checkpoint(cls, path: Path, held: int) -> "Needs":
        """The same from a checkpoint folder or a safetensors file."""
        from ken.sources import Checkpoint  # imports torch

        return cls.of_model(4 * sum(spec.size for spec in Checkpoint(path).specs.values()), held)

    def parts(self, jobs: int, gpu_bytes: float, bytes_beside: float) -> int:
        """How many of the `PARTS` of a GPU such a job takes, all if there is too little memory or one job at a time."""
        share = max(self.gpu / gpu_bytes, self.beside / bytes_beside)
        return min(PARTS, max(PARTS // jobs, math.ceil(PARTS * share)))


@functools.cache
def acquire_device(needs: Needs | None = None) -> "torch.device":
    """Lock a GPU for this process until it ends, and return the device to compute on; the same one in later calls
    with the same needs.

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
        wanted = parts_of(needs, names)
        name = locks.hold_one(wanted)
        parts = wanted[name]
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed for bitwise repeatable matrix products
    if chosen() != "cpu" and torch.cuda.is_available():
        if parts < PARTS:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(parts / PARTS - CONTEXT / total)
        return torch.device("cuda")
    check_available()
    return torch.device("cpu")


def parts_of(needs: Needs | None, names: Iterable[str]) -> dict[str, int]:
    """GPU -> parts of it that a job takes; all of a GPU whose memory is unknown."""
    if needs is None or (jobs := jobs_per_gpu()) == 1:
        return dict.fromkeys(names, PARTS)
    gpu_bytes = {card.uuid: card.bytes for card in _cards() if card.bytes}
    beside = memory_beside() / number_of_gpus()
    return {name: needs.parts(jobs, gpu_bytes[name], beside) if name in gpu_bytes else PARTS for name in names}


def number_of_gpus() -> int:
    """GPUs of this machine, at least 1; they share its memory and cores, also with runs that do not see all of them."""
    return max(1, len(_cards()))


def memory_beside() -> int:
    """Bytes of memory beside the GPUs: of this machine, or less if a container or SLURM allows less."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    """Limits in bytes of the control groups (version 2 or 1) of this process, and of the groups that hold them."""
    for line in CGROUP.read_text().splitlines() if CGROUP.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):  # in a container, only the last may exist
            with contextlib.suppress(OSError):
                if (limit := (root / folder / name).read_text().strip()).isdigit():  # else "max"
                    yield int(limit)


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
    """GPUs that a step may use, by UUID if nvidia-smi tells it; none if torch has no CUDA or the CPU is chosen."""
    import torch

    if chosen() == "cpu" or not torch.backends.cuda.is_built():
        return []
    cards = _cards()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [card.uuid for card in cards]
    # On a cluster, an index may mean another GPU in every job; a UUID does not.
    return [_full_name(name, cards) for name in map(str.strip, allowed.split(",")) if name not in ("", "-1")]


@dataclass(frozen=True)
class _Card:
    """A GPU of this machine; bytes: its memory, None if unknown or divided among devices (MIG)."""

    index: str
    uuid: str
    bytes: int | None


def _full_name(name: str, cards: list[_Card]) -> str:
    """UUID of the GPU with an index or a UUID, which CUDA allows to abbreviate; other names, as of MIG, unchanged."""
    named = [card.uuid for card in cards if name == card.index or card.uuid.startswith(name)]
    return named[0] if len(named) == 1 else name


def _cards() -> list[_Card]:
    """The GPUs of this machine, without initialising CUDA; only their indices if nvidia-smi does not answer."""
    if shutil.which("nvidia-smi") is not None:
        fields = "--query-gpu=index,uuid,memory.total,mig.mode.current"
        query = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        lines = [line.split(",") for line in answer.stdout.splitlines() if answer.returncode == 0]
        if cards := [_card(*map(str.strip, line)) for line in lines if len(line) == 4]:
            return cards
    return [_Card(str(index), str(index), None) for index in range(len([*DEVICES.glob("nvidia[0-9]*")]))]


def _card(index: str, uuid: str, mebibytes: str, mig: str) -> _Card:
    known = mebibytes.isdigit() and mig != "Enabled"  # else "[N/A]" or "[Not Supported]"
    return _Card(index, uuid, int(mebibytes) * 2**20 if known else None)
