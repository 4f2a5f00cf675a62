"""The smallest file whose model is, at a confidence, not inferior to the fine-tuned model on validation examples.

Files of one way of coding are tried from large to small, and the search ends at the first that fails. So each is tested
only if all larger ones passed, and the probability that a file passes whose loss is above the margin stays below
1 - confidence, however many are tried (fixed-sequence testing; Maurer, Hothorn and Lehmacher 1995). Several ways of
coding share that probability equally (Bonferroni).
"""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from ken.coding.coder import Coding
from ken.pairing import Pair
from ken.sources import AnySource
from ken.streaming import prune
from ken.subnetwork import Subnetwork
from ken.suggestion import (
    Predict,
    checked_confidence,
    loss_bound,
    majority_score,
    notes_on,
    tensors_of,
    weighted_f1,
    write_into,
)

CODINGS = (Coding("3bit", "seed"), Coding("2bit", "seed"))
"""The ways of coding that stored least in the studies."""
SHARES = tuple(round(2 ** (-step / 2), 4) for step in range(1, 15))
"""Kept shares from 71 % down to 0.8 %, each smaller by the square root of 2."""


@dataclass(frozen=True)
class FileTrial:
    """A file and its validation scores.

    Attributes:
        values, positions, share: how it was written: `values`, `positions` and `k` of `ken.prune`.
        file_bytes: its size.
        weighted_f1: of the restored model. loss: of weighted F1. loss_bound: upper confidence bound of the loss.
        not_inferior: whether the bound is within the margin.
    """

    values: str
    positions: str
    share: float
    file_bytes: int
    weighted_f1: float
    loss: float
    loss_bound: float
    not_inferior: bool


@dataclass(frozen=True)
class Certificate:
    """All trials in their order, and the smallest file that passed, or None.

    Attributes:
        finished: whether the search ended before its time.
        majority_weighted_f1: of always answering the most common class of the validation examples.
        notes: what a user should know, one sentence each.
    """

    smallest: FileTrial | None
    full_weighted_f1: float
    margin: float
    confidence: float
    finished: bool
    curve: list[FileTrial]
    majority_weighted_f1: float
    notes: list[str]

    def as_dict(self) -> dict:
        """The fields as plain values, for JSON."""
        return asdict(self) | {"share": self.smallest.share if self.smallest else None}

    def text(self) -> str:
        """A table of the trials, then the result."""
        lines = ["values positions  share       bytes  weighted F1     loss  at most"]
        for trial in self.curve:
            numbers = f"{trial.file_bytes:11,} {trial.weighted_f1:12.4f} {trial.loss:8.4f} {trial.loss_bound:8.4f}"
            verdict = "enough" if trial.not_inferior else "too little"
            lines.append(f"{trial.values:6} {trial.positions:9} {trial.share:6.2%} {numbers}  {verdict}")
        if not self.finished:
            lines.append("the time was over before the search ended: smaller files may suffice")
        lines += [f"note: {note}" for note in self.notes]
        limit = f"at most {self.margin:g} of {self.full_weighted_f1:.4f} is lost at {self.confidence:.0%} confidence"
        if self.smallest is None:
            return "\n".join([*lines, f"no file shows that {limit}: give more validation rows or a larger margin"])
        chosen = self.smallest
        options = f"--k {chosen.share:g} --values {chosen.values} --positions {chosen.positions}"
        return "\n".join([*lines, f"{chosen.file_bytes:,} bytes ({options}): {limit}"])


def write_file(
    pretrained: AnySource, finetuned: AnySource, out: str | Path, trial: FileTrial, rule: str, allow_head: bool = False
) -> None:
    """Write the file of a trial."""
    coding = {"values": trial.values, "positions": trial.positions}
    prune(pretrained, finetuned, out, trial.share, rule=rule, allow_head=allow_head, **coding)


def smallest_file(
    pretrained: AnySource,
    model: nn.Module,
    predict: Predict,
    labels: np.ndarray,
    margin: float = 0.01,
    confidence: float = 0.95,
    codings: Sequence[Coding] = CODINGS,
    shares: Sequence[float] = SHARES,
    rule: str = "rescale",
    seconds: float = math.inf,
    progress: bool = False,
    allow_head: bool = False,
) -> Certificate:
    """Search for the smallest file that is not inferior; every file is written, read back and evaluated.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        model: the fine-tuned model; its weights are replaced during the search and restored at the end.
        predict: predictions of a model on the validation examples.
        labels: (examples,) class index of each.
        margin: largest accepted loss of weighted F1, 0 to 1.
        confidence: that the loss is not larger, between 0.5 and 1.
        codings, rule: how files are written. shares: kept shares, descending.
        seconds: no further file is begun after this time.
        progress: show a bar on stderr. allow_head: as in `Subnetwork.extract`.

    Raises:
        ValueError: an argument is out of range, there are too few validation examples; or see `ken.prune`.
    """
    labels, start = np.asarray(labels), time.monotonic()
    each = checked_confidence(margin, confidence, len(labels), len(codings))
    full = np.asarray(predict(model))
    full_score, trials, finished = weighted_f1(labels, full), [], True
    base, finetuned = tensors_of(Pair.opened(pretrained, model, allow_head))

    def attempt(coding: Coding, share: float, path: Path) -> FileTrial:
        prune(base, finetuned, path, share, rule=rule, **asdict(coding))
        write_into(model, Subnetwork.load(path).apply(base))
        pruned = np.asarray(predict(model))
        score, bound = weighted_f1(labels, pruned), loss_bound(labels, full, pruned, each)
        size, loss = path.stat().st_size, full_score - score
        return FileTrial(coding.values, coding.positions, share, size, score, loss, bound, bound <= margin)

    try:
        with tempfile.TemporaryDirectory() as folder, tqdm(disable=not progress, unit=" files", leave=False) as bar:
            for coding in codings:
                for share in shares:
                    if finished := time.monotonic() - start < seconds:
                        trials.append(attempt(coding, share, Path(folder, "trial")))
                        bar.update()
                    if not (finished and trials[-1].not_inferior):
                        break
    finally:
        write_into(model, finetuned)
    passed = [trial for trial in trials if trial.not_inferior]
    smallest = min(passed, key=lambda trial: trial.file_bytes, default=None)
    notes = notes_on(labels, full_score)
    return Certificate(smallest, full_score, margin, confidence, finished, trials, majority_score(labels), notes)
