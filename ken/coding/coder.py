"""The updates of a fine-tuned model in few bits, block by block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from ken.coding import seeded
from ken.coding.blocks import POSITIONS, CodedBlock, TensorCoding, chosen_columns, encode, from_levels
from ken.coding.levels import BITS, largest_level, round_unbiased, stored_scales
from ken.errors import did_you_mean
from ken.extraction import RULES, SCOPES, Chooser, check_choice, in_scope
from ken.pairing import Pair
from ken.selection import generator_of, kept_count
from ken.sources import Fingerprint
from ken.tensors import TensorSpec, as_rows, entries_at

ROUNDED = "rounded"
VALUES = ("32bit", *(f"{bits}bit" for bits in BITS), ROUNDED)
"""Names of value codings: values as they are, updates in levels of so many bits, and updates rounded without bias."""
VECTOR_BITS, WHOLE_BITS = 8, 16
"""Bits of the entries of 1-D tensors, which are all kept, and of what is stored whole."""
UNCHANGED = 0.05
"""A row whose updates are below this share of its tensor's, in root mean square, counts as unchanged (up to 4 bits)."""
SAMPLE = 4
"""Blocks of a tensor, at most, from which statistics are taken."""


@dataclass(frozen=True)
class Coding:
    """How a file holds updates.

    Attributes:
        values: one of `VALUES`. positions: one of `POSITIONS`.
        seed: of seeded positions.
    """

    values: str = "32bit"
    positions: str = "stored"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.values not in VALUES:
            raise ValueError(f"unknown values {self.values!r}: expected one of {', '.join(VALUES)}.")
        if self.positions not in POSITIONS:
            hint = did_you_mean(self.positions, POSITIONS)
            raise ValueError(f"unknown positions {self.positions!r}: expected one of {', '.join(POSITIONS)}.{hint}")
        if self.exact and self.positions != "stored":
            raise ValueError(f"positions {self.positions!r} need values of 16 bits or fewer: give --values 4bit.")
        if self.values == ROUNDED and self.positions != "stored":
            raise ValueError(
                f"rounded values are kept where they are not zero: leave out positions {self.positions!r}."
            )

    @property
    def exact(self) -> bool:
        """Whether kept values are stored as they are (format 1)."""
        return self.values == "32bit"

    @property
    def bits(self) -> int:
        """Bits of a level; of rounded ones, where a block has other levels than -1 and 1."""
        return VECTOR_BITS if self.values == ROUNDED else int(self.values.removesuffix("bit"))

    def of_tensor(self, spec: TensorSpec, k: int | float, pruned: bool) -> TensorCoding:
        """Coding of a tensor of the body; only a `pruned` one is coded in few bits."""
        n = spec.row_shape[1]
        if not pruned:
            return TensorCoding(WHOLE_BITS, "all", group=n)
        if len(spec.shape) < 2:
            return TensorCoding(max(self.bits, VECTOR_BITS), "all", group=n)
        if self.values == ROUNDED:
            return TensorCoding(self.bits, "stored")
        kept = kept_count(n, k)
        return TensorCoding.of_rows(self.bits, "all" if kept == n else self.positions, kept)


@dataclass(frozen=True)
class _Rows:
    """A block of rows of a tensor, (r, n) each; `update` is float32 and on the CPU."""

    block: slice
    finetuned: torch.Tensor
    base: torch.Tensor
    update: torch.Tensor


