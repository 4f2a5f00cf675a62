"""Format 2 of a sub-network file: updates in few bits (docs/format.md).

The parts are `blocks`, the bytes of all coded blocks and whole integer tensors in sequence, and `table`, a list of the
tensors as compressed JSON.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch

from ken import positions
from ken.coding import seeded
from ken.coding.blocks import POSITIONS, CodedBlock, TensorCoding, decode
from ken.coding.coder import WHOLE_ROWS, code_whole
from ken.coding.levels import BITS
from ken.storage.container import Container, ContainerWriter
from ken.storage.exact import SETTINGS, dtype_name
from ken.tensors import DTYPES, TensorSpec, bytes_of

FORMAT = "ken-subnetwork-2"
MOST_INFLATED = 1032
"""A byte of DEFLATE holds at most so many."""
BODY, HEAD, RAW = "body", "head", "raw"
"""Kinds of tensors: updates of the base, values in levels, and bytes as they are."""
LARGEST = torch.finfo(torch.float32).max / 2
"""A larger value, such as one of a mask, could become infinite when its level is multiplied by the scale."""


@dataclass(frozen=True)
class Record:
    """A block in the file.

    Attributes:
        number: of the block in its tensor.
        block: its bytes are empty; their lengths are in `lengths`, in the order rows, mask, scales, levels.
        start: first byte in the part `blocks`.
    """

    number: int
    coding: TensorCoding
    block: CodedBlock
    lengths: tuple[int, int, int, int]
    start: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the file: its kind, and its records or, of a raw one, its first byte and number of bytes."""

    spec: TensorSpec
    kind: str
    records: list[Record]
    raw: tuple[int, int] = (0, 0)

    @property
    def kept(self) -> int:
        """Stored entries."""
        return self.spec.size if self.kind != BODY else sum(record.block.kept for record in self.records)


class CodedWriter(ContainerWriter):
    """Writes a file whole or not at all, from tensors that are added block by block.

    Raises:
        OSError: as `ContainerWriter`.
        ValueError: a tensor has a dtype that the file cannot hold.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self.add("blocks", b"")
        self.table: list[list] = []
        self.codings: dict[TensorCoding, int] = {}

    def add_block(self, name: str, spec: TensorSpec, number: int, coding: TensorCoding, block: CodedBlock) -> None:
        """Add a block of a body tensor; all blocks of a tensor come before the next tensor."""
        self._add(name, spec, BODY, number, coding, block)

    def add_whole(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor that is stored in full: a floating one in 16 bits, another as it is."""
        spec = TensorSpec.of(tensor)
        if tensor.is_floating_point() and (tensor.abs() < LARGEST).all():
            self._add(name, spec, HEAD, 0, *code_whole(tensor))
            return
        data = zlib.compress(bytes_of(tensor), 9)
        self.table.append([name, dtype_name(name, spec), list(spec.shape), RAW, len(data)])
        self.add("blocks", data)

    def finish(self, settings: dict, aliases: dict[str, str], config: dict | None) -> None:
        """Write the file: `SETTINGS`, the coding, tied names, and the config.json of the model or None."""
        codings = [astuple(coding) for coding in self.codings]
        contents = {"codings": codings, "tensors": self.table, "aliases": aliases, "config": config}
        self.add("table", zlib.compress(json.dumps(contents, separators=(",", ":")).encode(), 9))
        self.write({"format": FORMAT, **settings}, ["blocks", "table"])

    def _add(
        self, name: str, spec: TensorSpec, kind: str, number: int, coding: TensorCoding, block: CodedBlock
    ) -> None:
        if not self.table or self.table[-1][0] != name:
            self.table.append([name, dtype_name(name, spec), list(spec.shape), kind, []])
        index = self.codings.setdefault(coding, len(self.codings))
        rows, mask = block.rows, block.mask
        self.table[-1][4].append(
            [number, index, block.changed, block.kept, block.check, rows.coding, rows.low_bits, len(rows.data),
             mask.coding, mask.low_bits, len(mask.data), len(block.scales), len(block.levels)]
        )  # fmt: skip
        for data in (rows.data, mask.data, block.scales, block.levels):
            self.add("blocks", data)


