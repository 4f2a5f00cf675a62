"""Text classifiers and labelled texts, for `ken suggest`; needs transformers (`ken-benchmark[text]`).

Also the one place that decides how texts of different lengths share a batch, here and in a study: `set_padding` and
`pad_batch`. A model gives a text the same answer in a batch as alone.
"""

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ken.errors import did_you_mean, import_sentence
from ken.pairing import listing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

BATCH = 32


def set_padding(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig") -> int:
    """Give a tokenizer and a model's configuration one padding token and side; returns the token's id.

    The token is that of the configuration, by which a model tells where a text ends (BLOOM, GPT-2) and which position
    a token has (RoBERTa); otherwise the tokenizer's, its end token, or any other that it has. Batches are padded on the
    right, where nothing shifts the positions of a text, but on the left for a model that reads the last position
    whatever it holds (XLNet).

    Raises:
        ValueError: the tokenizer has no token at all.
    """
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, *tokenizer.all_special_ids]
    candidates = [getattr(config, "pad_token_id", None), *special, *sorted(tokenizer.get_vocab().values())[:1]]
    vocabulary = getattr(config, "vocab_size", None) or len(tokenizer)
    for candidate in candidates:
        valid = isinstance(candidate, int) and 0 <= candidate < vocabulary
        token = tokenizer.convert_ids_to_tokens(candidate) if valid else None
        if token is None:
            continue
        if tokenizer.pad_token_id != candidate:
            tokenizer.pad_token = token
        tokenizer.padding_side = padding_side(config)
        config.pad_token_id = candidate
        return candidate
    raise ValueError(f"the tokenizer {type(tokenizer).__name__} has no tokens: save that of the model with it.")


def padding_side(config: "PreTrainedConfig") -> str:
    """Side on which a batch is padded: "left" for a model that reads the last position, "right" for any other."""
    return "left" if getattr(config, "summary_type", None) == "last" else "right"


def pad_batch(rows: Sequence[Sequence[int]], pad: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts as one batch, and which of them are to be looked at.

    Args:
        rows: token ids of each text; an empty one gets one padding token to look at.
        pad: id that fills up shorter rows.
        side: "right" or "left".

    Returns:
        input_ids and attention_mask, int64, (rows, longest row).

    Example:
        >>> pad_batch([[5, 6, 7], [8]], pad=0)
        (tensor([[5, 6, 7],
                [8, 0, 0]]), tensor([[1, 1, 1],
                [1, 0, 0]]))
    """
    width = max(1, *(len(row) for row in rows)) if rows else 1
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        start = width - max(1, len(row)) if side == "left" else 0
        ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[i, start : start + max(1, len(row))] = 1
    return ids, mask


_POSITIONS_FROM_PADDING = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "longformer", "ibert",
    "data2vec-text", "luke",
)  # fmt: skip


def longest_text(tokenizer: "PreTrainedTokenizerBase", config: "PreTrainedConfig", max_length: int) -> int:
    """Tokens that a text may have: `max_length`, or less where the tokenizer or the model's positions end before.

    RoBERTa and its relatives count positions from the padding token on, so that they have fewer than their tables.
    """
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in _POSITIONS_FROM_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return min(max_length, tokenizer.model_max_length, positions if positions > 0 else max_length)


def is_empty(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a tokenizer knows no words: transformers builds one for a folder without the files of a tokenizer."""
    return not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)


