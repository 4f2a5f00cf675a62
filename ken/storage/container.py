"""A safetensors container with a few large parts, a header of its own in the metadata, and a checksum of everything.

Parts are written and read piece by piece, never as a whole.
"""

import hashlib
import io
import json
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from ken import tensors
from ken.files import MAY_NOT_READ, replacing
from ken.tensors import DTYPES

FORMATS = ("ken-subnetwork-1", "ken-subnetwork-2")
_SPOOL = 2**24  # bytes of a growing part that are kept in memory
_BUFFER = 2**20  # bytes that are copied or hashed at once; more leave the cache of a core


class _Part:
    """A growing part of the file: in memory while small, then in an unnamed temporary file in the same folder."""

    def __init__(self, folder: Path):
        self.file = tempfile.SpooledTemporaryFile(_SPOOL, dir=folder)  # noqa: SIM115
        self.digest, self.size = hashlib.sha256(), 0

    def add(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)


class ContainerWriter:
    """Writes a file whole or not at all. It is a context manager; without `write`, no file remains.

    Raises:
        OSError: the folder does not exist or cannot be written, or the path is a folder.
    """

    def __init__(self, path: Path):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder of {path} does not exist: make it first.")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a file in it.")
        self.path = path
        self.parts: dict[str, _Part] = {}

    def __enter__(self) -> "ContainerWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            part.file.close()

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append bytes to a part; "<anything>.<dtype>" names the dtype of a part, others are bytes."""
        if name not in self.parts:
            self.parts[name] = _Part(self.path.parent)
        self.parts[name].add(data)

    def write(self, header: dict, order: list[str]) -> None:
        """Write the file: its header, and the parts in this order."""
        parts = {name: self.parts[name] for name in order}
        header = {"format": header.pop("format"), "torch": torch.__version__, "block": tensors.BLOCK, **header}
        described = _described(parts)
        header["checksum"] = _checksum(header, described, [part.digest.hexdigest() for part in parts.values()])
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(framed({"__metadata__": {"ken": json.dumps(header)}, **described}))
            for part in parts.values():
                part.file.seek(0)
                shutil.copyfileobj(part.file, file, _BUFFER)


class Container:
    """A file written by `ContainerWriter`; the whole file is checked against its checksum first.

    Attributes:
        header: without the checksum.

    Raises:
        ValueError: the file is truncated, altered, or not a sub-network.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path):
        self.path, self._memory = path, None
        self.header, described, start = read_header(path)
        offsets = {name: [start + offset for offset in part["data_offsets"]] for name, part in described.items()}
        self._offsets: dict[str, list[int]] = dict(sorted(offsets.items(), key=lambda item: item[1]))
        expected = self.header.pop("checksum", None)
        if _checksum(self.header, described, [self._digest(name) for name in self._offsets]) != expected:
            raise ValueError(f"{path} was altered after it was written (its checksum differs): write it again.")
        if self.header.get("block") != tensors.BLOCK:
            raise ValueError(
                f"{path} has blocks of {self.header.get('block')} entries, expected {tensors.BLOCK}: write it again."
            )

    def load(self) -> bytes:
        """Read the whole file into memory, from which it is read from now on."""
        self._memory = self.path.read_bytes()
        return self._memory

    def open(self) -> BinaryIO:
        """The file, for `read`."""
        return open(self.path, "rb") if self._memory is None else io.BytesIO(self._memory)

    def read(self, file: BinaryIO, part: str, start: int = 0, length: int | None = None) -> bytearray:
        """Bytes of a part, by default all."""
        first, last = self._offsets[part]
        data = bytearray(last - first if length is None else length)
        file.seek(first + start)
        if len(data) and file.readinto(data) != len(data):
            raise ValueError(f"{self.path} was cut off while it was read: write it again.")
        return data

    def _digest(self, part: str) -> str:
        first, last = self._offsets[part]
        digest, left, buffer = hashlib.sha256(), last - first, memoryview(bytearray(_BUFFER))
        with self.open() as file:
            file.seek(first)
            while left and (count := file.readinto(buffer[:left])):
                digest.update(buffer[:count])
                left -= count
        return digest.hexdigest()


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


def read_header(path: Path) -> tuple[dict, dict[str, dict], int]:
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
    if not isinstance(header, dict) or header.get("format") not in FORMATS:
        raise ValueError(_unknown(path, header.get("format") if isinstance(header, dict) else None))
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        described = json.loads(file.read(length))
    del described["__metadata__"]
    return header, described, 8 + length


def _unknown(path: Path, found: object) -> str:
    newest = FORMATS[-1]
    if isinstance(found, str) and re.fullmatch(r"ken-subnetwork-\d+", found):
        return f"{path} has format {found}, newer than {newest}, the newest this version reads: install a newer ken."
    return f"{path} is not a sub-network of format {newest} or older: expected a file written by ken prune."