class CodedReader(Container):
    """A file written by `CodedWriter`, read block by block.

    Attributes:
        settings: values of `SETTINGS`; coding: values, positions and seed.
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
        try:
            self.settings = {name: self.header[name] for name in SETTINGS}
            self.coding = {name: self.header[name] for name in ("values", "positions", "seed")}
            self.versions = {"torch": self.header["torch"]}
            with self.open() as file:
                table = json.loads(zlib.decompress(self.read(file, "table")))
            self.aliases: dict[str, str] = table["aliases"]
            self.config: dict | None = table["config"]
            self.tensors = _stored_tensors(table)
            first, last = self._offsets["blocks"]
            valid = _is_valid(table, last - first) and isinstance(self.settings["base"], str)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, zlib.error):
            valid = False
        if not valid:
            raise ValueError(f"{path} has a table that does not follow docs/format.md: write it again.")
        self.body = {name: stored.spec for name, stored in self.tensors.items() if stored.kind == BODY}

    def updates(self, name: str, block: int, base: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Flat indices and float32 updates of the kept entries of a block of rows, given its pre-trained values.

        Raises:
            ValueError: the bytes hold no such block, or positions derived from the base differ.
        """
        stored = self.tensors[name]
        height = next(stored.spec.blocks()).stop
        for record in stored.records:
            if record.number == block:
                try:
                    key = seeded.key_of(self.coding["seed"], name)
                    yield decode(record.coding, self._block(record), base, block * height, key)
                except ValueError as error:
                    raise ValueError(f"{self.path}, tensor {name!r}: {error}") from None

    def new_rows(self, name: str, block: int) -> torch.Tensor:
        """Numbers of the rows of a block that are beyond the vocabulary of the base, which has zeros there."""
        stored = self.tensors[name]
        others = any(record.coding != WHOLE_ROWS for record in stored.records)
        r = [rows.stop - rows.start for rows in stored.spec.blocks()][block]
        masks = [
            positions.decode(self._block(record).rows, r, record.block.changed)
            for record in stored.records
            if others and record.number == block and record.coding == WHOLE_ROWS
        ]
        return torch.from_numpy(np.flatnonzero(np.logical_or.reduce([np.zeros(r, bool), *masks])))

    def restored(self, name: str, base: Callable[[slice], torch.Tensor]) -> Iterator[torch.Tensor]:
        """Rows of the compressed tensor, block by block, from a function that reads the rows of the base anew."""
        for number, block in enumerate(self.tensors[name].spec.blocks()):
            rows = base(block).contiguous()
            for indices, updates in self.updates(name, number, rows):
                flat = rows.view(-1)
                flat[indices] = (flat[indices].float() + updates).to(rows.dtype)
            yield rows

    def whole(self, name: str) -> torch.Tensor:
        """A tensor stored in full.

        Raises:
            ValueError: the bytes hold no such tensor.
        """
        spec = self.tensors[name].spec
        try:
            return self._whole(self.tensors[name]).reshape(spec.shape)
        except (ValueError, RuntimeError, zlib.error) as error:
            raise ValueError(f"{self.path}, tensor {name!r} is damaged ({error}): write it again.") from None

    def _whole(self, stored: StoredTensor) -> torch.Tensor:
        if stored.kind == RAW:
            with self.open() as file:
                data = self.read(file, "blocks", *stored.raw)
            data = zlib.decompressobj().decompress(data, stored.spec.bytes + 1)
            return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)).view(stored.spec.dtype)
        zeros = torch.zeros(stored.spec.row_shape)
        (record,) = stored.records
        _, values = decode(record.coding, self._block(record), zeros, 0, 0)
        return values.to(stored.spec.dtype)

    def sizes(self) -> dict[str, int]:
        """Bytes by what they hold: positions, scales, levels of the body, head, and the table with the header."""
        sizes: Counter[str] = Counter()
        for stored in self.tensors.values():
            for record in stored.records:
                rows, mask, scales, levels = record.lengths
                if stored.kind == BODY:
                    sizes.update(rows=rows, positions=mask, scales=scales, values=levels)
                else:
                    sizes["head"] += sum(record.lengths)
            sizes["head"] += stored.raw[1]
        sizes["table"] = self.path.stat().st_size - sum(sizes.values())
        return dict(sizes)

    def _block(self, record: Record) -> CodedBlock:
        with self.open() as file:
            data = bytes(self.read(file, "blocks", record.start, sum(record.lengths)))
        ends = list(accumulate(record.lengths, initial=0))
        rows, mask, scales, levels = (data[a:b] for a, b in pairwise(ends))
        block = record.block
        return CodedBlock(
            block.changed, block.kept, positions.Coded(block.rows.coding, block.rows.low_bits, rows),
            positions.Coded(block.mask.coding, block.mask.low_bits, mask), scales, levels, block.check,
        )  # fmt: skip


def _is_valid(table: dict, size: int) -> bool:
    """Whether a table follows docs/format.md, which files of other writers may not; `size`: bytes of the blocks."""
    codings = all(
        bits in BITS and kind in ("all", *POSITIONS) and _are_counts(bits, k, group)
        for bits, kind, k, group in table["codings"]
    )
    aliases = all(name in (row[0] for row in table["tensors"]) for name in table["aliases"].values())
    total = 0
    for name, _, shape, kind, contents in table["tensors"]:
        if not (isinstance(name, str) and _are_counts(*shape) and kind in (BODY, HEAD, RAW)):
            return False
        spec = TensorSpec(torch.float32, tuple(shape))
        if kind == HEAD and (len(contents) != 1 or spec.size > MOST_INFLATED * (1 + contents[0][12])):
            return False  # before memory is taken for a size that the file cannot hold
        for record in [] if kind == RAW else contents:
            numbers, n = [item for at, item in enumerate(record) if at not in (5, 8)], spec.row_shape[1]
            if not (len(numbers) == 11 and _are_counts(*numbers) and max(record[6], record[9]) < 63):
                return False
            _, positions_of, k, _ = table["codings"][record[1]]
            if positions_of in ("seed", "base") and not 1 <= k <= n:
                return False
            total += record[7] + record[10] + record[11] + record[12]
        total += contents if kind == RAW else 0
    return codings and aliases and total == size and isinstance(table["config"], dict | None)


def _are_counts(*items: object) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items)


def _stored_tensors(table: dict) -> dict[str, StoredTensor]:
    codings = [TensorCoding(*values) for values in table["codings"]]
    stored, start = {}, 0
    for name, dtype, shape, kind, contents in table["tensors"]:
        spec = TensorSpec(DTYPES[dtype], tuple(shape))
        if kind == RAW:
            stored[name] = StoredTensor(spec, kind, [], (start, contents))
            start += contents
            continue
        records = []
        for number, index, changed, kept, check, *rest in contents:
            rows, mask, lengths = rest[:3], rest[3:6], (rest[2], rest[5], *rest[6:])
            coded = [positions.Coded(coding, low, b"") for coding, low, _ in (rows, mask)]
            block = CodedBlock(changed, kept, *coded, b"", b"", check)
            records.append(Record(number, codings[index], block, lengths, start))
            start += sum(lengths)
        stored[name] = StoredTensor(spec, kind, records)
    return stored
