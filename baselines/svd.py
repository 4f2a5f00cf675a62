"""Truncated singular value decomposition of the update of every matrix, with one rank or with ranks for a file size."""

from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, register
from baselines.estimates import FLOAT32_BYTES, Effort, ModelShapes
from baselines.lora import with_adapter
from baselines.matrix_updates import (
    HALF_BYTES,
    EncodedTensor,
    MatrixUpdates,
    changed_rows,
    encode_halves,
    encode_others,
    matrix_shapes,
    other_bytes,
)
from baselines.packed_files import Parts, load_parts
from ken.low_rank import Spectrum, half_factors, has_fewer, spectrum

FLOAT64_BYTES = 8


class Spectral(MatrixUpdates):
    """A method that works on the singular vectors of Δ."""

    def prepare_matrix(self, update: torch.Tensor) -> Spectrum:
        return spectrum(update)

    def memory_bytes(self, shapes: ModelShapes) -> float:
        """Also the Gram matrix and eigenvectors of the largest matrix, and the singular vectors of all."""
        sides = [min(shape) for shape in matrix_shapes(shapes)]
        work = 4 * FLOAT64_BYTES * max(sides, default=0) ** 2
        return super().memory_bytes(shapes) + work + FLOAT32_BYTES * sum(side**2 for side in sides)

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort(
            flops=sum(2 * rows * n * min(rows, n) + 10 * min(rows, n) ** 3 for rows, n in matrix_shapes(shapes))
        )


class LowRank(Spectral):
    """W0 + U V with U (rows, rank) and V (rank, n), from the truncated singular value decomposition of Δ.

    The factors are stored in float16. The largest entry of each column of U and of each row of V is 1; one float32
    scale a rank holds their sizes. If the factors would have no fewer entries than the matrix, Δ itself is stored in
    16 bits.
    """

    form = "merged"

    def encode(self, update: torch.Tensor, budget: float | int, prepared: Spectrum) -> EncodedTensor:
        rank, (rows, n) = int(budget), update.shape
        if rank == 0:
            return EncodedTensor({}, 0)
        if not has_fewer(rows, n, rank):
            return EncodedTensor(encode_halves(update), update.numel())
        left, right, scales = half_factors(update, rank, prepared)
        return EncodedTensor({"left": left, "right": right, "scales": scales}, left.numel() + right.numel())

    def decode(self, parts: Parts, rows: int, n: int) -> torch.Tensor:
        return (parts["left"].float() * parts["scales"]) @ parts["right"].float()

    def unmerged_adapter(self, model: nn.Module, cell: Cell, path: Path) -> nn.Module | None:
        """The initial `model` with the factors of its linear layers next to their weights; all other updates merged."""
        stored = load_parts(path)
        layers = [layer for layer in cell.linear_layers if "left" in stored.get(f"{layer}.weight", {})]
        if not layers:
            return None
        state = self.restore(cell.pretrained, path)
        tensors = {name: tensor for name, tensor in state.items() if name not in cell.pretrained}
        for layer in layers:
            name = f"{layer}.weight"
            state[name], parts = cell.pretrained[name], stored[name]
            tensors[f"{layer}.lora_A.weight"] = parts["right"].float()
            tensors[f"{layer}.lora_B.weight"] = _all_rows(
                parts["left"].float() * parts["scales"], parts, len(state[name])
            )
        model.load_state_dict(state)
        return with_adapter(model, tensors)

    def matrix_bytes(self, rows: int, n: int, budget: float | int) -> float:
        rank = min(int(budget), rows, n)
        return rank_bytes(rows, n) * rank if has_fewer(rows, n, rank) else HALF_BYTES * rows * n + FLOAT32_BYTES


class Svd(LowRank):
    """The same rank for every matrix."""

    name = "svd"
    budgets = (1, 4, 16)
    unit = "rank"


class AllocatedSvd(LowRank):
    """Ranks chosen for a size of the whole file, as a share of the dense model's bytes.

    The largest singular values of all matrices together are stored, as long as their vectors fit. Vectors and head come
    first: a budget below their size gives a file of that size.
    """

    name = "svd-allocated"
    budgets = (0.02, 0.05, 0.1)
    unit = "bytes"

    def matrix_budgets(self, cell: Cell, prepared: dict[str, Spectrum], budget: float | int) -> dict[str, int]:
        left = budget * sum(tensor.nbytes for tensor in cell.finetuned.values())
        left -= sum(coded.bytes for coded in encode_others(cell).values())
        shapes, values = {}, {}
        for name, update, changed in self.updates(cell):
            left -= 0 if changed.all() else len(changed) / 8
            rows, n = shapes[name] = (int(changed.sum()), update.shape[1])
            values[name] = prepared[name].values[: (rows * n - 1) // (rows + n)]
        return allocate(values, {name: rank_bytes(*shape) for name, shape in shapes.items()}, left)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        most = other_bytes(shapes) + HALF_BYTES * sum(rows * n for rows, n in matrix_shapes(shapes))
        return min(max(budget * shapes.dense_bytes, other_bytes(shapes)), most)


def allocate(values: dict[str, torch.Tensor], costs: dict[str, int], budget: float) -> dict[str, int]:
    """How many of the singular values of each matrix belong to the largest that a budget in bytes can hold.

    Args:
        values: name of a matrix -> its singular values, largest first.
        costs: name of a matrix -> bytes of a rank.
    """
    ranks = dict.fromkeys(values, 0)
    every = [(-value, name) for name, of_matrix in values.items() for value in of_matrix.tolist() if value]
    for _, name in sorted(every):
        if costs[name] <= budget:
            ranks[name] += 1
            budget -= costs[name]
    return ranks


def rank_bytes(rows: int, n: int) -> int:
    """Bytes of a column of U, a row of V and their scale."""
    return HALF_BYTES * (rows + n) + FLOAT32_BYTES


def _all_rows(left: torch.Tensor, parts: Parts, rows: int) -> torch.Tensor:
    """A left factor with zeros for the rows that did not change."""
    if "rows" not in parts:
        return left
    every = torch.zeros(rows, left.shape[1])
    every[changed_rows(parts, rows)] = left
    return every


register(Svd())
register(AllocatedSvd())
