"""Evaluation in batches that are halved when memory runs out."""

from collections.abc import Callable

import torch


def in_batches(rows: list[int], batch_size: int, compute: Callable[[list[int]], None]) -> int:
    """Call `compute` on all rows, one batch at a time; the batch size is halved each time memory runs out.

    Returns:
        The batch size that fits.

    Raises:
        torch.OutOfMemoryError: there is not enough memory for one row.
    """
    start = 0
    while start < len(rows):
        batch = rows[start : start + batch_size]
        try:
            compute(batch)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = -(-batch_size // 2)
        else:
            start += len(batch)
    return batch_size
