"""Estimates of what a method stores and computes, from the shapes of a model."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ken import extraction
from ken.coding.blocks import GROUP
from ken.coding.coder import Coding
from ken.selection import kept_count

FLOAT32_BYTES = 4
FILE_OVERHEAD = 1.02  # file size of a sub-network, relative to its values and indices (benchmarks.file_size)
HELD_BYTES = 37  # a parameter: initial, fine-tuned and live model; a sort of all entries; a file and its mask

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelShapes:
    """Shapes of a classifier.

    Attributes:
        body: name -> shape of every tensor from the checkpoint.
        head: number of entries of the new classification head.
        linear: name -> (outputs, inputs) of the linear layers of the body.
    """

    body: dict[str, Shape]
    head: int
    linear: dict[str, tuple[int, int]]

    @property
    def body_entries(self) -> int:
        """Entries of the body."""
        return count_entries(self.body)

    @property
    def linear_entries(self) -> int:
        """Entries of the weights of the linear layers."""
        return count_entries(self.linear)

    def in_scope(self, scope: str) -> dict[str, Shape]:
        """Name -> shape of the tensors of a scope of `baselines.base.SCOPES`.

        Embeddings are here the matrices that belong neither to a linear layer nor to a numbered one.
        """
        linear = {f"{layer}.weight" for layer in self.linear}
        if scope == "linear":
            return {name: shape for name, shape in self.body.items() if name in linear}
        if scope == "embeddings":
            others = {name: shape for name, shape in self.body.items() if len(shape) > 1 and name not in linear}
            return {name: shape for name, shape in others.items() if not extraction.in_scope(name, "layers")}
        return {name: shape for name, shape in self.body.items() if extraction.in_scope(name, scope)}

    @property
    def parameters(self) -> int:
        """Entries of body and head."""
        return self.body_entries + self.head

    @property
    def dense_bytes(self) -> int:
        """Bytes of the whole model in float32."""
        return FLOAT32_BYTES * self.parameters


@dataclass(frozen=True)
class Effort:
    """Computation in one draw of a method, besides training, storing, loading and evaluating its files.

    Attributes:
        ranked: entries that are ranked once for all budgets.
        chosen: entries that are chosen from without a ranking on a CPU, the sum over all budgets.
        gridded: entries that the points of a grid take, on the device of the cell (`ken.grid`), likewise.
        gradient_texts: training texts whose gradients are taken, one text at a time.
        validations: evaluations of a model on the validation texts.
        flops: further floating-point operations, in float32 or float64.
    """

    ranked: int = 0
    chosen: int = 0
    gridded: int = 0
    gradient_texts: int = 0
    validations: int = 0
    flops: float = 0.0


def count_entries(shapes: Mapping[str, Shape]) -> int:
    """Entries of all tensors together."""
    return sum(map(math.prod, shapes.values()))


def row_lengths(shapes: Mapping[str, Shape]) -> Counter[int]:
    """Length of a row -> number of such rows."""
    counts: Counter[int] = Counter()
    for shape in shapes.values():
        rows, n = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        counts[n] += rows
    return counts


def kept_bytes(shapes: Mapping[str, Shape], budget: float | int, width: int = FLOAT32_BYTES) -> float:
    """Bytes of a file with k entries of each row: `width` bytes a value, log2 C(n, k) bits a row for the indices."""
    rows = row_lengths(shapes)
    kept = {n: kept_count(n, budget) for n in rows if n}
    return FILE_OVERHEAD * sum(rows[n] * (k * width + choice_bits(n, k) / 8) for n, k in kept.items())


def coded_bytes(shapes: ModelShapes, budget: float | int, coding: Coding) -> float:
    """Bytes of a file of a coding with k entries of each row.

    Levels of 3 bits and more take less in Huffman codes, and rows that did not change nothing: this is an upper bound.
    """
    if coding.exact:
        return FLOAT32_BYTES * shapes.head + kept_bytes(shapes.body, budget)
    matrices = {name: shape for name, shape in shapes.body.items() if len(shape) > 1}
    total = FLOAT32_BYTES / 2 * shapes.head + shapes.body_entries - count_entries(matrices)
    for n, rows in row_lengths(matrices).items():
        k = kept_count(n, budget)
        stored = choice_bits(n, k) if coding.positions == "stored" else 0
        total += rows * (k * coding.bits + stored + 16 * k / max(k, GROUP)) / 8
    return total


def choice_bits(n: int, k: int) -> float:
    """log2 C(n, k): bits that identify a choice of k entries out of n."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
