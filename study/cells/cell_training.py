"""The fine-tuning of one cell, for methods that train."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from baselines.training import Fitted, Training, TrainingHooks
from study.models.classifiers import empty_classifier
from study.training import metrics
from study.training.classification import train_classifier
from study.training.examples import Examples, data_order_seed, predict
from study.training.gradients import CPU
from study.training.precision import evaluation_precision


class CellTraining(Training):
    """Trains with the settings, the data and the data order that the cell was fine-tuned with.

    Args:
        folder: of the fine-tuned cell.
        initial: initial state of the cell.
        manifest: of its fine-tuning.
        splits: split -> examples; train and validation are used.
        learning_rate_multipliers: learning rates to try, as multiples of the fine-tuning's.
        device: to train on; the fitted model is moved to the CPU.
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
        self.order = data_order_seed(manifest)

    def initial_model(self) -> nn.Module:
        model = empty_classifier(self.folder)
        model.load_state_dict(self.initial)
        return model.to(self.device)

    def fit(self, model: nn.Module, hooks: TrainingHooks, learning_rate_multiplier: float) -> Fitted:
        rate = self.settings["learning_rate"] * learning_rate_multiplier
        print(f"learning rate {rate:g}", flush=True)
        sets, settings = (self.splits["train"], self.splits["validation"]), self.settings | {"learning_rate": rate}
        best, record = train_classifier(model, *sets, settings, self.order, hooks)
        return Fitted(best.eval().cpu(), rate, record["validation_weighted_f1"], record.get("diverged", ""))

    def validation_score(self, model: nn.Module) -> float:
        validation = self.splits["validation"]
        wanted = self.settings.get("evaluation_precision", "float32")
        precision = evaluation_precision(wanted, model.config.model_type)
        predictions = predict(model, validation, self.settings["evaluation_batch_size"], precision)
        return metrics.scores(validation.labels, predictions)["weighted_f1"]

    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        train_set = self.splits["train"]
        for start in range(0, len(train_set), batch_size):
            batch = train_set.batch(list(range(start, min(start + batch_size, len(train_set)))))
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}
