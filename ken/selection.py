"""Which entries of a weight tensor are kept: budgets, rows, criteria, ranks and masks.

A criterion gives every entry of a row a score; the highest scores are kept first. Ranks do not depend on the
budget, so one ranking serves a whole grid of budgets and the kept sets are nested.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from ken import kde
from ken.grid import grid_mask
from ken.tensors import as_rows, row_blocks

Criterion = Callable[[torch.Tensor, torch.Tensor, torch.Generator | None], torch.Tensor]
"""(fine-tuned rows, pre-trained rows, generator) -> scores, all (r, n); sees blocks of whole rows."""

CRITERIA: dict[str, Criterion] = {}

_CACHED = 2**17  # entries of rows whose intermediate arrays stay in the cache of a CPU
_LONG = 2**24  # entries of a row, such as that of a whole model, from which a GPU holds no sorted copy

GRID = "ken-grid"
"""The rule of the authors' released code: needs the budget, so it selects but does not rank."""


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register a criterion under a name.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(scores: Criterion) -> Criterion:
        if name in CRITERIA or name == GRID:
            raise ValueError(f"criterion {name!r} is registered twice: choose another name.")
        CRITERIA[name] = scores
        return scores

    return decorate


@criterion("ken")
def kernel_density(
    finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """KEN: Gaussian kernel density of each fine-tuned value within its row (KEN paper, section 3)."""
    return kde.density(finetuned)


def kept_count(n: int, k: int | float) -> int:
    """Number of entries kept of n.

    Args:
        n: length of a row.
        k: an int is that many entries, at most n; a float is a share of n in (0, 1], rounded to nearest
            (`round`), at least 1.

    Raises:
        ValueError: k is neither of these.

    Example:
        >>> kept_count(768, 0.25), kept_count(768, 128), kept_count(3, 0.01)
        (192, 128, 1)
    """
    if isinstance(k, int) and not isinstance(k, bool) and k >= 1:
        return min(k, n)
    if isinstance(k, float) and 0 < k <= 1:
        return min(n, max(1, round(n * k)))
    raise ValueError(f"k must be an int of at least 1 or a float share in (0, 1], found {k!r}.")


def rank_scores(scores: torch.Tensor) -> torch.Tensor:
    """(r, n) scores -> int32 ranks along rows, 0 for the highest; equal scores in the order of their indices."""
    ranks = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device).expand(scores.shape)
    return torch.empty(scores.shape, dtype=torch.int32, device=scores.device).scatter_(1, _descending(scores), ranks)


def _descending(scores: torch.Tensor) -> torch.Tensor:
    """(r, n) scores -> int64 indices from the highest score to the lowest; equal scores in the order of their indices.

    numpy's unstable sort takes a tenth of the time of a stable one. Equal scores are put in order afterwards.
    """
    if scores.is_cuda:
        return torch.sort(scores, dim=1, descending=True, stable=True).indices
    order = torch.empty(scores.shape, dtype=torch.int64)
    for block in row_blocks(*scores.shape, _CACHED):
        negative = _numpy(scores[block]) * -1
        indices = np.argsort(negative, axis=1)
        ascending = np.take_along_axis(negative, indices, axis=1)
        runs = np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1)
        if runs.shape[1] and (runs[:, -1] < runs.shape[1]).any():
            indices[:, 1:] += runs * scores.shape[1]
            indices = np.sort(indices, axis=1) % scores.shape[1]
        order[block] = torch.from_numpy(indices)
    return order


