"""Evaluation in batches that fit into memory: halved when memory runs out, or of as many tokens as were measured."""

import math
from collections.abc import Callable

import torch

MOST_TOKENS = 2**16  # of a batch: a GPU has enough to do, and larger ones only take memory
USED_SHARE = 0.7  # of the free memory, since a measurement is not exact


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


def tokens_at_once(compute: Callable[[], object], tokens: int, device: torch.device) -> int | None:
    """Tokens of a batch that fit into the memory of a GPU, from the peak of one batch; None on a CPU.

    Args:
        compute: evaluates a batch of the longest texts. tokens: in it, with padding.

    Raises:
        torch.OutOfMemoryError: that batch does not fit.
    """
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    compute()
    peak = torch.cuda.max_memory_allocated(device) - before
    allocated, (free, total) = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total  # a part, if jobs share the GPU
    unused = torch.cuda.memory_reserved(device) - allocated
    return fitting_tokens(peak / tokens, min(free + unused, allowed - allocated))


def fitting_tokens(bytes_per_token: float, free: float) -> int:
    """The largest power of two of tokens that takes at most `USED_SHARE` of the free bytes, up to `MOST_TOKENS`.

    A power of two, so that batches, and with them the last bits of sums, rarely depend on what else holds memory.
    """
    fitting = USED_SHARE * free / max(1.0, bytes_per_token)
    return min(MOST_TOKENS, 2 ** max(0, math.floor(math.log2(max(1.0, fitting)))))
