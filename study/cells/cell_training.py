"""Fine-tuning of one cell, offered to the methods that train."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from baselines.training import Fitted, Recipe, Training
from study.finetune import data_order
from study.models.classifiers import empty_classifier
from study.training.examples import Examples
from study.training.gradients import CPU
from study.training.loop import train


class CellTraining(Training):
    """Trains with the settings, the data and the data order that the cell was fine-tuned with.

    Args:
        folder: of the fine-tuned cell. initial: its initial state. manifest: of its fine-tuning.
        splits: split -> examples; train and validation are used.
        learning_rate_multipliers: learning rates to try, in units of the fine-tuning's.
        device: to train on; what is fitted comes back to the CPU.
    """

    def __init__(
        self,
        folder: Path,
        initial: dict,
        manifest: dict,
        splits: dict[str, Examples],
        learning_rate_multipliers: tuple[float, ...],
        device: torch.device = CPU,
    ):
        self.folder, self.initial, self.splits, self.device = folder, initial, splits, device
        self.settings, self.learning_rate_multipliers = manifest["settings"], learning_rate_multipliers
        self.order = data_order(manifest)

    def initial_model(self) -> nn.Module:
        model = empty_classifier(self.folder)
        model.load_state_dict(self.initial)
        return model.to(self.device)

    def fit(self, model: nn.Module, recipe: Recipe, learning_rate_multiplier: float) -> Fitted:
        rate = self.settings["learning_rate"] * learning_rate_multiplier
        print(f"learning rate {rate:g}", flush=True)
        settings = self.settings | {"learning_rate": rate}
        best, record = train(model, self.splits["train"], self.splits["validation"], settings, self.order, recipe)
        return Fitted(best.eval().cpu(), rate, record["validation_weighted_f1"])

    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        found = self.splits["train"]
        for start in range(0, len(found), batch_size):
            batch = found.batch(list(range(start, min(start + batch_size, len(found)))))
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}
