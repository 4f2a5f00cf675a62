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
from study.training.memory import in_batches

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


@torch.inference_mode()
def predict(model: nn.Module, examples: Examples, batch_size: int) -> np.ndarray:
    """Predicted class index of every row, (rows,) int64, in the rows' order.

    The longest rows come first, so a batch that is too large for the device's memory fails at once and is halved.
    """
    model.eval()
    device = next(model.parameters()).device
    predictions = np.empty(len(examples), dtype=np.int64)

    def predict_batch(rows: list[int]) -> None:
        batch = {name: tensor.to(device) for name, tensor in examples.batch(rows).items() if name != "labels"}
        predictions[rows] = model(**batch).logits.argmax(dim=1).cpu().numpy()

    in_batches(sorted(range(len(examples)), key=lambda row: -len(examples.ids[row])), batch_size, predict_batch)
    return predictions
