"""Tensors of a safetensors file: its header is read once, its data in blocks of rows."""

import json
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ken.errors import disk_sentence
from ken.files import MAY_NOT_READ, starts_with
from ken.tensors import DTYPES, TensorSpec

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class StoredTensors:
    """What a safetensors file holds.

    The library's own reader parses the header each time a file is opened, which takes as long as reading a block where
    a file has thousands of tensors. Here it only validates the file.

    Attributes:
        path: the file.
        specs: name -> dtype and shape, in the order of the library.

    Raises:
        ValueError: the file is missing, unreadable, truncated, of another format, or holds a dtype that is not read.
    """

    def __init__(self, path: Path):
        self.path = path
        described, self._start = _read_header(path)
        self.specs: dict[str, TensorSpec] = {}
        self._offsets: dict[str, int] = {}
        for name, one in described.items():
            dtype = one["dtype"]
            if dtype not in DTYPES:
                raise ValueError(
                    f"tensor {name!r} of {path} is of {dtype}, expected one of {', '.join(DTYPES)}: cast it."
                )
            self.specs[name] = TensorSpec(DTYPES[dtype], tuple(one["shape"]))
            self._offsets[name] = one["data_offsets"][0]

    def rows(self, name: str, block: slice) -> torch.Tensor:
        """A range of the rows (r, n) of a tensor."""
        spec = self.specs[name]
        (r, n), width = spec.row_shape, spec.dtype.itemsize
        start, stop, _ = block.indices(r)
        data = bytearray(max(0, stop - start) * n * width)
        if not data:
            return torch.empty(max(0, stop - start), n, dtype=spec.dtype)
        with open(self.path, "rb") as file:
            file.seek(self._start + self._offsets[name] + start * n * width)
            if file.readinto(data) != len(data):
                raise ValueError(f"{self.path} was cut off while it was read: fetch it again.")
        return torch.frombuffer(data, dtype=spec.dtype).reshape(stop - start, n)


def _read_header(path: Path) -> tuple[dict[str, dict], int]:
    """Tensor -> dtype, shape and offsets, and the byte at which the data begins."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            with safe_open(path, framework="pt") as opened:  # refuses what is damaged or not of the format
                names = opened.keys()
            described = json.loads(file.read(length))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: fetch the checkpoint again.") from None
    except PermissionError:
        raise ValueError(f"{path} {MAY_NOT_READ}") from None
    except (SafetensorError, OSError, ValueError) as error:
        reason = disk_sentence(error) or _other_format(path)
        raise ValueError(reason or f"{path} is truncated or no safetensors file ({error}): fetch it again.") from None
    return {name: described[name] for name in names}, 8 + length


def _other_format(path: Path) -> str | None:
    """What to do with a file of a format that is not read; None for any other file."""
    if not path.is_file():
        return None
    if path.suffix == ".gguf" or starts_with(path, b"GGUF"):
        return (
            f"{path} is a GGUF file, which is not read: give the safetensors checkpoint that it was made from "
            "(transformers can load it with gguf_file=, then save_pretrained writes one)."
        )
    if path.suffix in _PICKLES or starts_with(path, b"\x80", b"PK\x03\x04"):
        return (
            f"{path} is a pickle, which is not read since loading it may run code: load it where you trust it and "
            "write the model with save_pretrained, or its state dict with safetensors.torch.save_file."
        )
    if starts_with(path, b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its repository."
    return None
