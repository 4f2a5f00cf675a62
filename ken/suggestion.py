"""The smallest share to keep with a validation score that is not inferior to that of the fine-tuned model.

The paper leaves k open. Here shares are tried by bisection over one nested ranking. Each is compared with the
fine-tuned model by a paired bootstrap over the validation examples. A share is not inferior if, with the given
confidence, its loss of weighted F1 is at most the margin (one-sided percentile interval; Efron and Tibshirani 1993,
chapter 13).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ken import selection
from ken.pairing import Pair
from ken.sources import AnySource, Tensors
from ken.subnetwork import Subnetwork
from ken.wrappers import live_tensors

Predict = Callable[[nn.Module], np.ndarray]
"""Model -> predicted class index of every validation example."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Trial:
    """The validation scores of one share.

    Attributes:
        share: requested share of each row.
        kept_share: realised share of the whole body.
        weighted_f1: of the restored model.
        loss: weighted F1 of the fine-tuned model minus that of the restored model.
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
    """The smallest share that is not inferior, and all trials, sorted by share.

    Attributes:
        majority_weighted_f1: of always answering the most common class of the validation examples.
        notes: what a user should know, one sentence each.
    """

    share: float
    full_weighted_f1: float
    margin: float
    confidence: float
    curve: list[Trial]
    majority_weighted_f1: float = 0.0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """The fields as plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A table of the trials, then the share."""
        lines = ["   kept  weighted F1     loss  at most"]
        for trial in self.curve:
            verdict = "enough" if trial.not_inferior else "too little"
            numbers = f"{trial.weighted_f1:12.4f} {trial.loss:8.4f} {trial.loss_bound:8.4f}"
            lines.append(f"{trial.share:7.2%} {numbers}  {verdict}")
        bound = f"at {self.confidence:.0%} confidence at most {self.margin:g} of {self.full_weighted_f1:.4f} is lost"
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"keep {self.share:.2%} of each row: {bound}", *notes])


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
    allow_head: bool = False,
    allow_few: bool = False,
) -> Suggestion:
    """Find the smallest share to keep of each row.

    Bisection assumes that keeping more does not hurt. If it does, the result still is a share that is not inferior.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        model: the fine-tuned model; its weights are replaced during the search and restored at the end.
        predict: predictions of a model on the validation examples.
        labels: (examples,) class index of each.
        margin: largest accepted loss of weighted F1, 0 to 1.
        confidence: that the loss is not larger, between 0.5 and 1.
        resolution: of the share.
        method, rule, seed: as in `Subnetwork.extract`; the method must rank.
        progress: show a bar on stderr. allow_head: as in `Subnetwork.extract`.
        allow_few: accept fewer than `examples_needed` validation examples; then a share may pass for lack of evidence.

    Raises:
        ValueError: an argument is out of range, there are too few validation examples; or see `Subnetwork.extract`.
    """
    labels = np.asarray(labels)
    if method == selection.GRID:
        raise ValueError(
            f"{method!r} depends on k: the entries of a smaller share are not among those of a larger one, so no "
            "share can be searched for; name a method that ranks, such as 'ken'."
        )
    check_range("resolution", resolution, 0, 1)
    checked_confidence(margin, confidence, math.inf if allow_few else len(labels))
    full = np.asarray(predict(model))
    full_score = weighted_f1(labels, full)
    pair = Pair.opened(pretrained, model, allow_head)
    base, finetuned = tensors_of(pair)
    ranks = _ranks(pair, finetuned, base, method, seed)
    steps = max(1, round(1 / resolution))
    trials: dict[int, Trial] = {}

    def is_enough(step: int) -> bool:
        subnetwork = Subnetwork.from_ranks(base, finetuned, ranks, step / steps, method, rule)
        subnetwork.inject(model)
        pruned = np.asarray(predict(model))
        score, bound = weighted_f1(labels, pruned), loss_bound(labels, full, pruned, confidence)
        trials[step] = Trial(step / steps, subnetwork.kept_share, score, full_score - score, bound, bound <= margin)
        return trials[step].not_inferior

    try:
        write_into(model, base)
        smallest = _bisect(is_enough, steps, progress)
    finally:
        Subnetwork.forget(model)
        write_into(model, finetuned)
    curve = [trials[step] for step in sorted(trials)]
    notes = notes_on(labels, full_score)
    return Suggestion(smallest / steps, full_score, margin, confidence, curve, majority_score(labels), notes)


def majority_score(labels: np.ndarray) -> float:
    """Weighted F1 of always answering the most common class."""
    return weighted_f1(labels, np.full_like(labels, np.bincount(labels).argmax()))


def notes_on(labels: np.ndarray, full_score: float) -> list[str]:
    """A note on a model that has not learned: it is within two standard errors of the most common class."""
    share, majority = np.bincount(labels).max() / len(labels), majority_score(labels)
    if share == 1:
        return ["all validation examples are of one class, which cannot show what a reset costs: add the others"]
    if full_score >= majority + 2 * (share * (1 - share) / len(labels)) ** 0.5:
        return []
    return [
        f"the fine-tuned model has not learned this task: its weighted F1 of {full_score:.4f} is not clearly above "
        f"that of always answering the most common class, {majority:.4f}, so that the result says nothing"
    ]


def checked_confidence(margin: float, confidence: float, examples: float, searches: int = 1) -> float:
    """Confidence of each of several searches, so that all together have the one asked for (Bonferroni).

    Args:
        examples: number of validation examples.

    Raises:
        ValueError: margin or confidence is out of range, or there are too few examples.
    """
    check_range("margin", margin, 0, 1)
    check_range("confidence", confidence, 0.5, 1)
    each = 1 - (1 - confidence) / searches
    if examples < (needed := examples_needed(margin, each)):
        raise ValueError(
            f"{examples} validation examples cannot show at {confidence:.0%} confidence that at most {margin:g} is "
            f"lost: give at least {needed:,}, or a larger margin."
        )
    return each


def _ranks(
    pair: Pair, finetuned: Tensors, base: Tensors, method: str | selection.Criterion, seed: int | None
) -> dict[str, torch.Tensor]:
    """Ranks of the body; entries beyond the vocabulary of the base come before all others."""
    ranks = selection.rank_tensors(finetuned, base, method, seed)
    for name, tensor in ranks.items():
        added = pair.added(name, slice(0, pair.spec(name).row_shape[0]))
        if added is not None:
            tensor[added.reshape(tensor.shape).to(tensor.device)] = -1
    return ranks


def examples_needed(margin: float, confidence: float) -> int:
    """Validation examples that can show at a confidence that at most the margin is lost, if none of them is.

    Of n independent examples none is lost with probability (1 - margin)^n if that share of all is lost; that must be
    at most 1 - confidence.

    Example:
        >>> examples_needed(0.01, 0.95), examples_needed(0.05, 0.95)
        (299, 59)
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-margin))


