"""Evidence for claims, findings on them, and verdicts from intervals and margins."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from report import style
from report.judging.losses import LossSample
from report.results import CELL, PAIR
from report.statistics import Differences, Interval, Sample, differences, hierarchical_interval, matched
from report.table import tuples

REPRODUCED, NOT_REPRODUCED, NOT_DECIDED = "reproduced", "not reproduced", "not decided"
NOT_TESTED = "not tested here"  # too few pairs or seeds, or models that have not learned
LEAST_SEEDS = 2  # a bootstrap over one seed says nothing about the spread over seeds
ALL = "all models"
NO_INTERVAL = Interval(np.nan, np.nan, np.nan)
ROUNDING = 1e-9  # shares that differ less are the same number


class Undecided(Exception):
    """The study lacks something that a claim needs; the message names it, as part of a sentence."""

    verdict = NOT_DECIDED


class Untested(Undecided):
    """The study has rows on a claim, but all of them are of models that have not learned."""

    verdict = NOT_TESTED


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        subject: what it is about, e.g. a model. n: number of cells behind it.
        why: a sentence with the numbers. unit: of the interval.
    """

    subject: str
    verdict: str
    n: int
    why: str
    interval: Interval = NO_INTERVAL
    unit: str = "points"


@dataclass(frozen=True)
class Evidence:
    """The data from which claims are judged.

    Attributes:
        results: folder of the study. scores: all rows of scores.csv, also those without a score.
        sample: scores with their bootstrap resamples. confidence: of all intervals.
        losses: of pruned language models; None if the study has none.
        unlearned: cells whose fully fine-tuned model has not learned (`report.scores.unlearned_cells`); they count for
            no verdict.
    """

    results: Path
    scores: pd.DataFrame
    sample: Sample
    confidence: float
    losses: LossSample | None = None
    unlearned: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CELL))

    @property
    def models(self) -> list[str]:
        """Names of all models, also those without any score."""
        return list(dict.fromkeys(self.scores["model"]))

    @property
    def parameters(self) -> pd.Series:
        """Model -> number of parameters of its full model, for the models whose number is known."""
        full = self.scores[self.scores["method"] == "full"]
        return full.groupby("model", sort=False)["parameters"].max().dropna()

    def rows(self, method: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method in `sample.rows`, for one model or all, in the cells whose model has learned.

        Raises:
            Undecided: there are none.
        """
        rows = self.sample.rows[self.sample.rows["method"] == method]
        chosen = rows if model is None else rows[rows["model"] == model]
        if chosen.empty:
            raise Undecided(self._why_missing(method))
        return self.learned(chosen)

    def learned(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of a table with model, task and seed that lie in cells whose fully fine-tuned model has learned.

        Raises:
            Untested: there are none.
        """
        unlearned = set(tuples(self.unlearned, CELL))
        chosen = rows[[cell not in unlearned for cell in tuples(rows, CELL)]]
        if chosen.empty:
            raise Untested(
                f"no fully fine-tuned model has learned its task ({style.count(cells_of(rows), 'cell')}); "
                "it takes models that learn"
            )
        return chosen

    def _why_missing(self, method: str) -> str:
        tried = self.scores[self.scores["method"] == method]
        if tried.empty:
            return f"not tested here, since the study has no method {method}"
        reasons = [reason.rstrip(".") for reason in tried["reason"] if reason]
        return f"{method} has no score to compare" + (f" ({reasons[0]})" if reasons else "")

    def pairs(self, method: str, reference: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method matched with those of a reference at equal budgets (`statistics.matched`).

        Raises:
            Undecided: there are none.
        """
        pairs = matched(pd.concat([self.rows(method, model), self.rows(reference, model)]), reference)
        if pairs.empty:
            raise Undecided(f"{method} and {reference} have no budget in common")
        return pairs

    def if_tested(
        self,
        finding: Finding,
        cells: pd.DataFrame,
        over_pairs: bool = True,
        over_seeds: bool = True,
        unit: tuple[str, str] = ("pair of model and task", "pairs of model and task"),
    ) -> Finding:
        """The finding, or the same estimate without a verdict if it rests on too few pairs or seeds.

        Args:
            finding: with a verdict from an interval.
            cells: table with model, task and seed of the differences behind it.
            over_pairs: whether the claim is about more than these pairs of model and task.
            over_seeds: whether the interval resamples seeds.
            unit: what a pair is called, and its plural.
        """
        pairs, seeds = len(cells[PAIR].drop_duplicates()), cells["seed"].nunique()
        lacking = []
        if over_pairs and pairs < least_pairs(self.confidence):
            lacking.append(f"{style.count(pairs, *unit)} ({least_pairs(self.confidence)} needed)")
        if over_seeds and seeds < LEAST_SEEDS:
            lacking.append(f"{style.count(seeds, 'seed')} ({LEAST_SEEDS} needed)")
        why = f"{finding.why} Not tested here: the study has {' and '.join(lacking)}."
        return replace(finding, verdict=NOT_TESTED, why=why) if lacking else finding

    def interval(self, compared: pd.DataFrame | Differences, over_pairs: bool = True, budgets: int = 1) -> Interval:
        """Hierarchical interval of the mean difference, with Bonferroni's correction for a number of `budgets`."""
        if isinstance(compared, pd.DataFrame):
            compared = differences(self.sample, compared)
        return hierarchical_interval(compared, 1 - (1 - self.confidence) / budgets, over_pairs)


def judged(subject: str, judge: Callable[[], Finding]) -> Finding:
    """The finding of `judge`, or one that says what the study lacks."""
    try:
        return judge()
    except Undecided as missing:
        return undecided(subject, missing)


def undecided(subject: str, missing: Undecided) -> Finding:
    """The finding on a subject for which the study lacks something."""
    return Finding(subject, missing.verdict, 0, f"{missing.verdict.capitalize()}: {missing}.")


def least_pairs(confidence: float) -> int:
    """The smallest number of pairs of model and task from which a verdict on all models can follow.

    The widest interval that P pairs allow, from the lowest to the highest, contains the median over all pairs with
    probability 1 - 2^(1 - P). At a confidence of 0.95 this needs 6 pairs.
    """
    return math.ceil(1 - math.log2(1 - confidence) - ROUNDING)


def not_inferior(interval: Interval, margin: float) -> str:
    """Verdict on "equal or better": the interval excludes losses as large as the margin, or all smaller ones."""
    return REPRODUCED if interval.low > -margin else NOT_REPRODUCED if interval.high < -margin else NOT_DECIDED


def superior(interval: Interval, margin: float) -> str:
    """Verdict on "ahead": the interval is above 0, or excludes advantages as large as the margin."""
    return REPRODUCED if interval.low > 0 else NOT_REPRODUCED if interval.high < margin else NOT_DECIDED


def different(interval: Interval, margin: float) -> str:
    """Verdict on "different": the interval excludes 0, or all differences as large as the margin."""
    if interval.low > 0 or interval.high < 0:
        return REPRODUCED
    return NOT_REPRODUCED if max(-interval.low, interval.high) < margin else NOT_DECIDED


def worst_of(verdicts: Sequence[str]) -> str:
    """Verdict that all of several hold: one that is not reproduced refutes it; others that differ decide nothing."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return verdicts[0] if len(set(verdicts)) == 1 else NOT_DECIDED


def best_of(verdicts: Sequence[str]) -> str:
    """Verdict that any of several holds: "reproduced" takes precedence, then "not decided"."""
    return next((verdict for verdict in (REPRODUCED, NOT_DECIDED) if verdict in verdicts), NOT_REPRODUCED)


def deciding(intervals: dict, verdicts: dict, verdict: str) -> list:
    """Keys of the intervals behind an overall verdict: those with the same verdict, or all if there are none."""
    return [key for key in intervals if verdicts[key] == verdict] or list(intervals)


def in_points(interval: Interval, confidence: float, joint: bool = False) -> str:
    """Text for a difference and its interval, with two decimals so that small ones keep their sign."""
    numbers = [f"{value:+.2f}".replace("-", "−") for value in interval]
    kind = f"{'joint ' if joint else ''}{style.percent(confidence)} interval"
    return f"{numbers[0]} points ({kind} {numbers[1]} to {numbers[2]})"


def cells_of(pairs: pd.DataFrame) -> int:
    """Number of cells in a table with model, task and seed."""
    return len(pairs[CELL].drop_duplicates())
