"""How much has to be kept? The smallest share whose validation score is not inferior to the fine-tuned model's.

The paper leaves k open. Here shares are looked at by bisection over one nested ranking, and each is judged by a paired
bootstrap over the same validation examples: a share is not inferior when, with the given confidence, the weighted F1
that it loses is at most the margin (one-sided percentile interval; Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ken import selection
from ken.pairing import Pair
from ken.sources import Memory, open_source
from ken.subnetwork import AnySource, Subnetwork

Predict = Callable[[nn.Module], np.ndarray]
"""Model -> predicted class index of every validation example."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Look:
    """One share that was tried: its scores on validation.

    Attributes:
        share: kept of each row, as asked. kept_share: of the whole body, as it came out.
        weighted_f1: of the restored model.
        loss: weighted F1 of the fine-tuned model minus that.
        loss_bound: upper confidence bound of the loss.
        not_inferior: whether the bound is within the margin.
    """

    share: float
    kept_share: float
    weighted_f1: float
    loss: float
    loss_bound: float
    not_inferior: bool


@dataclass(frozen=True)
class Suggestion:
    """The smallest share found not inferior, and all that was looked at on the way, by share."""

    share: float
    full_weighted_f1: float
    margin: float
    confidence: float
    curve: list[Look]

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people: the curve, then the share."""
        lines = ["   kept  weighted F1     loss  at most"]
        for look in self.curve:
            verdict = "enough" if look.not_inferior else "too little"
            numbers = f"{look.weighted_f1:12.4f} {look.loss:8.4f} {look.loss_bound:8.4f}"
            lines.append(f"{look.share:7.2%} {numbers}  {verdict}")
        bound = f"at {self.confidence:.0%} confidence at most {self.margin:g} of {self.full_weighted_f1:.4f} is lost"
        return "\n".join([*lines, f"keep {self.share:.2%} of each row: {bound}"])


def suggest(
    pretrained: AnySource,
    model: nn.Module,
    predict: Predict,
    labels: np.ndarray,
    margin: float = 0.01,
    confidence: float = 0.95,
    resolution: float = 0.01,
    method: str | selection.Criterion = "ken",
    rule: str = "reset",
    seed: int | None = None,
    progress: bool = False,
) -> Suggestion:
    """Find the smallest share to keep of each row.

    Bisection supposes that keeping more does not hurt; where it does, the result still is a share that was found
    enough, and the curve shows what was looked at.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        model: the fine-tuned model; its weights are exchanged during the search and put back at the end.
        predict: predictions of a model on the validation examples.
        labels: (examples,) class index of each.
        margin: weighted F1 that may be lost, 0 to 1.
        confidence: of not losing more, between 0.5 and 1.
        resolution: of the share.
        method, rule, seed: as in `Subnetwork.extract`; a method that ranks.

    Raises:
        ValueError: an argument out of range, or as `Subnetwork.extract`.
    """
    _check_range("margin", margin, 0, 1)
    _check_range("confidence", confidence, 0.5, 1)
    _check_range("resolution", resolution, 0, 1)
    labels, full = np.asarray(labels), np.asarray(predict(model))
    pair = Pair.of(open_source(pretrained), Memory(model))
    finetuned = {name: pair.finetuned_tensor(name) for name in (*pair.body, *pair.whole)}  # tied ones once
    base = {name: pair.base.tensor(other).to(finetuned[name]) for name, other in pair.body.items()}
    ranks = selection.rank_tensors(finetuned, base, method, seed)
    steps = max(1, round(1 / resolution))
    looks: dict[int, Look] = {}

    def enough(step: int) -> bool:
        share = step / steps
        found = Subnetwork.from_ranks(base, finetuned, ranks, share, method, rule)
        found.inject(model)
        looks[step] = _look(share, found.kept_share, labels, full, np.asarray(predict(model)), margin, confidence)
        return looks[step].not_inferior

    try:
        _write(model, base)
        low, high = 0, steps  # keeping everything is enough, by definition
        with tqdm(total=steps.bit_length(), disable=not progress, unit="share", leave=False) as bar:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if enough(middle) else (middle, high)
                bar.update()
        if high == steps:
            enough(steps)
    finally:
        Subnetwork.forget(model)
        _write(model, finetuned)
    curve = [looks[step] for step in sorted(looks)]
    return Suggestion(high / steps, weighted_f1(labels, full), margin, confidence, curve)


def _look(share, kept_share, labels, full, pruned, margin: float, confidence: float) -> Look:
    loss = weighted_f1(labels, full) - weighted_f1(labels, pruned)
    bound = loss_bound(labels, full, pruned, confidence)
    return Look(share, kept_share, weighted_f1(labels, pruned), loss, bound, bound <= margin)


def weighted_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of every class, weighted by its number of labels.

    Example:
        >>> weighted_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
        0.7333333333333334
    """
    ones = np.ones((1, len(labels)))
    return float(_weighted_f1s(np.asarray(labels), np.asarray(predictions), ones)[0])


def loss_bound(labels: np.ndarray, full: np.ndarray, pruned: np.ndarray, confidence: float) -> float:
    """Upper bound of weighted F1 lost from `full` to `pruned`, by resampling examples in pairs, from a fixed seed.

    Args:
        labels, full, pruned: (examples,) class indices.
        confidence: that the loss is not greater.
    """
    kinds, counts = np.unique(np.stack([labels, full, pruned]), axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), RESAMPLES).astype(float)
    lost = _weighted_f1s(kinds[0], kinds[1], draws) - _weighted_f1s(kinds[0], kinds[2], draws)
    return float(np.quantile(lost, confidence))


def _weighted_f1s(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted F1 of each row of `counts` (resamples, examples): how often an example counts."""
    classes = np.unique(labels)
    true = (labels[:, None] == classes).astype(float)
    predicted = (predictions[:, None] == classes).astype(float)
    support, named, hits = counts @ true, counts @ predicted, counts @ (true * predicted)
    f1 = 2 * hits / np.maximum(support + named, 1)
    return (f1 * support).sum(1) / counts.sum(1)


@torch.no_grad()
def _write(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name} must lie between {low} and {high}, found {value}.")