def _bisect(is_enough: Callable[[int], bool], steps: int, progress: bool) -> int:
    """The smallest step that is enough. The last one always is; it is only tried if no other one is."""
    low, high = 0, steps
    with tqdm(total=steps.bit_length(), disable=not progress, unit="share", leave=False) as bar:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
            bar.update()
    if high == steps:
        is_enough(steps)
    return high


def weighted_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of every class, weighted by its number of labels.

    Example:
        >>> weighted_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
        0.7333333333333334
    """
    ones = np.ones((1, len(labels)))
    return float(_weighted_f1s(np.asarray(labels), np.asarray(predictions), ones)[0])


def loss_bound(labels: np.ndarray, full: np.ndarray, pruned: np.ndarray, confidence: float) -> float:
    """Upper confidence bound of the weighted F1 lost from `full` to `pruned`: paired bootstrap with a fixed seed.

    Args:
        labels, full, pruned: (examples,) class indices.
        confidence: that the loss is not greater.
    """
    outcomes, counts = np.unique(np.stack([labels, full, pruned]), axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), RESAMPLES).astype(float)
    lost = _weighted_f1s(outcomes[0], outcomes[1], draws) - _weighted_f1s(outcomes[0], outcomes[2], draws)
    return float(np.quantile(lost, confidence))


def _weighted_f1s(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted F1 of each row of `counts` (resamples, examples): how often an example counts."""
    classes = np.unique(labels)
    true = (labels[:, None] == classes).astype(float)
    predicted = (predictions[:, None] == classes).astype(float)
    support, named, hits = counts @ true, counts @ predicted, counts @ (true * predicted)
    f1 = 2 * hits / np.maximum(support + named, 1)
    return (f1 * support).sum(1) / counts.sum(1)


def tensors_of(pair: Pair) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Pre-trained and fine-tuned tensors of a pair, tied ones once."""
    finetuned = {name: pair.finetuned_tensor(name) for name in (*pair.body, *pair.whole)}
    return {name: pair.base.tensor(base).to(finetuned[name]) for name, base in pair.body.items()}, finetuned


@torch.no_grad()
def write_into(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors into a live model."""
    state = live_tensors(model)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Check that an argument lies strictly between two limits.

    Raises:
        ValueError: it does not.
    """
    if not low < value < high:
        raise ValueError(f"{name} must lie between {low} and {high}, found {value}.")
