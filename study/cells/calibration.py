"""The training text of a language model, for methods that need data."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from baselines.training import Fitted, Training, TrainingHooks
from study.models.classifiers import load_tokenizer
from study.models.language_models import load_language_model
from study.running import provenance
from study.training.chunks import Chunks, read_chunks

TRAINS = "methods that train need a task with labels."


class Calibration(Training):
    """Chunks of the training text of a language model; nothing is trained.

    Args:
        folder: checkpoint folder.
        chunks: of the training text.
        indices: of the chunks to use, in this order.
    """

    learning_rate_multipliers = ()
    labelled = False

    def __init__(self, folder: Path, chunks: Chunks, indices: list[int]):
        self.folder, self.chunks, self.indices = folder, chunks, indices

    def initial_model(self) -> nn.Module:
        return load_language_model(self.folder)

    def fit(self, model: nn.Module, hooks: TrainingHooks, learning_rate_multiplier: float) -> Fitted:
        raise NotImplementedError(TRAINS)

    def validation_score(self, model: nn.Module) -> float:
        raise NotImplementedError("the text of a language model has no labels")

    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        for indices in self.chunks.batches(self.indices, batch_size):
            yield self.chunks.batch(indices)


def load_text(
    checkpoint: Path, text: Path, max_length: int, seed: int, number: int | None = None
) -> tuple[Calibration, Chunks]:
    """Load the calibration text and the held-out text of a language model.

    Args:
        checkpoint: folder of the model. text: folder of `study.text`.
        seed: of the study, from which the order of the calibration text is derived.
        number: chunks of calibration, drawn without replacement from the training text; by default all.
    """
    tokenizer = load_tokenizer(checkpoint, max_length)
    train, test = (read_chunks(text, split, tokenizer, max_length) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(provenance.seed_of("calibration", seed))
    indices = torch.randperm(len(train), generator=generator)[:number].tolist()
    return Calibration(checkpoint, train, indices), test