def _numpy(scores: torch.Tensor) -> np.ndarray:
    """Scores on the CPU as an array, of a dtype that numpy knows."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).numpy()


def rank(
    finetuned: torch.Tensor,
    pretrained: torch.Tensor,
    method: str | Criterion = "ken",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Order in which the entries of each row are kept.

    Args:
        finetuned, pretrained: same shape, any number of dimensions, floating; rows as in `as_rows`.
        method: name in `CRITERIA`, or a criterion function.
        generator: passed to the criterion; methods that draw at random need it to be repeatable.

    Returns:
        int32 of the same shape: rank within its row, 0 = kept first; at a budget k, rank < k is kept.

    Raises:
        ValueError: the method is unknown, shapes differ, or entries are not floating, NaN or infinite.

    Example:
        >>> rank(torch.tensor([[0.0, 0.1, 0.2, 5.0]]), torch.zeros(1, 4))
        tensor([[2, 0, 1, 3]], dtype=torch.int32)
    """
    finetuned_rows, pretrained_rows = _checked_rows(finetuned, pretrained)
    ranks = torch.empty(finetuned_rows.shape, dtype=torch.int32, device=finetuned.device)
    for block, scores in _scores(finetuned_rows, pretrained_rows, method, generator):
        ranks[block] = rank_scores(scores)
    return ranks.reshape(finetuned.shape)


