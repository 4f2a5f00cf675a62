"""The two ends of every curve: the whole fine-tuned model, and the pre-trained body under the trained head."""

from pathlib import Path

import torch

from baselines.base import Cell, Stored, StoredSubnetwork, register


class Control(StoredSubnetwork):
    """Keeps all of the body, or nothing of it; the head is kept either way."""

    family = "control"

    def __init__(self, name: str, keeps: bool):
        self.name, self.keeps, self.budgets = name, keeps, (float(keeps),)

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        masks = {name: torch.full(tensor.shape, self.keeps) for name, tensor in cell.pretrained.items()}
        return self.save_kept(path, cell.pretrained, cell.finetuned, masks, budget)


register(Control("full", keeps=True))
register(Control("none", keeps=False))
