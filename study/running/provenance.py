"""Provenance of results: seeds from named axes, commit of the code, versions, machine.

The seed of every random choice is derived here from named axes (model, task, seed, …), never from the order of
execution.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from study.running import files

if TYPE_CHECKING:  # most steps need no torch
    import torch

RECORDED = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "peft",
    "evaluate",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "numpy",
    "pandas",
    "matplotlib",
    "safetensors",
    "snakemake",
)


def seed_of(*axes: object) -> int:
    """63-bit seed from named axes, e.g. ``seed_of("finetune", model, task, 0)``, the same on every machine."""
    text = "\x1f".join(str(axis) for axis in axes)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def text_hash(text: str) -> str:
    """First 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and torch, and request repeatable kernels and OMP_NUM_THREADS threads (by default one).

    Sums depend on the number of threads, so a step that is run by hand uses as many as in the workflow.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if torch.cuda.is_available():  # not needed on the CPU, and slow: it imports torch's compiler
        _repeatable_kernels()


def _repeatable_kernels() -> None:
    """Request bitwise repeatable CUDA kernels; `acquire_device` has set the variable that matrix products need."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)  # an error would stop models that have no such kernel
    torch.utils.deterministic.fill_uninitialized_memory = False  # it only guards against uninitialised memory, slowly
    # The fused attention kernels have repeatable gradients only without `warn_only`.
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def machine() -> dict[str, object]:
    """Processor, cores, memory, platform and GPU of this machine."""
    import psutil
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def device_name(device: "torch.device") -> str:
    """The GPU's name, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def commit() -> tuple[str, bool]:
    """The git commit of the code, or "unknown", and whether its files differ from it; new files do not count."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


@functools.cache
def describe_process() -> dict[str, object]:
    """What a manifest records of the process that wrote it: commit, whether files differ from it, versions, machine."""
    revision, dirty = commit()
    return {"commit": revision, "dirty": dirty, "versions": versions(), "machine": machine()}


def write_manifest(folder: Path, **facts: object) -> dict[str, object]:
    """Write and return the manifest.json of a finished folder: `facts`, hashes of the files, and `describe_process`."""
    manifest = {**facts, "sha256": files.sha256_of(folder), "made": describe_process()}
    files.write_json(folder / "manifest.json", manifest)
    return manifest
