"""Base of the methods that approximate the update of every matrix of the body and store everything else as it is."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.base import Cell, Method, Stored, Tensors
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from baselines.packed_files import Parts, load_parts, pack_bits, save_parts, unpack_bits
from ken.low_rank import add_update, halves, update_of
from ken.tensors import as_rows

HALF_BYTES = 2


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor as it is stored, and how many body parameters of it count as kept."""

    parts: Parts
    kept: int

    @property
    def bytes(self) -> int:
        """Size of the parts."""
        return sum(part.nbytes for part in self.parts.values())


class MatrixUpdates(Method):
    """W0 + an approximation of Δ for all matrices of the body, embeddings included.

    A tensor of more than two dimensions is a matrix of its rows. Of a matrix with rows that did not change, only the
    other rows are approximated; one bit a row says which. Vectors are stored as 16-bit updates, or in full if they have
    16 bits anyway. Tensors without an update take no space. The head is kept in full, and so is every tensor whose
    update is not finite. Updates are computed and added in float32.
    """

    drops_rows = True  # whether rows that did not change are left out

    def prepare_matrix(self, update: torch.Tensor) -> object:
        """Work on the update (changed rows, n) of a matrix that all budgets share."""
        return None

    def matrix_budgets(self, cell: Cell, prepared: dict[str, object], budget: float | int) -> dict[str, float | int]:
        """Name of a matrix -> its budget; by default the same for all."""
        return dict.fromkeys(prepared, budget)

    @abstractmethod
    def encode(self, update: torch.Tensor, budget: float | int, prepared: object) -> EncodedTensor:
        """The stored form of a float32 update (rows, n) that is not zero everywhere; no parts if nothing is stored."""

    @abstractmethod
    def decode(self, parts: Parts, rows: int, n: int) -> torch.Tensor:
        """The approximated update (rows, n) in float32."""

    @abstractmethod
    def matrix_bytes(self, rows: int, n: int, budget: float | int) -> float:
        """Estimated bytes of a matrix, all of whose rows changed."""

    def prepare(self, cell: Cell) -> dict[str, object]:
        return {name: self.prepare_matrix(update[changed]) for name, update, changed in self.updates(cell)}

    def updates(self, cell: Cell) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Name, update (rows, n) and bool mask (rows,) of the rows to approximate, of every matrix that changed."""
        for name, base in cell.pretrained.items():
            update = update_of(cell.finetuned[name], base) if base.ndim > 1 else None
            if update is not None and update.any():
                rows = as_rows(update)
                yield name, rows, rows.any(dim=1) if self.drops_rows else torch.ones(len(rows), dtype=torch.bool)

    def encoded(self, cell: Cell, prepared: dict[str, object], budget: float | int) -> dict[str, EncodedTensor]:
        """Name -> stored form, of every tensor that the file holds."""
        stored = encode_others(cell)
        budgets = self.matrix_budgets(cell, prepared, budget)
        for name, update, changed in self.updates(cell):
            coded = self.encode(update[changed], budgets[name], prepared[name])
            flags = {} if changed.all() or not coded.parts else {"rows": pack_bits(changed.numpy(), 1)}
            stored[name] = EncodedTensor(flags | coded.parts, coded.kept)
        return stored

    def store(self, cell: Cell, prepared: dict[str, object], budget: float | int, path: Path) -> Stored:
        stored = self.encoded(cell, prepared, budget)
        save_parts(path, {name: coded.parts for name, coded in stored.items()})
        return Stored(sum(coded.kept for name, coded in stored.items() if name in cell.pretrained))

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return self.decoded(pretrained, load_parts(path))

    def decoded(self, pretrained: Tensors, stored: dict[str, Parts]) -> Tensors:
        """The state of the compressed model, from the parts of every tensor in the file."""
        state = {name: tensor.clone() for name, tensor in pretrained.items()}
        for name, parts in stored.items():
            if "whole" in parts:
                state[name] = parts["whole"]
            else:
                state[name] = add_update(pretrained[name], self.update(parts, pretrained[name]))
        return state

    def update(self, parts: Parts, base: torch.Tensor) -> torch.Tensor:
        """The stored update of a tensor as rows (r, n) in float32."""
        update = torch.zeros(as_rows(base).shape)
        changed = changed_rows(parts, len(update))
        rows, n = int(changed.sum()), update.shape[1]
        update[changed] = decode_halves(parts).view(rows, n) if "halves" in parts else self.decode(parts, rows, n)
        return update

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return other_bytes(shapes) + sum(self.matrix_bytes(rows, n, budget) for rows, n in matrix_shapes(shapes))


def changed_rows(parts: Parts, rows: int) -> torch.Tensor:
    """Bool mask of the rows whose update is stored."""
    if "rows" not in parts:
        return torch.ones(rows, dtype=torch.bool)
    return torch.from_numpy(unpack_bits(parts["rows"], 1, rows).astype(bool))


def encode_others(cell: Cell) -> dict[str, EncodedTensor]:
    """The stored forms of the head and of the tensors of the body that are no matrices or have no finite update."""
    others = {}
    for name, tensor in cell.finetuned.items():
        base = cell.pretrained.get(name)
        update = None if base is None else update_of(tensor, base)
        if update is None or (base.ndim < 2 and base.element_size() <= HALF_BYTES):
            others[name] = EncodedTensor({"whole": tensor}, tensor.numel())
        elif base.ndim < 2 and update.any():
            others[name] = EncodedTensor(encode_halves(update), tensor.numel())
    return others


def encode_halves(update: torch.Tensor) -> Parts:
    """An update in float16, in units of its largest entry, so that no small one underflows; not zero everywhere."""
    values, unit = halves(update)
    return {"halves": values, "unit": unit}


def decode_halves(parts: Parts) -> torch.Tensor:
    """The update of `encode_halves` in float32."""
    return parts["halves"].float() * parts["unit"]


def matrix_shapes(shapes: ModelShapes) -> list[tuple[int, int]]:
    """(rows, n) of every matrix of the body."""
    return [(shape[0], math.prod(shape[1:])) for shape in shapes.body.values() if len(shape) > 1]


def other_bytes(shapes: ModelShapes) -> int:
    """Estimated bytes of vectors and head."""
    vectors = [math.prod(shape) for shape in shapes.body.values() if len(shape) < 2]
    return FLOAT32_BYTES * (shapes.head + len(vectors)) + HALF_BYTES * sum(vectors)
