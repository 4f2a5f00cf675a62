"""Row-wise Gaussian kernel density: exact, or with bins and an FFT.

The binned method follows the non-uniform FFT: the entries of a row are spread over an even grid with a cubic
B-spline, the grid is convolved with the Gaussian in the frequency domain, where the smoothing of the two
splines (spreading and reading) is divided out again, and the result is read at the entries with the same
spline. With eight grid steps per bandwidth the relative error is about 1e-7. Because a row's range is at most
1.33 n^0.7 Scott bandwidths, even with an outlier, the grid stays small and the cost is O(n) per row. A value that many
entries of a row have, as after pruning to zeros, is left out of the grid and added with its count. Rows with many
almost equal entries are computed exactly, which takes O(n^2).
"""

import functools
import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Iterator

import torch

from ken.tensors import row_blocks

METHODS = ("auto", "exact", "binned")

_STEPS_PER_BANDWIDTH = 8
# The Gaussian is below 1e-13 of its peak here: what wraps around the circular convolution is rounding noise.
_SUPPORT_BANDWIDTHS = 8
_SPLINE_NODES = 4
# A row with more than this share of its entries at one grid node (ties, or a bulk much narrower than the
# bandwidth) has densities that differ by less than the grid resolves: values with many entries are summed exactly
# first, and a row that is crowded without them is computed exactly.
_CROWDED_SHARE = 1 / 8
# A value of such a row with at least this share of its entries is summed on its own: at most 64 values of a row.
_FREQUENT_SHARE = 1 / 64
_LARGEST_GRID = 2**17
# Rows whose range is at most this many standard deviations get the same grid: splitting a block of rows costs more than
# a grid too fine for some. It depends on n alone, so that the densities of a row do not depend on other rows.
_COMMON_RANGE = 10
# Below this length the pairwise sum is faster than the grid.
_SHORT_ROW = 64
# Entries of rows, and pairs of entries, in an intermediate array: few enough for the cache of a CPU, many enough to
# keep a GPU busy.
_BLOCK = {"cpu": 2**17, "cuda": 2**23}
_PAIRS = {"cpu": 2**18, "cuda": 2**28}
# Veltkamp's splitter: keeps 40 of the 53 bits of a float64.
_SPLITTER = 2.0**13 + 1.0


def scott_bandwidth(rows: torch.Tensor) -> torch.Tensor:
    """Bandwidth of each row by Scott's rule of thumb, h = 1.06 σ n^(-1/5) (KEN paper, section 3).

    Args:
        rows: (r, n), any floating dtype; σ is the population standard deviation.

    Returns:
        (r,) float64, in the unit of the entries; exactly 0 for a row of equal entries.

    Raises:
        ValueError: `rows` is not 2-D and floating, or has an entry that is NaN or infinite.

    Example:
        >>> scott_bandwidth(torch.tensor([[0.0, 2.0, 4.0, 6.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([1.7963, 0.0000], dtype=torch.float64)
    """
    check_rows(rows)
    if rows.shape[1] == 0:
        return torch.zeros(rows.shape[0], dtype=torch.float64)
    return torch.cat([_bandwidth(block) for _, block in _row_blocks(rows)])


