"""Batches in a repeatable order, which can be resumed in the middle of an epoch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from study.training.gradients import Batch


class Batches(Protocol):
    """The batches of a training.

    Attributes:
        order: with it and the number of steps done, an epoch can be resumed in the middle.
    """

    order: torch.Tensor

    def epoch(self, done: int) -> Iterator[Batch]:
        """Yield the batches of the current epoch after its first `done` ones."""


class ShuffledBatches:
    """Epochs that are drawn from a separate generator.

    Args:
        draw: generator -> the batches of one epoch.
        seed: of the generator.

    Attributes:
        order: state of the generator at the start of the current epoch.
    """

    def __init__(self, draw: Callable[[torch.Generator], Iterator[Batch]], seed: int):
        self.draw, self.generator = draw, torch.Generator().manual_seed(seed)
        self.order = self.generator.get_state()

    def epoch(self, done: int) -> Iterator[Batch]:
        self.generator.set_state(self.order)
        yield from itertools.islice(self.draw(self.generator), done, None)
        self.order = self.generator.get_state()


class BlockBatches:
    """A fixed number of batches of text blocks, which are shuffled again after each pass over all of them.

    Everything is drawn from torch's global generator at the time of a batch, so a resumed training needs its state too.

    Args:
        blocks: token ids, (blocks, length).
        steps: number of batches.
        make_batch: (rows, length) ids -> batch; may draw too.

    Attributes:
        order: indices of the next blocks, as far as they have been drawn.
    """

    def __init__(self, blocks: torch.Tensor, batch_size: int, steps: int, make_batch: Callable[[torch.Tensor], Batch]):
        self.blocks, self.batch_size, self.steps, self.make_batch = blocks, batch_size, steps, make_batch
        self.order = torch.empty(0, dtype=torch.int64)

    def epoch(self, done: int) -> Iterator[Batch]:
        for _ in range(done, self.steps):
            if len(self.order) < self.batch_size:
                self.order = torch.cat([self.order, torch.randperm(len(self.blocks))])
            indices, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
            yield self.make_batch(self.blocks[indices])