class TextClassifier:
    """A sequence classifier of transformers with its tokenizer.

    Attributes:
        model: the fine-tuned model, in evaluation mode.

    Args:
        finetuned: checkpoint folder or hub repository of the model.
        tokenizer: checkpoint folder or hub repository of its tokenizer, for a model that comes without one.
        max_length: texts are truncated to this number of tokens.

    Raises:
        ValueError: transformers cannot be imported or cannot load the model; the model has no trained head; or there is
            no tokenizer.
    """

    def __init__(self, finetuned: str, tokenizer: str, max_length: int = 512, device: str | None = None):
        try:
            from transformers import AutoModelForSequenceClassification
        except ImportError as error:
            raise ValueError(import_sentence(error, "transformers", "text")) from None
        if max_length < 1:
            raise ValueError(f"the largest number of tokens of a text must be at least 1, found {max_length}.")
        if Path(finetuned).is_file():
            raise ValueError(f"{finetuned} is a file: give the folder of the model, with its config.json.")
        safe = {
            "use_safetensors": True,
            "trust_remote_code": False,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
        }
        try:
            model, loaded = AutoModelForSequenceClassification.from_pretrained(finetuned, **safe)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{finetuned} is not a classifier that transformers can load ({reason}).") from error
        if new := sorted(loaded["missing_keys"]) + sorted(key[0] for key in loaded["mismatched_keys"]):
            raise ValueError(
                f"{finetuned} lacks {listing(new)}, which would be drawn at random: give the fine-tuned classifier, "
                "with its head."
            )
        self.model = model.to(device).eval()
        self.tokenizer = _load_tokenizer((finetuned, tokenizer))
        self.pad = set_padding(self.tokenizer, self.model.config)
        self.max_length = longest_text(self.tokenizer, self.model.config, max_length)

    def read_csv(self, path: Path, text: str, label: str) -> tuple[list[str], np.ndarray]:
        """Read texts and class indices of a CSV file; labels are names or numbers of the model's classes.

        Raises:
            ValueError: the file cannot be read, lacks a column, or has a label that the model does not know.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                rows, columns = list(reader), list(reader.fieldnames or ())
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None
        for column in (text, label):
            if column not in columns:
                raise ValueError(f"{path} has no column {column!r}: found {', '.join(columns) or 'no header'}.")
            if columns.count(column) > 1:
                raise ValueError(f"{path} has {columns.count(column)} columns {column!r}: rename all but one.")
        if not rows:
            raise ValueError(f"{path} has no rows below its header: give validation examples.")
        for line, row in enumerate(rows, 2):
            if row[text] is None or row[label] is None:
                raise ValueError(f"{path} lacks a text or a label in row {line - 1}: complete it.")
            if None in row:
                raise ValueError(f"{path} has more cells than columns in row {line - 1}: quote a text with commas.")
        known = {str(name): index for name, index in self.model.config.label2id.items()}
        known |= {str(index): index for index in known.values() if str(index) not in known}
        unknown = sorted({row[label] for row in rows} - known.keys())
        if unknown:
            names = ", ".join(known)
            near = did_you_mean(unknown[0], known)
            near = near if near.startswith(" Did") else ""
            raise ValueError(f"{path} has the label {unknown[0]!r}, which is not a class of the model: {names}.{near}")
        for number, row in enumerate(rows, 1):
            if _swallows_a_row(row[text], columns, label, known):
                raise ValueError(
                    f"{path} has a text of several lines in row {number} that contains another row, since a quote is "
                    'in the wrong place: put a text with quotes in quotes and double those inside it ("say ""hi""").'
                )
        return [row[text] for row in rows], np.array([known[row[label]] for row in rows])

    def predictor(self, texts: Sequence[str]) -> Callable[[nn.Module], np.ndarray]:
        """A function from a model of this kind to its predicted class index for every text."""
        encoded = [self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"] for text in texts]
        order = sorted(range(len(texts)), key=lambda row: -len(encoded[row]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        side = padding_side(self.model.config)
        padded = [pad_batch([encoded[row] for row in batch], self.pad, side) for batch in batches]

        @torch.inference_mode()
        def predict(model: nn.Module) -> np.ndarray:
            predictions = np.empty(len(texts), dtype=np.int64)
            for batch, (ids, mask) in zip(batches, padded, strict=True):
                logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
                predictions[batch] = logits.argmax(dim=1).cpu().numpy()
            return predictions

        return predict


def _swallows_a_row(text: str, columns: Sequence[str], label: str, known: Collection[str]) -> bool:
    """Whether a line of a text is a row itself: it has the right number of fields and a label of the model."""
    lines = text.splitlines()
    fields = [line.replace('"', "").split(",") for line in lines] if len(lines) > 1 else []
    return any(len(row) == len(columns) and row[columns.index(label)] in known for row in fields)


def _load_tokenizer(folders: Sequence[str]) -> "PreTrainedTokenizerBase":
    """The first tokenizer with words among those of some folders or repositories."""
    from transformers import AutoTokenizer

    for folder in dict.fromkeys(map(str, folders)):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError):
            continue
        if not is_empty(tokenizer):
            return tokenizer
    raise ValueError(
        f"{' and '.join(map(str, folders))} hold no tokenizer that transformers can read: save the model's there "
        "(tokenizer.save_pretrained)."
    )
