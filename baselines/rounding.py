"""Unbiased rounding: every update becomes a multiple of one step a tensor, at random, so that its mean is unchanged.

Most become 0 or plus or minus one step, and the probability of the latter is proportional to |update|: DARE with one
size for all kept updates. The rule is that of QSGD for gradients (Alistarh et al. 2017, section 3.1).
"""

import dataclasses
from pathlib import Path

from baselines.base import Cell, Stored, StoredSubnetwork, register
from baselines.estimates import Effort, ModelShapes, coded_bytes
from ken import streaming
from ken.coding.coder import Coder, Coding
from ken.pairing import Pair


class Rounded(StoredSubnetwork):
    """The step of a tensor is its mean |update|, divided by the budget: the share of entries that are not 0, about."""

    name = "rounded"
    family = "rescaled"
    stochastic = True
    coding = Coding("rounded")

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        pair = Pair.opened(cell.base, cell.finetuned)
        coding = dataclasses.replace(self.coding, seed=cell.seed)
        return Stored(streaming.write(path, Coder(pair, coding, budget, "rescale", "all"), self.name).kept)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return coded_bytes(shapes, budget, Coding("2bit"))

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort(chosen=budgets * shapes.body_entries)


register(Rounded())
