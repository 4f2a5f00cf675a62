"""Which entries of each row are kept: criteria that score entries, exact counts, ties by position.

A criterion gives every entry of a row a score; the k entries of highest score are kept, equal scores in the order of
their position. One ranking serves every k, and the kept sets are nested.
"""

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable

import torch

from ken import kde

Criterion = Callable[[torch.Tensor, torch.Tensor, torch.Generator | None], torch.Tensor]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator that registers a criterion: (finetuned, pretrained, generator) -> scores, all tensors (rows, n).

    Raises:
        ValueError: the name is taken.
    """

    def decorate(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"criterion {name!r} is registered twice: choose another name.")
        CRITERIA[name] = function
        return function

    return decorate


@criterion("ken")
def ken_density(finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Kernel density of the fine-tuned row at each entry (KEN, section 3)."""
    return kde.density(finetuned)


def get_criterion(method: str | Criterion) -> Criterion:
    """The criterion of a name, or the function itself.

    Raises:
        ValueError: unknown name; the nearest valid ones are suggested.
    """
    if callable(method):
        return method
    if method not in CRITERIA:
        near = difflib.get_close_matches(method, CRITERIA, n=2) or sorted(CRITERIA)
        raise ValueError(f"unknown method {method!r}: did you mean {' or '.join(map(repr, near))}?")
    return CRITERIA[method]


def kept_count(n: int, k: int | float) -> int:
    """Entries kept in a row of n: k itself, or the fraction k of n rounded to the nearest and at least 1; at most n.

    Raises:
        ValueError: k is neither a whole number from 1 nor a fraction in (0, 1].
    """
    if isinstance(k, bool) or not isinstance(k, int | float) or not (k >= 1 if isinstance(k, int) else 0 < k <= 1):
        raise ValueError(f"k is {k!r}, but must be a whole number from 1 or a fraction above 0 and at most 1.")
    return min(n, k) if isinstance(k, int) else min(n, max(1, math.floor(k * n + 0.5)))


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as (rows, n): a vector is one row, more dimensions are flattened after the first."""
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(tensor.shape[0], -1)


def rank_scores(scores: torch.Tensor) -> torch.Tensor:
    """(r, n) scores -> (r, n) int32 ranks along rows: 0 is the highest score, equal scores by position."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device).expand_as(scores)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places)


def rank(
    finetuned: torch.Tensor,
    pretrained: torch.Tensor,
    method: str | Criterion = "ken",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Rank the entries of every row of one tensor; entry kept at k if and only if its rank is below k.

    Args:
        finetuned: fine-tuned values, any shape.
        pretrained: pre-trained values, the same shape.
        method: name of a criterion or a function.
        generator: for criteria that draw at random.

    Returns:
        int32 of the same shape, 0 = kept first.

    Raises:
        ValueError: shapes differ, values are not finite, or the method is unknown.
    """
    chosen = get_criterion(method)
    if finetuned.shape != pretrained.shape:
        raise ValueError(f"shapes differ: fine-tuned {tuple(finetuned.shape)}, pre-trained {tuple(pretrained.shape)}.")
    for tensor, which in ((finetuned, "fine-tuned"), (pretrained, "pre-trained")):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{which} values hold NaN or infinity.")
    if not finetuned.numel():
        return torch.empty(finetuned.shape, dtype=torch.int32, device=finetuned.device)
    return rank_scores(chosen(as_rows(finetuned), as_rows(pretrained), generator)).reshape(finetuned.shape)


def select(
    finetuned: torch.Tensor,
    pretrained: torch.Tensor,
    k: int | float,
    method: str | Criterion = "ken",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Bool mask of the tensor's shape, True = kept, exactly `kept_count(n, k)` in every row of n."""
    return kept_mask(rank(finetuned, pretrained, method, generator), k)


def kept_mask(ranks: torch.Tensor, k: int | float) -> torch.Tensor:
    """Mask of the entries kept at k, from the ranks of `rank`."""
    return ranks < kept_count(as_rows(ranks).shape[1], k)


def generator_for(seed: int | None, name: str) -> torch.Generator:
    """Generator of one tensor, from the seed and the tensor's name: the order of tensors does not matter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rank_tensors(
    finetuned: dict[str, torch.Tensor],
    pretrained: dict[str, torch.Tensor],
    method: str | Criterion = "ken",
    seed: int | None = None,
) -> dict[str, torch.Tensor]:
    """`rank` every tensor that has a pre-trained value.

    Raises:
        ValueError: as `rank`, with the tensor's name; or a pre-trained tensor has no fine-tuned value.
    """
    check_names(finetuned, pretrained)
    ranks = {}
    for name, base in pretrained.items():
        try:
            ranks[name] = rank(finetuned[name], base, method, generator_for(seed, name))
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from None
    return ranks


def check_names(finetuned: Iterable[str], pretrained: Iterable[str]) -> None:
    """Raise ValueError if a pre-trained tensor is missing from the fine-tuned model."""
    if missing := sorted(set(pretrained) - set(finetuned)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"the fine-tuned model lacks tensor {missing[0]}{more} of the pre-trained one: not its child?")
