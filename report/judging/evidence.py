"""What claims are judged from, what a judgement says, and the verdicts that follow from intervals and margins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report import style
from report.judging.losses import LossSample
from report.results import CELL
from report.statistics import Differences, Interval, Sample, differences, hierarchical_interval, matched

REPRODUCED, NOT_REPRODUCED, NOT_DECIDED = "reproduced", "not reproduced", "not decided"
ALL = "all models"
NO_INTERVAL = Interval(np.nan, np.nan, np.nan)
ROUNDING = 1e-9  # two shares that differ less are the same number, written differently


class Undecided(Exception):
    """What a claim needs is not in the study; the message says what, as a part of a sentence."""


@dataclass(frozen=True)
class Evidence:
    """What claims are judged from.

    Attributes:
        results: folder of the study. scores: all rows of scores.csv, those without a score too.
        sample: scores with their bootstrap resamples. confidence: of all intervals.
        losses: of pruned language models, None where the study has none.
    """

    results: Path
    scores: pd.DataFrame
    sample: Sample
    confidence: float
    losses: LossSample | None = None

    @property
    def models(self) -> list[str]:
        """Names of the models, those without any score too."""
        return list(dict.fromkeys(self.scores["model"]))

    def rows(self, method: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method in `sample.rows`, of one model or all.

        Raises:
            Undecided: there are none.
        """
        rows = self.sample.rows[self.sample.rows["method"] == method]
        chosen = rows if model is None else rows[rows["model"] == model]
        if chosen.empty:
            raise Undecided(self._why_missing(method))
        return chosen

    def _why_missing(self, method: str) -> str:
        tried = self.scores[self.scores["method"] == method]
        if tried.empty:
            return f"the study has no method {method}"
        reasons = [reason.rstrip(".") for reason in tried["reason"] if reason]
        return f"{method} has no score to compare" + (f" ({reasons[0]})" if reasons else "")

    def pairs(self, method: str, reference: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method matched with those of a reference at equal budgets, as `statistics.matched` gives them.

        Raises:
            Undecided: there are none.
        """
        pairs = matched(pd.concat([self.rows(method, model), self.rows(reference, model)]), reference)
        if pairs.empty:
            raise Undecided(f"{method} and {reference} have no budget in common")
        return pairs

    def interval(self, compared: pd.DataFrame | Differences, over_pairs: bool = True, budgets: int = 1) -> Interval:
        """Hierarchical interval of the mean difference, Bonferroni's where it is one of several `budgets`."""
        if isinstance(compared, pd.DataFrame):
            compared = differences(self.sample, compared)
        return hierarchical_interval(compared, 1 - (1 - self.confidence) / budgets, over_pairs)


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        subject: what it is about, e.g. a model. n: number of cells it rests on.
        why: one sentence in numbers. unit: of the interval's numbers.
    """

    subject: str
    verdict: str
    n: int
    why: str
    interval: Interval = NO_INTERVAL
    unit: str = "points"


def judged(subject: str, judge: Callable[[], Finding]) -> Finding:
    """The finding of `judge`, or one that says what the study lacks."""
    try:
        return judge()
    except Undecided as missing:
        return undecided(subject, missing)


def undecided(subject: str, missing: Undecided) -> Finding:
    """The finding on a subject for which the study lacks something."""
    return Finding(subject, NOT_DECIDED, 0, f"Not decided: {missing}.")


def not_inferior(interval: Interval, margin: float) -> str:
    """Verdict on "equal or better": no loss as large as the margin is left, or no smaller one."""
    return REPRODUCED if interval.low > -margin else NOT_REPRODUCED if interval.high < -margin else NOT_DECIDED


def superior(interval: Interval, margin: float) -> str:
    """Verdict on "ahead": above 0, or no advantage as large as the margin is left."""
    return REPRODUCED if interval.low > 0 else NOT_REPRODUCED if interval.high < margin else NOT_DECIDED


def different(interval: Interval, margin: float) -> str:
    """Verdict on "different": 0 is ruled out, or every difference as large as the margin is."""
    if interval.low > 0 or interval.high < 0:
        return REPRODUCED
    return NOT_REPRODUCED if max(-interval.low, interval.high) < margin else NOT_DECIDED


def worst_of(verdicts: Sequence[str]) -> str:
    """Verdict on all of several: one that is not reproduced decides, then one that is not decided."""
    return next((verdict for verdict in (NOT_REPRODUCED, NOT_DECIDED) if verdict in verdicts), REPRODUCED)


def best_of(verdicts: Sequence[str]) -> str:
    """Verdict on any of several: one that is reproduced decides, then one that is not decided."""
    return next((verdict for verdict in (REPRODUCED, NOT_DECIDED) if verdict in verdicts), NOT_REPRODUCED)


def deciding(intervals: dict, verdicts: dict, verdict: str) -> list:
    """Keys of the intervals that a verdict on all of them rests on: those of the same verdict, or all."""
    return [key for key in intervals if verdicts[key] == verdict] or list(intervals)


def in_points(interval: Interval, confidence: float, joint: bool = False) -> str:
    """For people: the difference and its interval, with two decimals so that the sign of small ones is seen."""
    numbers = [f"{value:+.2f}".replace("-", "−") for value in interval]
    kind = f"{'joint ' if joint else ''}{style.percent(confidence)} interval"
    return f"{numbers[0]} points ({kind} {numbers[1]} to {numbers[2]})"


def cells_of(pairs: pd.DataFrame) -> int:
    """Number of cells in a table with model, task and seed."""
    return len(pairs[CELL].drop_duplicates())
