"""Format 1 of a sub-network file: kept values as they are, and their positions.

The parts are `values.<dtype>`, all stored entries of a dtype in sequence; `positions`, the coded positions of all
tensors, block by block (`ken.positions`); and `table`, a list of the tensors as compressed JSON.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ken import positions
from ken.storage.container import Container, ContainerWriter
from ken.tensors import DTYPE_NAMES, DTYPES, TensorSpec, bytes_of, indices_of

FORMAT = "ken-subnetwork-1"
SETTINGS = ("method", "k", "rule", "scope", "base")


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


class Writer(ContainerWriter):
    """Writes a file whole or not at all, from tensors that are added block by block.

    Raises:
        OSError: as `ContainerWriter`.
        ValueError: a tensor has a dtype that the file cannot hold.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self.add("positions", b"")
        self.table: list[list] = []

    def add_block(self, name: str, spec: TensorSpec, mask: torch.Tensor, values: torch.Tensor) -> None:
        """Add the next block of a body tensor: bool mask (rows, n) on the CPU, kept entries in row-major order."""
        if not self.table or self.table[-1][0] != name:
            self.table.append([name, dtype_name(name, spec), list(spec.shape), []])
        coded = positions.encode(mask.reshape(-1).numpy())
        self.table[-1][3].append([coded.coding, values.numel(), coded.low_bits, len(coded.data)])
        self.add("positions", coded.data)
        self._add_values(spec, values)

    def add_whole(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor that is stored in full."""
        spec = TensorSpec.of(tensor)
        self.table.append([name, dtype_name(name, spec), list(spec.shape), None])
        self._add_values(spec, tensor)

    def finish(self, settings: dict, aliases: dict[str, str], config: dict | None) -> None:
        """Write the file: values of `SETTINGS`, tied names, the model's config.json if there is one."""
        table = json.dumps({"tensors": self.table, "aliases": aliases, "config": config}, separators=(",", ":"))
        self.add("table", zlib.compress(table.encode(), 9))
        values = [f"values.{name}" for name in DTYPES if f"values.{name}" in self.parts]
        self.write({"format": FORMAT, **settings}, [*values, "positions", "table"])

    def _add_values(self, spec: TensorSpec, values: torch.Tensor) -> None:
        self.add(f"values.{DTYPE_NAMES[spec.dtype]}", bytes_of(values))


def dtype_name(name: str, spec: TensorSpec) -> str:
    """Name of a dtype in the file; a ValueError where it has none."""
    if spec.dtype not in DTYPE_NAMES:
        raise ValueError(f"tensor {name!r} is of {spec.dtype}, which a sub-network file cannot hold: cast it.")
    return DTYPE_NAMES[spec.dtype]


class Reader(Container):
    """A file written by `Writer`, read block by block.

    Attributes:
        settings: values of `SETTINGS`.
        tensors: name -> `StoredTensor`, in the order of writing.
        body: body tensor -> dtype and shape; the other tensors are stored whole.
        aliases: name -> name of the tensor it is tied to.
        config: the model's config.json, or None.

    Raises:
        ValueError: as `Container`.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        header = self.header
        self.settings = {name: header[name] for name in SETTINGS}
        self.versions = {"torch": header["torch"]}
        with self.open() as file:
            table = json.loads(zlib.decompress(self.read(file, "table")))
        self.aliases: dict[str, str] = table["aliases"]
        self.config: dict | None = table["config"]
        self.tensors = _stored_tensors(table["tensors"])
        self.body = {name: stored.spec for name, stored in self.tensors.items() if stored.blocks is not None}

    def blocks(self, name: str) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Blocks of a body tensor: rows, bool mask (rows, n), kept entries in row-major order."""
        stored = self.tensors[name]
        value, byte = stored.first_value, stored.first_byte
        with self.open() as file:
            for block, (coding, kept, low_bits, length) in zip(stored.spec.blocks(), stored.blocks, strict=True):
                coded = positions.Coded(coding, low_bits, self.read(file, "positions", byte, length))
                shape = (block.stop - block.start, stored.spec.row_shape[1])
                mask = torch.from_numpy(positions.decode(coded, shape[0] * shape[1], kept)).reshape(shape)
                yield block, mask, self._values(file, stored.spec, value, kept)
                value, byte = value + kept, byte + length

    def restored(self, name: str, base: Callable[[slice], torch.Tensor]) -> Iterator[torch.Tensor]:
        """Rows of the compressed tensor, block by block, from a function that reads the rows of the base anew."""
        for block, mask, values in self.blocks(name):
            rows = base(block).contiguous()
            rows.view(-1).scatter_(0, indices_of(mask), values)
            yield rows

    def whole(self, name: str) -> torch.Tensor:
        """A tensor stored in full."""
        stored = self.tensors[name]
        with self.open() as file:
            return self._values(file, stored.spec, stored.first_value, stored.spec.size).reshape(stored.spec.shape)

    @property
    def coding(self) -> dict:
        """The coding of values and positions, as in a file of format 2."""
        return {"values": "32bit", "positions": "stored", "seed": 0}

    def sizes(self) -> dict[str, int]:
        """Bytes by what they hold: positions, values of the body, head, and the table with the header."""
        sizes = dict.fromkeys(("positions", "values", "head"), 0)
        for stored in self.tensors.values():
            sizes["head" if stored.blocks is None else "values"] += stored.kept * stored.spec.dtype.itemsize
            sizes["positions"] += sum(block[3] for block in stored.blocks or ())
        return sizes | {"table": self.path.stat().st_size - sum(sizes.values())}

    def _values(self, file: BinaryIO, spec: TensorSpec, start: int, count: int) -> torch.Tensor:
        width = spec.dtype.itemsize
        data = self.read(file, f"values.{DTYPE_NAMES[spec.dtype]}", start * width, count * width)
        return torch.from_numpy(np.frombuffer(data, np.uint8)).view(spec.dtype)


def _stored_tensors(table: list[list]) -> dict[str, StoredTensor]:
    values, byte, stored = dict.fromkeys(DTYPES, 0), 0, {}
    for name, dtype, shape, blocks in table:
        spec = TensorSpec(DTYPES[dtype], tuple(shape))
        stored[name] = StoredTensor(spec, None if blocks is None else [tuple(b) for b in blocks], values[dtype], byte)
        values[dtype] += stored[name].kept
        byte += sum(block[3] for block in blocks or ())
    return stored
