"""The two controls: the whole fine-tuned model, and the pre-trained body with the fine-tuned head."""

from pathlib import Path

import torch

from baselines.base import Cell, Stored, StoredSubnetwork, register
from baselines.estimates import FLOAT32_BYTES, Effort, ModelShapes


class Control(StoredSubnetwork):
    """Keeps all of the body or none of it, and always the head."""

    family = "control"

    def __init__(self, name: str, keeps: bool):
        self.name, self.keeps, self.budgets = name, keeps, (float(keeps),)

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        masks = {name: torch.full(tensor.shape, self.keeps) for name, tensor in cell.pretrained.items()}
        return self.save_kept(path, cell.pretrained, cell.finetuned, masks, budget)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.dense_bytes if self.keeps else FLOAT32_BYTES * shapes.head

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort()


register(Control("full", keeps=True))
register(Control("none", keeps=False))
