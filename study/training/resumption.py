"""The state of a training on disk; a stopped training resumes from it and ends with the same bits.

It is one safetensors file, without pickle. The metadata hold a JSON record, a hash of tensors and record, and a hash of
everything that the training depends on. A file that is damaged or belongs to another training is not used.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ken.files import replacing
from study.running import files

Tensors = Mapping[str, torch.Tensor]


class Checkpoint:
    """Where the state of one training is saved, and how often.

    Args:
        folder: for this training alone. No rule may declare it as output, or Snakemake would delete it before a rerun.
        minutes: between two saves, 0 for every step; by default STUDY_CHECKPOINT_MINUTES from the environment, or 10.

    Attributes:
        seconds_before: time that earlier processes have spent on the resumed training.
    """

    def __init__(self, folder: Path, minutes: float | None = None):
        self.path = folder / "state.safetensors"
        self.minutes = float(os.environ.get("STUDY_CHECKPOINT_MINUTES", 10)) if minutes is None else minutes
        self.start = self.written = time.monotonic()
        self.seconds_before = 0.0

    @classmethod
    def beside(cls, out: Path) -> "Checkpoint":
        """Checkpoint in a folder beside `out`, the folder that a step writes when the training has ended."""
        return cls(out.with_name(f"{out.name}.training"))

    def seconds(self) -> float:
        """Time spent on the training so far, by this process and earlier ones."""
        return self.seconds_before + time.monotonic() - self.start

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.written >= 60 * self.minutes

    def write(self, identity: str, tensors: Tensors, record: dict) -> None:
        """Replace the file atomically; if that fails, print why and leave the file as it was.

        Args:
            identity: hash of everything that the training depends on.
            tensors: must not share memory.
            record: anything that JSON can hold.
        """
        text = json.dumps({"identity": identity, "seconds": self.seconds(), "record": record}, sort_keys=True)
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        metadata = {"state": text, "sha256": digest(tensors, text)}
        try:
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, metadata)
        except (OSError, SafetensorError) as error:  # such as a full disk, which should not end the training
            print(f"the state of the training could not be written, continuing without it: {error}", flush=True)
        self.written = time.monotonic()

    def read(self, identity: str) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Read tensors (on the CPU) and record of the training with this identity; None if there is no such file."""
        files.remove_leftovers(self.path.parent)
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = json.loads(metadata["state"])
                if state["identity"] != identity:
                    print(f"{self.path} belongs to other settings, data or code: starting over", flush=True)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            print(f"{self.path} is damaged ({error}): starting over", flush=True)
            return None
        if digest(tensors, metadata["state"]) != metadata.get("sha256"):
            print(f"{self.path} was changed after it was written: starting over", flush=True)
            return None
        self.seconds_before = state["seconds"]
        return tensors, state["record"]

    def remove(self) -> None:
        """Delete the folder, once the training has ended and its result is written."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


def digest(tensors: Tensors, *others: str | bytes) -> str:
    """SHA-256 over names, types, shapes and values of tensors, and over texts or bytes."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy())
    for other in others:
        data = other.encode() if isinstance(other, str) else other
        hashed.update(f"{len(data)}\n".encode())
        hashed.update(data)
    return hashed.hexdigest()