def density(
    rows: torch.Tensor,
    method: str = "auto",
    bandwidth: torch.Tensor | float | None = None,
    at: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gaussian kernel density of each row, f(x) = (1 / (n h)) Σ_j φ((x - w_j) / h) (KEN paper, section 3).

    Args:
        rows: (r, n), any floating dtype; computed in float64.
        method: "exact" (all pairs), "binned" (grid and FFT; rows it cannot resolve are computed exactly), or
            "auto" (`resolved_method`).
        bandwidth: h, one for all rows or (r,); Scott's rule if None.
        at: (r, q) points inside the range of their row; the entries themselves if None.

    Returns:
        (r, n), or (r, q) with `at`, float64. Rounded to 40 bits, so that densities which are equal but for
        rounding noise compare equal. A row with h = 0 (all entries equal) has the constant 1.

    Raises:
        ValueError: an unknown method, rows not 2-D and floating, or an entry that is NaN or infinite.

    Example:
        >>> density(torch.tensor([[0.0, 0.1, 0.2, 5.0]])).argmax().item()
        1
    """
    if method not in METHODS:
        raise ValueError(f"unknown density method {method!r}: expected one of {', '.join(METHODS)}.")
    check_rows(rows)
    method = resolved_method(method, rows)
    points = rows if at is None else at
    if bandwidth is not None:
        bandwidth = torch.as_tensor(bandwidth, dtype=torch.float64, device=rows.device).expand(rows.shape[0])
    result = torch.ones(points.shape, dtype=torch.float64, device=rows.device)
    if points.numel() == 0:
        return result
    for indices, block in _row_blocks(rows):
        at_block = block if at is None else at[indices].double().contiguous()
        h = _bandwidth(block) if bandwidth is None else bandwidth[indices]
        spread = h > 0
        if spread.all():
            result[indices] = _density(block, at_block, h, method)
        elif spread.any():
            result[indices][spread] = _density(block[spread], at_block[spread], h[spread], method)
    return result


def resolved_method(method: str, rows: torch.Tensor) -> str:
    """The method chosen by "auto": the faster one for n, the same on CPU and GPU, so that the kept sets agree."""
    if method != "auto":
        return method
    return "exact" if rows.shape[1] <= _SHORT_ROW else "binned"


def check_rows(rows: torch.Tensor, what: str = "rows") -> None:
    """Check that rows have a density.

    Args:
        what: name of the tensor in the message.

    Raises:
        ValueError: not 2-D, not floating, or not finite.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"{what} must be 2-D and floating, found {rows.ndim}-D of {rows.dtype}.")
    if not all_finite(rows):
        finite = torch.isfinite(rows)
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{what} must be finite, found {(~finite).sum().item()} entries NaN or infinite, the first "
            f"({rows[row, column].item()}) in row {row}, column {column}: check the training that wrote it."
        )


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no entry is NaN or infinite; without an intermediate array, which takes longer than the test."""
    return not tensor.numel() or all(bound.isfinite() for bound in torch.aminmax(tensor))


def _row_blocks(rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    for indices in row_blocks(*rows.shape, _BLOCK.get(rows.device.type, _BLOCK["cuda"])):
        yield indices, rows[indices].double().contiguous()


def _bandwidth(rows: torch.Tensor) -> torch.Tensor:
    scale = rows.amax(1) - rows.amin(1)
    # Relative to the first entry: equal entries give exactly 0. Relative to the range, where squares leave the numbers.
    centred = rows - rows[:, :1]
    unit = torch.where((scale > 1e100) | ((scale < 1e-100) & (scale > 0)), scale, 1.0)
    if (unit != 1).any():
        centred /= unit[:, None]
    centred -= centred.mean(1, keepdim=True)
    sigma = torch.where(scale > 0, centred.square_().mean(1).sqrt_() * unit, 0.0)
    return 1.06 * sigma * rows.shape[1] ** -0.2


def _density(rows: torch.Tensor, at: torch.Tensor, h: torch.Tensor, method: str) -> torch.Tensor:
    result = _exact(rows, at, h) if method == "exact" else _binned(rows, at, h)
    high = result * _SPLITTER
    return high - (high - result)


def _exact(rows: torch.Tensor, at: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    n, q = rows.shape[1], at.shape[1]
    # φ(u) = exp(-u² / 2): the factor goes into the entries once instead of into every pair.
    factor = (math.sqrt(0.5) / h)[:, None]
    center = rows[:, :1]
    entries, points = (rows - center) * factor, (at - center) * factor
    result = torch.empty(at.shape, dtype=torch.float64, device=rows.device)
    pairs = _PAIRS.get(rows.device.type, _PAIRS["cuda"])
    height, width = max(1, pairs // (n * q)), max(1, pairs // n)
    many = rows.is_cuda and rows.shape[0] * n * q > pairs  # to compile takes seconds
    sums = _fused_pair_sums() if many else pair_sums
    for top in range(0, rows.shape[0], height):
        for left in range(0, q, width):
            indices = (slice(top, top + height), slice(left, left + width))
            result[indices] = sums(points[indices], entries[top : top + height])
    return result.mul_((1 / (n * math.sqrt(2 * math.pi) * h))[:, None])


def pair_sums(points: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """Σ_j exp(-(points_i - entries_j)²): (r, q) and (r, n) -> (r, q)."""
    return (points[:, :, None] - entries[:, None, :]).square_().neg_().exp_().sum(2)


@functools.cache
def _fused_pair_sums() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`pair_sums` as one GPU kernel, so that the pairs never leave the registers, where torch can compile one."""
    compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))  # which triton asks for
    return torch.compile(pair_sums, dynamic=True) if importlib.util.find_spec("triton") and compiler else pair_sums