def _scores(
    finetuned: torch.Tensor, pretrained: torch.Tensor, method: str | Criterion, generator: torch.Generator | None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of rows and their scores."""
    scores_of = _criterion(method)
    for block in row_blocks(*finetuned.shape) if finetuned.numel() else ():
        scores = scores_of(finetuned[block], pretrained[block], generator)
        if scores.shape != finetuned[block].shape or scores.isnan().any():
            raise ValueError(
                f"criterion {method!r} must give {tuple(finetuned[block].shape)} scores without NaN, "
                f"found {tuple(scores.shape)} with {int(scores.isnan().sum())} NaN."
            )
        yield block, scores


def highest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """(r, n) bool mask of the k highest scores of each row, of equal ones the first: those of ranks below k, sooner."""
    if not 0 < k < scores.shape[1]:
        return torch.full(scores.shape, k > 0, dtype=torch.bool, device=scores.device)
    if scores.is_cuda and scores.shape[1] > _LONG and scores.dtype == torch.float32:
        return _above(scores, _kth_highest(scores, k), k)
    if scores.is_cuda:
        return _above(scores, scores.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True), k)
    mask, n = torch.empty(scores.shape, dtype=torch.bool), scores.shape[1]
    for block in row_blocks(*scores.shape, _CACHED):
        least = np.partition(_numpy(scores[block]), n - k, axis=1)[:, n - k : n - k + 1]
        mask[block] = _above(scores[block], torch.from_numpy(least).to(scores.dtype), k)
    return mask


def _kth_highest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """(r, 1) the k-th highest of each row of float32 scores, by bisection over their bits.

    On a GPU, topk of a whole model would hold ten times its scores; this holds one copy of them.
    """
    keys = (scores + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    keys ^= (keys >> 31) & 0x7FFFFFFF  # integers in the order of the scores
    low, high = (torch.full((len(keys), 1), end, device=keys.device) for end in (-(2**31), 2**31 - 1))
    for _ in range(32):
        middle = (low + high + 1) >> 1
        enough = (keys >= middle.int()).sum(1, keepdim=True) >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle - 1)
    bits = low.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _above(scores: torch.Tensor, least: torch.Tensor, k: int) -> torch.Tensor:
    """Mask of the k highest scores of each row, of which `least` (r, 1) is the lowest."""
    kept = scores > least
    missing, equal = k - kept.sum(1, keepdim=True), scores == least
    crowded = (equal.sum(1, keepdim=True) > missing).any(1)
    equal[crowded] &= equal[crowded].cumsum(1) <= missing[crowded]
    return kept | equal


def mask_from_ranks(ranks: torch.Tensor, k: int | float) -> torch.Tensor:
    """Bool mask of the shape of `ranks`, True for the `kept_count(n, k)` entries of each row kept first."""
    return ranks < kept_count(as_rows(ranks).shape[1], k)


def select(
    finetuned: torch.Tensor,
    pretrained: torch.Tensor,
    k: int | float,
    method: str | Criterion = "ken",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Which entries are kept at one budget.

    Args:
        finetuned, pretrained, generator: as in `rank`.
        k: as in `kept_count`, for each row.
        method: as in `rank`, or "ken-grid", the rule of the authors' released code.

    Returns:
        Bool mask of the same shape, True = kept: exactly `kept_count(n, k)` in every row ("ken-grid": at
        least as many distinct choices, and every entry equal to a chosen one).

    Raises:
        ValueError: as in `rank` and `kept_count`.

    Example:
        >>> select(torch.tensor([[0.0, 0.1, 0.2, 5.0]]), torch.zeros(1, 4), k=0.5)
        tensor([[False,  True,  True, False]])
    """
    rows, pretrained_rows = _checked_rows(finetuned, pretrained)
    count = kept_count(rows.shape[1], k)
    if method == GRID:
        return grid_mask(rows, count).reshape(finetuned.shape)
    mask = torch.empty(rows.shape, dtype=torch.bool, device=rows.device)
    for block, scores in _scores(rows, pretrained_rows, method, generator):
        mask[block] = highest(scores, count)
    return mask.reshape(finetuned.shape)


def rank_tensors(
    finetuned: Mapping[str, torch.Tensor],
    pretrained: Mapping[str, torch.Tensor],
    method: str | Criterion = "ken",
    seed: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """Ranks of every floating tensor that both have under the same name.

    Args:
        finetuned, pretrained: name -> tensor.
        method: as in `rank`.
        seed: seeds the generator of each tensor, together with its name, so that results do not depend on the order
            of the tensors. With None the criterion gets no generator.
        device: where the ranks are computed, by default the device of the tensors. Ranks are returned on the latter.

    Returns:
        Name -> ranks; those of a tensor that `is_fixed` are above every budget.

    Raises:
        ValueError: as in `rank`; the sentence names the tensor.
    """
    ranks = {}
    for name, tensor in finetuned.items():
        if name in pretrained and tensor.is_floating_point():
            try:
                if is_fixed(tensor, pretrained[name]):
                    ranks[name] = torch.full_like(tensor, torch.iinfo(torch.int32).max, dtype=torch.int32)
                    continue
                rows = tensor.to(device), pretrained[name].to(device)
                ranks[name] = rank(*rows, method, generator_of(name, seed)).to(tensor.device)
            except ValueError as error:
                raise ValueError(f"tensor {name!r}: {error}") from error
    return ranks


def is_fixed(finetuned: torch.Tensor, pretrained: torch.Tensor) -> bool:
    """Whether a tensor with infinite entries, such as a mask of -inf, is equal in both models: none of it is kept."""
    return not kde.all_finite(finetuned) and torch.equal(finetuned, pretrained.to(finetuned))


def generator_of(name: str, seed: int | None) -> torch.Generator | None:
    """Generator for one tensor, from a hash of (seed, name); None without a seed."""
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def names() -> list[str]:
    """Names of all methods that `select` knows."""
    return sorted([*CRITERIA, GRID])


def check_method(method: str | Criterion) -> None:
    """Check that `select` knows a method.

    Raises:
        ValueError: it does not; the message has the nearest names.
    """
    if method != GRID:
        _criterion(method)


def method_name(method: str | Criterion) -> str:
    """Name of a method in records: its name, or that of its function."""
    return method if isinstance(method, str) else getattr(method, "__name__", "custom")


def _criterion(method: str | Criterion) -> Criterion:
    if callable(method):
        return method
    if method in CRITERIA:
        return CRITERIA[method]
    if method == GRID:
        raise ValueError(f"{GRID!r} depends on k and has no ranking: use select with a budget, or a method that ranks.")
    near = difflib.get_close_matches(str(method), names(), cutoff=0.4) or names()
    raise ValueError(f"unknown method {method!r}: did you mean {' or '.join(map(repr, near))}?")


def _checked_rows(finetuned: torch.Tensor, pretrained: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if finetuned.shape != pretrained.shape:
        raise ValueError(
            f"fine-tuned and pre-trained must have the same shape, found {tuple(finetuned.shape)} and "
            f"{tuple(pretrained.shape)}: both must come from one architecture."
        )
    rows = as_rows(finetuned.detach()), as_rows(pretrained.detach())
    kde.check_rows(rows[0], "fine-tuned values")
    kde.check_rows(rows[1], "pre-trained values")
    return rows
