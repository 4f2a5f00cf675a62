"""A base whose vocabulary was extended before fine-tuning: new rows count as zeros in it, and are always kept."""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch

from ken.sources import Source
from ken.tensors import TensorSpec, as_rows

_EMBEDDINGS = re.compile(r"embed|wte|(^|\.)shared\.")


class Extended(Source):
    """A source that some tensors of which end in rows of zeros.

    Attributes:
        inner: the source without them.
        notes: what a user should know.
    """

    def __init__(self, inner: Source, specs: Mapping[str, TensorSpec]):
        self.inner, self.extended = inner, dict(specs)
        self.label, self.aliases, self.buffers = inner.label, inner.aliases, inner.buffers
        self.folder, self.files = inner.folder, inner.files
        self.specs = inner.specs | self.extended
        rows = {(inner.specs[name].shape[0], spec.shape[0]) for name, spec in specs.items()}
        self.notes = [
            f"the vocabulary was extended from {old:,} to {new:,} rows; the new rows are kept like a head"
            for old, new in sorted(rows)
        ]

    @property
    def extra_entries(self) -> int:
        """Entries beyond the inner source."""
        return sum(spec.size - self.inner.specs[name].size for name, spec in self.extended.items())

    @property
    def model_type(self) -> str | None:
        return self.inner.model_type

    def config(self) -> dict | None:
        return self.inner.config()

    def rows(self, name: str, block: slice) -> torch.Tensor:
        if name not in self.extended:
            return self.inner.rows(name, block)
        spec, inner = self.extended[name], self.inner.specs[name]
        result = torch.zeros(block.stop - block.start, spec.row_shape[1], dtype=spec.dtype)
        if len(spec.shape) == 1:
            result[:, : inner.size] = self.inner.rows(name, block)
        elif block.start < inner.shape[0]:
            stop = min(block.stop, inner.shape[0])
            result[: stop - block.start] = self.inner.rows(name, slice(block.start, stop))
        return result

    def added(self, name: str, block: slice) -> torch.Tensor | None:
        """Which entries of a range of rows are beyond the inner source, bool; None: none of the tensor."""
        if name not in self.extended:
            return None
        spec, old = self.extended[name], self.inner.specs[name].shape[0]
        indices = torch.arange(spec.shape[0])
        if len(spec.shape) == 1:
            return as_rows(indices >= old)[block]
        return (indices >= old)[block, None].expand(-1, spec.row_shape[1])


def extended(base: Source, wanted: Mapping[str, TensorSpec]) -> Source:
    """The base with the rows of wanted specs, where those differ by an extended vocabulary; otherwise the base itself.

    A vocabulary is extended where a matrix of embeddings has more rows than in the base. Then everything that had as
    many rows as it, such as a tied output layer and its bias, may have the new number.

    Args:
        base: the source.
        wanted: name in the base -> spec in the fine-tuned model.
    """
    longer = {name: spec for name, spec in wanted.items() if _is_longer(base.specs[name], spec)}
    vocabularies = {
        (base.specs[name].shape[0], spec.shape[0])
        for name, spec in longer.items()
        if _EMBEDDINGS.search(name) and len(spec.shape) == 2
    }
    specs = {
        name: replace(spec, dtype=base.specs[name].dtype)
        for name, spec in longer.items()
        if (base.specs[name].shape[0], spec.shape[0]) in vocabularies
    }
    return Extended(base, specs) if specs else base


def hint_on_new_rows(counts: Mapping[str, tuple[int, int]]) -> str:
    """What to do with a live model whose vocabulary was extended, for a sub-network that keeps whole embeddings.

    Its file cannot say which of its rows are new, because it keeps all of them.

    Args:
        counts: body tensor -> (kept entries, all entries).
    """
    if any(kept == entries and _EMBEDDINGS.search(name) for name, (kept, entries) in counts.items()):
        return " If its vocabulary was extended, fill the new rows of the model with zeros first."
    return ""


def _is_longer(old: TensorSpec, new: TensorSpec) -> bool:
    same = len(old.shape) == len(new.shape) and old.shape[1:] == new.shape[1:]
    floating = old.dtype.is_floating_point and new.dtype.is_floating_point
    return same and floating and len(new.shape) in (1, 2) and new.shape[0] > old.shape[0]