def _binned(rows: torch.Tensor, at: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    low, high = rows.amin(1), rows.amax(1)  # ten times as fast as aminmax by rows
    if (flat := low == high).any():  # no range to lay a grid over; only with a bandwidth that was given
        result = torch.empty(at.shape, dtype=torch.float64, device=rows.device)
        for part, method in ((flat, _exact), (~flat, _binned)):
            if part.any():
                result[part] = method(rows[part], at[part], h[part])
        return result
    common = _COMMON_RANGE / (1.06 * rows.shape[1] ** -0.2)
    bandwidths = ((high - low) / h).clamp(min=common)
    needed = _STEPS_PER_BANDWIDTH * (bandwidths + _SUPPORT_BANDWIDTHS) + _SPLINE_NODES + 1
    sizes = torch.exp2(torch.log2(needed.clamp(max=2.0 * _LARGEST_GRID)).ceil()).long()
    if (sizes == sizes[0]).all() and sizes[0] <= _LARGEST_GRID:
        result, resolved = _on_grid(rows, at, h, low, high, int(sizes[0]))
        if not resolved.all():
            rest = ~resolved
            part = rows[rest]
            at_part = part if at is rows else at[rest]
            result[rest] = _crowded(part, at_part, h[rest], low[rest], high[rest], int(sizes[0]))
        return result
    result = torch.empty(at.shape, dtype=torch.float64, device=rows.device)
    for size in sizes.unique().tolist():
        group = sizes == size
        part = [tensor[group] for tensor in (rows, at, h)]
        result[group] = _binned(*part) if size <= _LARGEST_GRID else _exact(*part)
    return result


def _crowded(
    rows: torch.Tensor, at: torch.Tensor, h: torch.Tensor, low: torch.Tensor, high: torch.Tensor, size: int
) -> torch.Tensor:
    """Densities of rows with many entries at one node: frequent values with their counts, the others on the grid."""
    values, counts, frequent = _frequent_values(rows)
    result, resolved = _on_grid(rows, at, h, low, high, size, (~frequent).double())
    scale = rows.shape[1] * math.sqrt(2 * math.pi) * h
    for value, count in zip(values.unbind(1), counts.unbind(1), strict=True):
        distance = (at - value[:, None]).div_(h[:, None])
        result.addcmul_((count / scale)[:, None], distance.square_().mul_(-0.5).exp_())
    if not resolved.all():
        rest = ~resolved
        result[rest] = _exact(rows[rest], at[rest], h[rest])
    return result


def _frequent_values(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values that many entries of a row have and their counts, both (r, most of a row), and where they are, (r, n).

    A row with fewer of them than another has values with a count of 0.
    """
    ordered = rows.sort(dim=1).values
    first, last = (torch.searchsorted(ordered, rows, right=right) for right in (False, True))
    frequent = last - first >= max(2, math.ceil(_FREQUENT_SHARE * rows.shape[1]))
    # Of each frequent value the entry at the beginning of its run in the sorted row.
    begins = torch.zeros_like(frequent).scatter_(1, first, frequent)
    width = int(begins.sum(1).amax())
    indices = torch.sort(begins.byte(), dim=1, descending=True, stable=True).indices[:, :width]
    lengths = torch.zeros_like(first).scatter_(1, first, last - first)
    counts = lengths.gather(1, indices) * begins.gather(1, indices)
    return ordered.gather(1, indices), counts.double(), frequent


def _on_grid(
    rows: torch.Tensor,
    at: torch.Tensor,
    h: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    size: int,
    counted: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities on a circular grid of `size` nodes, and which rows the grid resolves.

    Args:
        counted: (r, n), 1 for entries that contribute to the density and 0 for the others; None: all of them do.
    """
    r, n = rows.shape
    # The range takes a whole number of steps, so that a symmetric row has a symmetric grid.
    steps = ((size - _SPLINE_NODES) / (1 + _SUPPORT_BANDWIDTHS * h / (high - low))).floor()
    per_unit = steps / (high - low)
    first_node = (torch.arange(r, device=rows.device) * size)[:, None]

    def nodes_and_weights(points: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        position = (points - low[:, None]).mul_(per_unit[:, None])
        cell = position.floor()
        return cell.long().add_(first_node), _spline(position.sub_(cell))

    nodes, weights = nodes_and_weights(rows)
    grid = torch.zeros(r * size, dtype=torch.float64, device=rows.device)
    for shift, weight in enumerate(weights):
        added = weight if counted is None else weight * counted
        grid[shift:].scatter_add_(0, nodes.view(-1), added.view(-1))
    grid = grid.view(r, size)
    total = n if counted is None else counted.sum(1)
    resolved = grid.amax(1) <= 6 * (_CROWDED_SHARE * torch.as_tensor(total)).clamp(min=1.0)

    angle = torch.arange(size // 2 + 1, device=rows.device, dtype=torch.float64) * (2 * math.pi / size)
    spline = torch.sinc(angle / (2 * math.pi)) ** 4
    gaussian = torch.exp(-0.5 * ((h * per_unit)[:, None] * angle).square_()) / spline.square()
    smooth = torch.fft.irfft(torch.fft.rfft(grid).mul_(gaussian), n=size).view(-1)

    if at is not rows:
        nodes, weights = nodes_and_weights(at)
    result = smooth.take(nodes).mul_(weights[0])
    for shift, weight in enumerate(weights[1:], 1):
        result.addcmul_(smooth[shift:].take(nodes), weight)
    return result.clamp_(min=0).mul_((per_unit / (36 * n))[:, None]), resolved


def _spline(t: torch.Tensor) -> list[torch.Tensor]:
    """Six times the cubic B-spline weights of the four nodes around a point at fraction `t` between the middle two."""
    s = 1 - t
    t2 = t * t
    first, last = (s * s).mul_(s), t2 * t
    second = t2.mul_(-6).add_(last, alpha=3).add_(4)
    third = torch.add(first, second).add_(last)
    return [first, second, third.neg_().add_(6), last]
