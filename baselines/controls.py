"""Controls: the whole fine-tuned model, the pre-trained body with the fine-tuned head, and a shrunk update."""

from pathlib import Path

import torch

from baselines.base import Cell, Stored, StoredSubnetwork, register
from baselines.estimates import FLOAT32_BYTES, Effort, ModelShapes
from ken.low_rank import add_update, update_of
from ken.selection import as_rows, kept_count


class Control(StoredSubnetwork):
    """Keeps all of the body or none of it, and always the head."""

    family = "control"

    def __init__(self, name: str, keeps: bool):
        self.name, self.keeps, self.budgets = name, keeps, (float(keeps),)

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        masks = {name: torch.full(tensor.shape, self.keeps) for name, tensor in cell.pretrained.items()}
        return self.save_kept(path, cell.base, cell.finetuned, masks, budget)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.dense_bytes if self.keeps else FLOAT32_BYTES * shapes.head

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort()


class Shrink(StoredSubnetwork):
    """W0 + (k / n) Δ for every entry of a row of n: the mean of resetting all but k of its entries at random.

    Nothing is chosen, and every entry is stored. A selection that scores the same owes nothing to its choice.
    """

    name = "shrink"
    family = "control"

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        values = dict(cell.finetuned)
        for name, base in cell.pretrained.items():
            if base.numel() and (update := update_of(cell.finetuned[name], base)) is not None:
                n = as_rows(base).shape[1]
                values[name] = add_update(base, kept_count(n, budget) / n * update)
        masks = {name: torch.ones(base.shape, dtype=torch.bool) for name, base in cell.pretrained.items()}
        return self.save_kept(path, cell.base, values, masks, budget)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.dense_bytes

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort()


register(Control("full", keeps=True))
register(Control("none", keeps=False))
register(Shrink())