@dataclass(frozen=True)
class Coder:
    """Codes the tensors of a pair.

    Attributes:
        choose: which entries are kept, as in `ken.extraction`, where positions are stored.
    """

    pair: Pair
    coding: Coding
    k: int | float
    rule: str
    scope: str
    choose: Chooser | None = None

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        check_choice("scope", self.scope, SCOPES)

    def blocks(
        self, name: str, fingerprint: Fingerprint, advance: Callable[[int], object]
    ) -> Iterator[tuple[int, TensorCoding, CodedBlock]]:
        """Coded blocks of a body tensor, each with its number; rows beyond the base's vocabulary apart.

        Args:
            fingerprint: updated with the pre-trained values. advance: told the entries that are done.
        """
        spec = self.pair.spec(name)
        coding = self.coding.of_tensor(spec, self.k, in_scope(name, self.scope))
        sample = self._sample(name, coding)
        step, threshold = self._statistics(name, coding, sample.values())
        generator = generator_of(name, self.coding.seed)
        for number, block in enumerate(spec.blocks()):
            rows = sample.pop(number, None) or self._read(name, block)
            fingerprint.update(name, spec, rows.base)
            changed = _changed(rows.update, threshold)
            added = self._added_rows(name, coding, block)
            if added is not None and added.any():
                yield number, WHOLE_ROWS, _coded_rows(WHOLE_ROWS, added, rows.update)
                changed &= ~added
            if step is not None:
                yield number, *_rounded(rows.update, step, changed, generator)
            else:
                yield number, coding, self._coded(name, coding, rows, changed)
            advance(rows.update.numel())

    def _added_rows(self, name: str, coding: TensorCoding, block: slice) -> torch.Tensor | None:
        """(r,) bool: rows beyond the base's vocabulary, if they need another coding than the others."""
        added = self.pair.added(name, block)
        whole = coding.positions == "all" and coding.bits == WHOLE_BITS
        if added is None or whole or self.pair.spec(name).row_shape[0] == 1:
            return None
        return added.all(1)

    def _coded(self, name: str, coding: TensorCoding, rows: _Rows, changed: torch.Tensor) -> CodedBlock:
        """The kept updates of the changed rows, to their nearest levels."""
        if coding.positions == "all":
            return _coded_rows(coding, changed, rows.update)
        try:
            keep = self._stored if coding.positions == "stored" else self._derived
            return encode(coding, changed, *keep(name, coding, rows, changed))
        except ValueError as error:
            where = "" if str(error).startswith("tensor ") else f"tensor {name!r}: "
            raise ValueError(f"{where}{error}") from None

    def _stored(
        self, name: str, coding: TensorCoding, rows: _Rows, changed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask of the changed rows, and their kept updates (N,)."""
        mask = _chosen(self.choose(name, rows.block, rows.finetuned, rows.base).cpu(), changed)
        kept = entries_at(_chosen(rows.update, changed), mask)
        if self.rule == "rescale":
            counts = mask.sum(1)
            kept *= (mask.shape[1] / counts.clamp(min=1).float()).repeat_interleave(counts)
        return mask, kept

    def _derived(
        self, name: str, coding: TensorCoding, rows: _Rows, changed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept columns of the changed rows (r, k), from the seed or the base, and their updates (r × k,)."""
        n, numbers = rows.update.shape[1], changed.nonzero()[:, 0].numpy() + rows.block.start
        key = seeded.key_of(self.coding.seed, name)
        columns = chosen_columns(coding, key, numbers, _chosen(rows.base.cpu(), changed))
        kept = _chosen(rows.update, changed).gather(1, columns)
        if self.rule == "rescale":
            of_cells = coding.positions == "seed"
            kept *= torch.from_numpy(seeded.cells(n, coding.k)[1]) if of_cells else n / coding.k
        return columns, kept.reshape(-1)

    def _read(self, name: str, block: slice) -> _Rows:
        finetuned = self.pair.finetuned_rows(name, block)
        base = self.pair.base_rows(name, block).to(finetuned.device)
        return _Rows(block, finetuned, base, _update(name, finetuned, base))

    def _sample(self, name: str, coding: TensorCoding) -> dict[int, _Rows]:
        """Evenly spaced blocks for the statistics of a tensor, if it needs any; all of a tensor with few blocks."""
        if coding.positions == "all" or (coding.bits > 4 and self.coding.values != ROUNDED):
            return {}
        blocks = list(self.pair.spec(name).blocks())
        return {number: self._read(name, blocks[number]) for number in range(0, len(blocks), -(-len(blocks) // SAMPLE))}

    def _statistics(
        self, name: str, coding: TensorCoding, sample: Iterable[_Rows]
    ) -> tuple[torch.Tensor | None, float]:
        """The step of rounding, if there is one, and the mean square at which a row counts as changed."""
        updates = [self._of_old_entries(name, rows) for rows in sample]
        entries = max(1, sum(update.numel() for update in updates))
        if self.coding.values == ROUNDED and coding.positions == "stored":
            n = self.pair.spec(name).row_shape[1]
            share = kept_count(n, self.k) / n if n else 1.0
            mean = sum(float(torch.linalg.vector_norm(update, 1)) for update in updates) / entries
            return stored_scales(torch.tensor(mean / share), coding.bits), 0.0
        squares = sum(float(torch.linalg.vector_norm(update)) ** 2 for update in updates)
        return None, UNCHANGED**2 * squares / entries

    def _of_old_entries(self, name: str, rows: _Rows) -> torch.Tensor:
        """Updates, 0 beyond the base's vocabulary: a new row is no update."""
        added = self.pair.added(name, rows.block)
        return rows.update if added is None else rows.update.masked_fill(added, 0)


WHOLE_ROWS = TensorCoding(WHOLE_BITS, "all", group=64)


def code_whole(tensor: torch.Tensor) -> tuple[TensorCoding, CodedBlock]:
    """A floating tensor without a base, as updates of zeros."""
    rows = as_rows(tensor).float()
    coding = TensorCoding(WHOLE_BITS, "all", group=rows.shape[1])
    return coding, _coded_rows(coding, torch.ones(len(rows), dtype=torch.bool), rows)


def _coded_rows(coding: TensorCoding, rows: torch.Tensor, update: torch.Tensor) -> CodedBlock:
    return encode(coding, rows, torch.empty(0), _chosen(update, rows).reshape(-1))


def _rounded(
    update: torch.Tensor, step: torch.Tensor, changed: torch.Tensor, generator: torch.Generator
) -> tuple[TensorCoding, CodedBlock]:
    """Updates rounded without bias; what is kept is what is not zero."""
    drawn = round_unbiased(_chosen(update, changed), step, generator).clamp(
        -largest_level(VECTOR_BITS), largest_level(VECTOR_BITS)
    )
    kept = drawn != 0
    widest = int(drawn.abs().max()) if drawn.numel() else 0
    coding = TensorCoding(1 if widest <= 1 else VECTOR_BITS, "stored")
    levels = drawn[kept]
    return coding, from_levels(coding, changed, kept, levels, step.reshape(1)[: levels.numel()])


def _update(name: str, finetuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """W - W0 in float32 on the CPU.

    Raises:
        ValueError: an entry is not finite, unless it is equal in both.
    """
    update = finetuned.cpu().to(torch.float32, copy=True).sub_(base.cpu().float())
    if not update.sum().isfinite():  # faster than to look at every entry
        update[(finetuned == base).cpu()] = 0
        if not update.isfinite().all():
            count = int((~update.isfinite()).sum())
            raise ValueError(f"tensor {name!r} has {count} updates that are NaN or infinite: train again.")
    return update


def _chosen(tensor: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The chosen rows; the tensor itself if that is all."""
    return tensor if chosen.all() else tensor[chosen]


def _changed(update: torch.Tensor, threshold: float) -> torch.Tensor:
    """(r,) bool: rows with an update, and with a mean square of at least the threshold."""
    if not update.numel():
        return torch.zeros(len(update), dtype=torch.bool)
    if threshold:
        return torch.linalg.vector_norm(update, dim=1).square() >= threshold * update.shape[1]
    return torch.linalg.vector_norm(update, torch.inf, dim=1) > 0
