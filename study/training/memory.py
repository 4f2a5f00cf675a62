"""Evaluation in batches that become smaller where memory is full."""

from collections.abc import Callable

import torch


def in_batches(rows: list[int], batch_size: int, compute: Callable[[list[int]], None]) -> int:
    """Call `compute` on all rows, a batch at a time, with batches half as large each time memory runs out.

    Returns:
        The batch size that fitted.

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
