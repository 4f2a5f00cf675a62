"""Running text as chunks of tokens, and batches of chunks of one length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ken.errors import UserError
from study.running import files
from study.training.examples import id_content

SHORTEST = 2  # tokens of a chunk: the first is not predicted


@dataclass(frozen=True)
class Chunks:
    """Text cut into chunks of tokens; no chunk crosses the end of a document.

    Attributes:
        ids: token ids of each chunk.
        documents: index of the document of each chunk, (chunks,).
        names: of the documents.
    """

    ids: list[list[int]]
    documents: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def content(self) -> list[bytes]:
        """All ids and the length of each chunk, which identify the text."""
        return id_content(self.ids)

    def predicted_tokens(self) -> np.ndarray:
        """Number of predicted tokens of each document, (documents,) int64: all but the first of each chunk."""
        tokens = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(tokens, self.documents, [len(ids) - 1 for ids in self.ids])
        return tokens

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """input_ids and labels (rows, tokens) of chunks of one length."""
        ids = torch.tensor([self.ids[index] for index in indices])
        return {"input_ids": ids, "labels": ids}

    def by_length(self, indices: list[int]) -> Iterator[list[int]]:
        """The indices in groups of chunks of one length, the longest first; the order within a group is kept."""
        longest_first = sorted(indices, key=lambda index: -len(self.ids[index]))
        for _, group in groupby(longest_first, lambda index: len(self.ids[index])):
            yield list(group)

    def batches(self, indices: list[int], size: int) -> Iterator[list[int]]:
        """The groups of `by_length` cut into batches of at most `size` chunks."""
        for group in self.by_length(indices):
            yield from (group[start : start + size] for start in range(0, len(group), size))


def read_chunks(folder: Path, split: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Chunks:
    """Read a split of a text (`study.text`) as chunks of at most `length` tokens.

    Raises:
        UserError: the split is too short for one chunk.
    """
    documents = files.read_parquet(folder / f"{split}.parquet")
    encoded = tokenizer(list(documents["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    ids, owners = [], []
    for document, tokens in enumerate(encoded):
        parts = [tokens[start : start + length] for start in range(0, len(tokens), length)]
        ids += [part for part in parts if len(part) >= SHORTEST]
        owners += [document for part in parts if len(part) >= SHORTEST]
    if not ids:
        raise UserError(f"{folder} has no text of {SHORTEST} tokens in its part {split}: give a longer text.")
    return Chunks(ids, np.array(owners), list(documents["document"]))


def shuffled_chunk_batches(chunks: Chunks, size: int, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch in random order; chunks of one length share a batch."""
    batches = list(chunks.batches(torch.randperm(len(chunks), generator=generator).tolist(), size))
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield chunks.batch(batches[index])
