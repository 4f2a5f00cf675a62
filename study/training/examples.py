"""Padded batches from a task's tables, and the predictions of a model on them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ken.text import pad_batch
from study.definition.paths import SPLITS
from study.running import files, provenance
from study.training import memory
from study.training.precision import computing_in

POOL = 8  # batches that are sorted by length together: less padding, still shuffled


@dataclass(frozen=True)
class Examples:
    """Encoded rows of one split: token ids of each row, its class index, and the id and side used for padding."""

    ids: list[list[int]]
    labels: np.ndarray
    pad: int
    side: str = "right"

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> "Examples":
        """The first rows."""
        return Examples(self.ids[:count], self.labels[:count], self.pad, self.side)

    def at(self, rows: np.ndarray) -> "Examples":
        """Some of the rows."""
        return Examples([self.ids[row] for row in rows], self.labels[rows], self.pad, self.side)

    def content(self) -> list[bytes]:
        """All ids, the length of each row and all labels, which identify the set."""
        return [*id_content(self.ids), self.labels.tobytes()]

    def batch(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (rows, longest row) and labels (rows,)."""
        ids, mask = pad_batch([self.ids[row] for row in rows], self.pad, self.side)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.from_numpy(self.labels[rows])}


def id_content(ids: list[list[int]]) -> list[bytes]:
    """All token ids and the length of each row, as bytes."""
    flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64)
    return [flat.tobytes(), np.array([len(row) for row in ids]).tobytes()]


def data_order_seed(axes: dict) -> int:
    """Seed of the order of the training data of a cell with these axes: task and seed."""
    return provenance.seed_of("data order", axes["task"], axes["seed"])


def load_task(folder: Path) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Read a task folder: split -> frame with text and label, and the class names in index order.

    Raises:
        UserError: a split does not have the hash in the manifest of the task.
    """
    manifest = files.read_json(folder / "manifest.json")
    files.check(folder, {f"{split}.parquet": digest for split, digest in manifest["sha256"].items()})
    frames = {split: files.read_parquet(folder / f"{split}.parquet") for split in SPLITS}
    return frames, manifest["classes"]


def encode(frame: pd.DataFrame, classes: list[str], tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Tokenise a split, truncated to the tokenizer's `model_max_length`."""
    index = {label: i for i, label in enumerate(classes)}
    encoded = tokenizer(list(frame["text"]), truncation=True)["input_ids"]
    labels = np.array([index[label] for label in frame["label"]], dtype=np.int64)
    return Examples(encoded, labels, tokenizer.pad_token_id, tokenizer.padding_side)


def shuffled_batches(examples: Examples, batch_size: int, generator: torch.Generator) -> Iterator[dict]:
    """One epoch in random order; rows of similar length share a batch."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lambda row: len(examples.ids[row]))
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield examples.batch(batches[i])


class Predictor:
    """Predicts the classes of one set of texts with any number of models; the texts are sorted and padded once.

    The longest texts come first, so a batch that is too large for the device's memory fails at once and is halved. On a
    GPU, a first batch shows how much memory a token takes, and batches hold as many tokens as fit.

    Args:
        batch_size: texts in a batch; on a GPU, in the one that is measured.
        precision: of matrix products, see `study.training.precision`.
    """

    def __init__(self, examples: Examples, batch_size: int, precision: str = "float32"):
        self.examples, self.batch_size, self.precision = examples, batch_size, precision
        self.order = sorted(range(len(examples)), key=lambda row: -len(examples.ids[row]))
        self.tokens: int | None = None  # of a batch; None for batch_size texts
        self.measured = False
        self._batches: dict[tuple, dict[str, torch.Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> np.ndarray:
        """Predicted class index of every text, (rows,) int64, in the order of the examples.

        Raises:
            torch.OutOfMemoryError: there is not enough memory for one text.
        """
        model.eval()
        device = next(model.parameters()).device
        parts, start = [], 0
        with computing_in(self.precision, device):
            while start < len(self.order):
                stop = self._stop(start)
                try:
                    if not self.measured:
                        self._measure(model, device, stop)
                        continue
                    parts.append(model(**self._batch(start, stop, device)).logits.argmax(dim=1))
                except torch.OutOfMemoryError:
                    if stop - start == 1:
                        raise
                    self._halve(stop - start, start)
                else:
                    start = stop
        predictions = np.empty(len(self.order), dtype=np.int64)
        if parts:
            predictions[self.order] = torch.cat(parts).cpu().numpy()  # once, since a GPU waits for every copy
        return predictions

    def _stop(self, start: int) -> int:
        """End of the batch that begins at a place in the order."""
        texts = self.batch_size if self.tokens is None else self.tokens // self._length(start)
        return min(len(self.order), start + max(1, texts))

    def _length(self, place: int) -> int:
        return max(1, len(self.examples.ids[self.order[place]]))

    def _batch(self, start: int, stop: int, device: torch.device) -> dict[str, torch.Tensor]:
        key = (start, stop, device)
        if key not in self._batches:
            batch = self.examples.batch(self.order[start:stop])
            self._batches[key] = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        return self._batches[key]

    def _measure(self, model: nn.Module, device: torch.device, stop: int) -> None:
        longest = self._batch(0, stop, device)
        fitting = memory.tokens_at_once(lambda: model(**longest), longest["input_ids"].numel(), device)
        self.tokens = fitting and max(fitting, self._length(0))
        self.measured = True

    def _halve(self, texts: int, start: int) -> None:
        self._batches.clear()
        if self.tokens is None:
            self.batch_size = -(-texts // 2)
        else:
            self.tokens = -(-texts // 2) * self._length(start)


def predict(model: nn.Module, examples: Examples, batch_size: int, precision: str = "float32") -> np.ndarray:
    """The predictions of one model, see `Predictor`."""
    return Predictor(examples, batch_size, precision)(model)
