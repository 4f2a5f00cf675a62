"""A fine-tuned text classifier and labelled texts, for `ken suggest`; needs transformers (`ken-benchmark[text]`)."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

BATCH = 32


class TextClassifier:
    """A sequence classifier of transformers with its tokenizer.

    Attributes:
        model: the fine-tuned model, in evaluation mode.

    Args:
        finetuned: checkpoint folder or hub repository of the model.
        tokenizer: checkpoint folder or hub repository of its tokenizer, for a model that comes without one.
        max_length: texts are truncated to this number of tokens.

    Raises:
        ValueError: transformers is not installed, or cannot load the model.
    """

    def __init__(self, finetuned: str, tokenizer: str, max_length: int = 512, device: str | None = None):
        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError:
            raise ValueError('transformers is not installed: pip install "ken-benchmark[text]".') from None
        safe = {"use_safetensors": True, "trust_remote_code": False}
        try:
            self.model = AutoModelForSequenceClassification.from_pretrained(finetuned, **safe).to(device).eval()
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{finetuned} is not a classifier that transformers can load ({reason}).") from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(finetuned, trust_remote_code=False)
        except (OSError, ValueError):
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        positions = getattr(self.model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, self.tokenizer.model_max_length, positions)

    def read_csv(self, path: Path, text: str, label: str) -> tuple[list[str], np.ndarray]:
        """Read texts and class indices of a CSV file; labels are names or numbers of the model's classes.

        Raises:
            ValueError: the file cannot be read, lacks a column, or has a label that the model does not know.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None
        for column in (text, label):
            if not rows or column not in rows[0]:
                columns = ", ".join(rows[0]) if rows else "no rows"
                raise ValueError(f"{path} has no column {column!r}: found {columns}.")
        for line, row in enumerate(rows, 2):
            if row[text] is None or row[label] is None:
                raise ValueError(f"{path} lacks a text or a label in row {line - 1}: complete it.")
        known = {str(name): index for name, index in self.model.config.label2id.items()}
        known |= {str(index): index for index in known.values() if str(index) not in known}
        unknown = sorted({row[label] for row in rows} - known.keys())
        if unknown:
            names = ", ".join(known)
            raise ValueError(f"{path} has the label {unknown[0]!r}, which is not a class of the model: {names}.")
        return [row[text] for row in rows], np.array([known[row[label]] for row in rows])

    def predictor(self, texts: Sequence[str]) -> Callable[[nn.Module], np.ndarray]:
        """A function from a model of this kind to its predicted class index for every text."""
        encoded = [self.tokenizer(text, truncation=True, max_length=self.max_length) for text in texts]
        order = sorted(range(len(texts)), key=lambda row: -len(encoded[row]["input_ids"]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        padded = [self.tokenizer.pad([encoded[row] for row in batch], return_tensors="pt") for batch in batches]

        @torch.inference_mode()
        def predict(model: nn.Module) -> np.ndarray:
            predictions = np.empty(len(texts), dtype=np.int64)
            for batch, inputs in zip(batches, padded, strict=True):
                logits = model(**inputs.to(model.device)).logits
                predictions[batch] = logits.argmax(dim=1).cpu().numpy()
            return predictions

        return predict
