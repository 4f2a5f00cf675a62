"""Batches in a repeatable order that can be taken up in the middle of an epoch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from study.training.gradients import Batch


class Batches(Protocol):
    """The batches of a training.

    Attributes:
        order: with the number of steps done, all that is needed to go on in the middle of an epoch.
    """

    order: torch.Tensor

    def epoch(self, done: int) -> Iterator[Batch]:
        """The batches of the current epoch that are left after `done` steps of it."""


class ShuffledBatches:
    """Epochs that are drawn from a generator of their own.

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
    """A given number of batches of blocks of text, shuffled anew each time all have been seen.

    Everything is drawn from torch's global generator when a batch is asked for, so that its state is part of what a
    resumed training needs.

    Args:
        blocks: token ids, (blocks, length).
        steps: number of batches.
        make_batch: (rows, length) ids -> batch; may draw too.

    Attributes:
        order: blocks that are next, as far as they have been drawn.
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
