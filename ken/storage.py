"""The file of a sub-network: a safetensors container with a few large parts, to keep its overhead small.

The parts are `values.<dtype>`, all stored entries of a dtype in sequence; `positions`, the coded positions of all
tensors, block by block (`ken.positions`); and `table`, a list of the tensors as compressed JSON. The metadata has one
key, `ken`, with the settings and a checksum of everything. Parts are written and read block by block, never as a whole.
"""

import hashlib
import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ken import positions, tensors
from ken.files import MAY_NOT_READ, replacing
from ken.tensors import DTYPE_NAMES, DTYPES, TensorSpec, bytes_of

FORMAT = "ken-subnetwork-1"
SETTINGS = ("method", "k", "rule", "scope", "base")
_SPOOL = 2**24  # bytes of a growing part that are kept in memory


@dataclass(frozen=True)
class StoredTensor:
    """Location of the parts of a tensor in the file.

    Attributes:
        spec: dtype and shape.
        blocks: of a body tensor, for each of `spec.blocks()`: coding, kept entries, low bits and bytes of the
            positions; None for a tensor that is stored whole.
        first_value: index of its first entry in the values of its dtype.
        first_byte: index of its first byte in the positions.
    """

    spec: TensorSpec
    blocks: list[tuple[str, int, int, int]] | None
    first_value: int
    first_byte: int

    @property
    def kept(self) -> int:
        """Stored entries."""
        return self.spec.size if self.blocks is None else sum(block[1] for block in self.blocks)


class _Part:
    """A growing part of the file: in memory while small, then in an unnamed temporary file in the same folder."""

    def __init__(self, folder: Path):
        self.file = tempfile.SpooledTemporaryFile(_SPOOL, dir=folder)  # noqa: SIM115
        self.digest, self.size = hashlib.sha256(), 0

    def add(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)


class Writer:
    """Writes a file whole or not at all, from tensors that are added block by block.

    It is a context manager. Without `finish`, no file remains.

    Raises:
        OSError: the folder does not exist or cannot be written, or the path is a folder.
        ValueError: a tensor has a dtype that the file cannot hold.
    """

    def __init__(self, path: Path):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder of {path} does not exist: make it first.")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a file in it.")
        self.path = path
        self.parts: dict[str, _Part] = {"positions": _Part(path.parent)}
        self.table: list[list] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            part.file.close()

    def add_block(self, name: str, spec: TensorSpec, mask: torch.Tensor, values: torch.Tensor) -> None:
        """Add the next block of a body tensor: bool mask (rows, n) on the CPU, kept entries in row-major order."""
        if not self.table or self.table[-1][0] != name:
            self.table.append([name, _dtype_name(name, spec), list(spec.shape), []])
        coded = positions.encode(mask.reshape(-1).numpy())
        self.table[-1][3].append([coded.coding, values.numel(), coded.low_bits, len(coded.data)])
        self.parts["positions"].add(coded.data)
        self._add_values(spec, values)

    def add_whole(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor that is stored in full."""
        spec = TensorSpec.of(tensor)
        self.table.append([name, _dtype_name(name, spec), list(spec.shape), None])
        self._add_values(spec, tensor)

    def finish(self, settings: dict, aliases: dict[str, str], config: dict | None) -> None:
        """Write the file: values of `SETTINGS`, tied names, the model's config.json if there is one."""
        table = json.dumps({"tensors": self.table, "aliases": aliases, "config": config}, separators=(",", ":"))
        self.parts["table"] = _Part(self.path.parent)
        self.parts["table"].add(zlib.compress(table.encode(), 9))
        values = [f"values.{name}" for name in DTYPES if f"values.{name}" in self.parts]
        parts = {name: self.parts[name] for name in (*values, "positions", "table")}
        header = {"format": FORMAT, "torch": torch.__version__, "block": tensors.BLOCK, **settings}
        described = _described(parts)
        header["checksum"] = _checksum(header, described, [part.digest.hexdigest() for part in parts.values()])
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(framed({"__metadata__": {"ken": json.dumps(header)}, **described}))
            for part in parts.values():
                part.file.seek(0)
                shutil.copyfileobj(part.file, file, _SPOOL)

    def _add_values(self, spec: TensorSpec, values: torch.Tensor) -> None:
        part = f"values.{DTYPE_NAMES[spec.dtype]}"
        if part not in self.parts:
            self.parts[part] = _Part(self.path.parent)
        self.parts[part].add(bytes_of(values))


def _dtype_name(name: str, spec: TensorSpec) -> str:
    if spec.dtype not in DTYPE_NAMES:
        raise ValueError(f"tensor {name!r} is of {spec.dtype}, which a sub-network file cannot hold: cast it.")
    return DTYPE_NAMES[spec.dtype]


def _described(parts: dict[str, _Part]) -> dict[str, dict]:
    """Dtype, shape and offsets of every part, as in the header of a safetensors file."""
    described: dict[str, dict] = {}
    start = 0
    for name, part in parts.items():
        dtype = name.partition(".")[2] or "U8"
        shape = [part.size // DTYPES[dtype].itemsize]
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + part.size]}
        start += part.size
    return described


def framed(described: dict) -> bytes:
    """The beginning of a safetensors file: length of the header, and the header, padded to a multiple of 8 bytes."""
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _checksum(header: dict, described: dict, digests: list[str]) -> str:
    # Half of the hash is enough to detect damage and keeps the header of small files short.
    return hashlib.sha256(json.dumps([header, described, digests], sort_keys=True).encode()).hexdigest()[:32]


