"""The training text of a language model, for methods that need data."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from baselines.training import Fitted, Training, TrainingHooks
from study.models.language_models import load_language_model
from study.training.chunks import Chunks


class Calibration(Training):
    """Chunks of the training text of a language model; nothing is trained.

    Args:
        folder: checkpoint folder.
        chunks: of the training text.
        indices: of the chunks to use, in this order.
    """

    learning_rate_multipliers = ()

    def __init__(self, folder: Path, chunks: Chunks, indices: list[int]):
        self.folder, self.chunks, self.indices = folder, chunks, indices

    def initial_model(self) -> nn.Module:
        return load_language_model(self.folder)

    def fit(self, model: nn.Module, hooks: TrainingHooks, learning_rate_multiplier: float) -> Fitted:
        raise NotImplementedError("methods that train need a task with labels: remove the method.")

    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        for indices in self.chunks.batches(self.indices, batch_size):
            yield self.chunks.batch(indices)


def calibration_indices(chunks: Chunks, number: int, seed: int) -> list[int]:
    """Indices of `number` chunks drawn without replacement, or of all chunks if there are fewer."""
    return torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed))[:number].tolist()
