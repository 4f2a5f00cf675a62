"""The two ends of every curve: the whole fine-tuned model, and the pre-trained body under the trained head."""

from pathlib import Path

import torch

import ken
from baselines.base import Cell, StoredSubnetwork, register


class Control(StoredSubnetwork):
    """Keeps all of the body, or nothing of it; the head is kept either way."""

    def __init__(self, name: str, keeps: bool):
        self.name, self.keeps, self.budgets = name, keeps, (float(keeps),)

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> int:
        masks = {name: torch.full(tensor.shape, self.keeps) for name, tensor in cell.pretrained.items()}
        subnetwork = ken.Subnetwork.from_masks(cell.pretrained, cell.finetuned, masks, method=self.name)
        subnetwork.save(path)
        return subnetwork.kept_body


register(Control("full", keeps=True))
register(Control("none", keeps=False))