class Reader:
    """A file written by `Writer`, read block by block; the whole file is checked against its checksum first.

    Attributes:
        settings: values of `SETTINGS`.
        tensors: name -> `StoredTensor`, in the order of writing.
        body: body tensor -> dtype and shape; the other tensors are stored whole.
        aliases: name -> name of the tensor it is tied to.
        config: the model's config.json, or None.

    Raises:
        ValueError: the file is truncated, altered, or not a sub-network.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path):
        self.path = path
        header, described, start = _read_header(path)
        offsets = {name: [start + offset for offset in part["data_offsets"]] for name, part in described.items()}
        self._offsets: dict[str, list[int]] = dict(sorted(offsets.items(), key=lambda item: item[1]))
        expected = header.pop("checksum", None)
        if _checksum(header, described, [self._digest(name) for name in self._offsets]) != expected:
            raise ValueError(f"{path} was altered after it was written (its checksum differs): write it again.")
        if header["block"] != tensors.BLOCK:
            raise ValueError(
                f"{path} has blocks of {header['block']} entries, expected {tensors.BLOCK}: write it again."
            )
        self.settings = {name: header[name] for name in SETTINGS}
        self.versions = {"torch": header["torch"]}
        with open(path, "rb") as file:
            table = json.loads(zlib.decompress(self._bytes(file, "table", 0, None)))
        self.aliases: dict[str, str] = table["aliases"]
        self.config: dict | None = table["config"]
        self.tensors = _stored_tensors(table["tensors"])
        self.body = {name: stored.spec for name, stored in self.tensors.items() if stored.blocks is not None}

    def blocks(self, name: str) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Blocks of a body tensor: rows, bool mask (rows, n), kept entries in row-major order."""
        stored = self.tensors[name]
        value, byte = stored.first_value, stored.first_byte
        with open(self.path, "rb") as file:
            for block, (coding, kept, low_bits, length) in zip(stored.spec.blocks(), stored.blocks, strict=True):
                coded = positions.Coded(coding, low_bits, self._bytes(file, "positions", byte, length))
                shape = (block.stop - block.start, stored.spec.row_shape[1])
                mask = torch.from_numpy(positions.decode(coded, shape[0] * shape[1], kept)).reshape(shape)
                yield block, mask, self._values(file, stored.spec, value, kept)
                value, byte = value + kept, byte + length

    def whole(self, name: str) -> torch.Tensor:
        """A tensor stored in full."""
        stored = self.tensors[name]
        with open(self.path, "rb") as file:
            return self._values(file, stored.spec, stored.first_value, stored.spec.size).reshape(stored.spec.shape)

    def _values(self, file: BinaryIO, spec: TensorSpec, start: int, count: int) -> torch.Tensor:
        width = spec.dtype.itemsize
        data = self._bytes(file, f"values.{DTYPE_NAMES[spec.dtype]}", start * width, count * width)
        return torch.from_numpy(np.frombuffer(data, np.uint8)).view(spec.dtype)

    def _bytes(self, file: BinaryIO, part: str, start: int, length: int | None) -> bytearray:
        first, last = self._offsets[part]
        data = bytearray(last - first if length is None else length)
        file.seek(first + start)
        if len(data) and file.readinto(data) != len(data):
            raise ValueError(f"{self.path} was cut off while it was read: write it again.")
        return data

    def _digest(self, part: str) -> str:
        first, last = self._offsets[part]
        digest, left = hashlib.sha256(), last - first
        with open(self.path, "rb") as file:
            file.seek(first)
            while left and (data := file.read(min(left, _SPOOL))):
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()


def is_subnetwork(path: Path) -> bool:
    """Whether a file is a sub-network, by its header."""
    try:
        _read_header(path)
    except (ValueError, OSError):
        return False
    return True


def is_weights(path: Path) -> bool:
    """Whether a file is a safetensors file, by its header, and not a sub-network."""
    try:
        with safe_open(path, framework="pt"):
            return not is_subnetwork(path)
    except (SafetensorError, OSError):
        return False


def _read_header(path: Path) -> tuple[dict, dict[str, dict], int]:
    """The header in the metadata, the description of the parts, and the byte at which their data begins."""
    if path.is_dir():
        near = sorted(file.name for file in path.glob("*.ken.safetensors"))
        raise ValueError(
            f"{path} is a folder, expected a file that `ken prune` has written"
            f"{f', such as {path / near[0]}' if near else ''}: name the file."
        )
    try:
        with open(path, "rb"):
            pass  # safetensors does not tell a file that may not be read from none at all
    except PermissionError:
        raise ValueError(f"{path} {MAY_NOT_READ}") from None
    try:
        with safe_open(path, framework="pt") as file:  # refuses what is damaged or not of the format
            header = json.loads((file.metadata() or {}).get("ken", "{}"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}): write it again.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a sub-network of format {FORMAT}: expected a file written by Subnetwork.save.")
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        described = json.loads(file.read(length))
    del described["__metadata__"]
    return header, described, 8 + length


def _stored_tensors(table: list[list]) -> dict[str, StoredTensor]:
    values, byte, stored = dict.fromkeys(DTYPES, 0), 0, {}
    for name, dtype, shape, blocks in table:
        spec = TensorSpec(DTYPES[dtype], tuple(shape))
        stored[name] = StoredTensor(spec, None if blocks is None else [tuple(b) for b in blocks], values[dtype], byte)
        values[dtype] += stored[name].kept
        byte += sum(block[3] for block in blocks or ())
    return stored
