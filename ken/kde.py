"""Gaussian kernel density of every row of a weight matrix at its own entries (KEN, section 3; Scott's rule of thumb).

Two ways to the same numbers: `exact` sums over all pairs of a row's entries; `binned` spreads the entries over a fine
grid, convolves the grid with the kernel by FFT and reads the density off between grid points. The binned way is used
for a row only where its grid is fine against the bandwidth, so that an outlier cannot blur the rest of the row.
"""

import math

import torch

BINS = 2048
BINS_PER_BANDWIDTH = 16  # a coarser grid than this is not trusted
SHORT = 96  # rows up to this length are cheaper to do exactly
BLOCK = 2**24  # pairs that are in memory at once


def scott_bandwidth(rows: torch.Tensor) -> torch.Tensor:
    """Bandwidth of each row by Scott's rule of thumb, h = 1.06 * sigma * n^(-1/5).

    Args:
        rows: (r, n), any floating dtype.

    Returns:
        (r,) float64; sigma is the population standard deviation. A constant row has bandwidth 0.
    """
    wide = rows.double()
    sigma = wide.std(dim=1, correction=0)
    constant = rows.amax(dim=1) == rows.amin(dim=1)  # the rounded mean of equal values may differ from them
    return torch.where(constant, 0.0, 1.06 * sigma * rows.shape[1] ** -0.2)


def density(rows: torch.Tensor, method: str = "auto", bandwidth: torch.Tensor | None = None) -> torch.Tensor:
    """Kernel density estimate f(x) = 1/(n h) * sum_j phi((x - w_j) / h) of each row, at each of its own entries.

    Args:
        rows: (r, n), any floating dtype, finite.
        method: "exact", "binned" (rows whose grid would be too coarse are still done exactly) or "auto".
        bandwidth: (r,) positive, by default Scott's rule.

    Returns:
        (r, n) float32, in units of one over the unit of the weights. A row of bandwidth 0 has density 1 everywhere: all its
        entries are equally dense.

    Raises:
        ValueError: unknown method, not a matrix, or values that are not finite.
    """
    if method not in ("auto", "exact", "binned"):
        raise ValueError(f'unknown density method {method!r}: choose "auto", "exact" or "binned".')
    if rows.dim() != 2:
        raise ValueError(f"rows must be a matrix (rows, entries), got shape {tuple(rows.shape)}.")
    if not torch.isfinite(rows).all():
        raise ValueError("rows hold NaN or infinite values: density is not defined for them.")
    if bandwidth is None:
        bandwidth = scott_bandwidth(rows)
    h = bandwidth.to(device=rows.device, dtype=torch.float64)
    result = torch.ones(rows.shape, dtype=torch.float32, device=rows.device)
    wide = rows.double()
    spread = wide.amax(dim=1) - wide.amin(dim=1)
    usable = h > 0
    # In units of the bandwidth, from the middle of the row: no overflow for tiny or huge weights.
    middle = (wide.amax(dim=1) + wide.amin(dim=1)) / 2
    scaled = ((wide - middle[:, None]) / torch.where(usable, h, 1.0)[:, None]).float()
    fine = spread / torch.where(usable, h, 1.0) <= BINS / BINS_PER_BANDWIDTH
    if method == "exact" or (method == "auto" and rows.shape[1] <= SHORT):
        fine = torch.zeros_like(fine)
    scale = 1.0 / (rows.shape[1] * torch.where(usable, h, 1.0) * math.sqrt(2 * math.pi))
    for chosen, estimate in ((usable & fine, _binned), (usable & ~fine, _exact)):
        index = chosen.nonzero()[:, 0]
        if len(index):
            result[index] = (estimate(scaled[index]) * scale[index, None]).float()
    return result


def _exact(scaled: torch.Tensor) -> torch.Tensor:
    """Sum over all pairs of exp(-d^2 / 2), (r, n) -> (r, n)."""
    r, n = scaled.shape
    sums = torch.empty_like(scaled)
    columns = max(1, min(n, BLOCK // n))
    step = max(1, BLOCK // (n * columns))
    for start in range(0, r, step):
        part = scaled[start : start + step]
        for column in range(0, n, columns):
            pairs = part[:, column : column + columns, None] - part[:, None, :]
            sums[start : start + step, column : column + columns] = pairs.square_().mul_(-0.5).exp_().sum(dim=2)
    return sums


def _binned(scaled: torch.Tensor) -> torch.Tensor:
    """The same sums by linear binning on `BINS` points, FFT convolution and linear interpolation."""
    results = []
    for part in scaled.split(max(1, BLOCK // (8 * BINS))):
        low, high = part.amin(dim=1, keepdim=True), part.amax(dim=1, keepdim=True)
        width = (high - low) / (BINS - 1)
        place = (part - low) / width
        left = place.floor().clamp_(max=BINS - 2).long()
        fraction = place - left
        counts = torch.zeros(len(part), BINS, device=part.device)
        counts.scatter_add_(1, left, 1 - fraction)
        counts.scatter_add_(1, left + 1, fraction)
        distance = torch.arange(BINS, device=part.device) * width
        kernel = torch.exp(-0.5 * distance.square())
        # Padded to twice the length: the circular convolution must not wrap around.
        symmetric = torch.cat([kernel, torch.zeros_like(width), kernel[:, 1:].flip(1)], dim=1)
        smooth = torch.fft.irfft(torch.fft.rfft(counts, n=2 * BINS) * torch.fft.rfft(symmetric), n=2 * BINS)
        below = smooth.gather(1, left)
        results.append(below + fraction * (smooth.gather(1, left + 1) - below))
    return torch.cat(results)
