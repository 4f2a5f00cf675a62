"""Evidence for claims, findings on them, and verdicts from intervals and margins."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from report import style
from report.intervals import (
    LEAST_SEEDS,
    LEAST_UNITS,
    Differences,
    Interval,
    Uncertainty,
    by_checkpoint,
    held_fixed,
    scope,
    uncertainty,
)
from report.judging.losses import LossSample
from report.results import CELL, FAILS, HOLDS, NOT_TESTED, OPEN, OPEN_LOSS, PAIR
from report.scores import NEAR
from report.statistics import Sample, differences, matched
from report.table import tuples

NO_INTERVAL = Interval(np.nan, np.nan, np.nan)
ROUNDING = 1e-9  # shares that differ less are the same number
FAR = 10  # an interval that would have to be so many times narrower is not within reach


class Untested(Exception):
    """The study lacks something that a claim needs.

    Attributes:
        lacks: what, as a part of a sentence. needs: what it takes, a noun phrase; "" if that is not known.
    """

    def __init__(self, lacks: str, needs: str = ""):
        super().__init__(lacks)
        self.lacks, self.needs = lacks, needs


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        subject: what it is about, e.g. a model. n: number of cells behind it.
        why: sentences with the numbers. unit: of the interval.
        scope: what the verdict is limited to, e.g. "on these two tasks"; "" if it is about others too.
        needs: a sentence on what would decide an open claim; "" for others.
        limits: the values of the estimate that the rule compares its interval with, other than 0.
    """

    subject: str
    verdict: str
    n: int
    why: str
    interval: Interval = NO_INTERVAL
    unit: str = "points"
    scope: str = ""
    needs: str = ""
    limits: tuple[float, ...] = ()


@dataclass(frozen=True)
class Question:
    """What is asked of a difference, with the verdict that its interval and a margin give.

    Attributes:
        verdict: interval, margin -> verdict.
        room: estimate, margin -> the half width of an interval about this estimate that would decide.
        limits: 1 or -1 for each limit at that multiple of the margin.
    """

    verdict: Callable[[Interval, float], str]
    room: Callable[[float, float], float]
    limits: tuple[int, ...]


def not_inferior(interval: Interval, margin: float) -> str:
    """Verdict on "equal or better": the interval excludes losses as large as the margin, or all smaller ones."""
    if interval.low > -margin:
        return HOLDS
    return FAILS if interval.high < -margin else OPEN_LOSS if interval.high < 0 else OPEN


def superior(interval: Interval, margin: float) -> str:
    """Verdict on "ahead": the interval is above 0, or excludes advantages as large as the margin."""
    return HOLDS if interval.low > 0 else FAILS if interval.high < margin else OPEN


def different(interval: Interval, margin: float) -> str:
    """Verdict on "different": the interval excludes 0, or all differences as large as the margin."""
    if interval.low > 0 or interval.high < 0:
        return HOLDS
    return FAILS if max(-interval.low, interval.high) < margin else OPEN


NO_LOSS = Question(not_inferior, lambda estimate, margin: abs(estimate + margin), (-1,))
AHEAD = Question(superior, lambda estimate, margin: max(estimate, margin - estimate), (1,))
DIFFERENT = Question(different, lambda estimate, margin: max(abs(estimate), margin - abs(estimate)), (-1, 1))


@dataclass(frozen=True)
class Unit:
    """What a claim about more than the study needs several of.

    Attributes:
        singular, plural: its name. columns: those among model and task that tell one from another.
    """

    singular: str
    plural: str
    columns: Sequence[str]

    def count(self, number: int) -> str:
        """A number of them: "6 pairs of model and task"."""
        return style.count(number, self.singular, self.plural)


PAIRS = Unit("pair of model and task", "pairs of model and task", PAIR)
LANGUAGE_MODELS = Unit("model", "models", ["model"])


@dataclass(frozen=True)
class Evidence:
    """The data from which claims are judged.

    Attributes:
        results: folder of the study. scores: all rows of scores.csv, also those without a score.
        sample: scores with the influence of each test text. confidence: of all intervals.
        losses: of pruned language models; None if the study has none.
        unlearned: cells whose fully fine-tuned model has not learned (`report.scores.unlearned_cells`); they count for
            no verdict.
        chance: task -> the weighted F1 that a model reaches by chance (`report.scores.reached_by_chance`).
    """

    results: Path
    scores: pd.DataFrame
    sample: Sample
    confidence: float
    losses: LossSample | None = None
    unlearned: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CELL))
    chance: Mapping[str, float] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Names of all models, also those without any score."""
        return list(dict.fromkeys(self.scores["model"]))

    @property
    def sharing(self) -> set[str]:
        """Names of the models that start from the same checkpoint as another one."""
        return set(self.sample.checkpoints) | set(self.sample.checkpoints.values())

    @property
    def checkpoints(self) -> int:
        """Number of different checkpoints that the models start from."""
        return len(set(self.models) - set(self.sample.checkpoints))

    @property
    def parameters(self) -> pd.Series:
        """Model -> number of parameters of its full model, for the models whose number is known."""
        full = self.scores[self.scores["method"] == "full"]
        return full.groupby("model", sort=False)["parameters"].max().dropna()

    def rows(self, method: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method in `sample.rows`, for one model or all, in the cells whose model has learned.

        Raises:
            Untested: there are none.
        """
        rows = self.sample.rows[self.sample.rows["method"] == method]
        chosen = rows if model is None else rows[rows["model"] == model]
        if chosen.empty:
            raise self._missing(method, model)
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
                f"no fully fine-tuned model has learned its task ({style.count(cells_of(rows), 'cell')})",
                "models that learn",
            )
        return chosen

    def _missing(self, method: str, model: str | None) -> Untested:
        tried = self.scores[self.scores["method"] == method]
        if tried.empty:
            return Untested(f"the study has no method {method}", f"a run with {method}")
        if model is not None:
            tried = tried[tried["model"] == model]
        if tried.empty:
            return Untested(f"{method} was not run on {model}", f"a run of {method} on {model}")
        reasons = [reason.rstrip(".") for reason in tried["reason"] if reason]
        return Untested(f"{method} has no score to compare" + (f" ({reasons[0]})" if reasons else ""))

    def pairs(self, method: str, reference: str, model: str | None = None) -> pd.DataFrame:
        """Rows of a method matched with those of a reference at equal budgets (`statistics.matched`).

        Raises:
            Untested: there are none.
        """
        pairs = matched(pd.concat([self.rows(method, model), self.rows(reference, model)]), reference)
        if pairs.empty:
            raise Untested(f"{method} and {reference} have no budget in common", "a run at equal budgets")
        return pairs

    def between_floor_and_ceiling(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Rows of `pairs` that can tell two methods apart.

        Left out are rows in which both methods score no more than by chance, and rows in which both are within a point
        of the full model.

        Raises:
            Untested: none is left.
        """
        f1 = self.sample.rows["weighted_f1"]
        both = np.stack([f1[pairs["row"]].to_numpy(), f1[pairs["row_reference"]].to_numpy()])
        rows = self.sample.rows
        full = rows[rows["method"] == "full"].set_index(CELL)["weighted_f1"]
        full = full.reindex(pd.MultiIndex.from_frame(pairs[CELL])).to_numpy()
        chance = pairs["task"].map(self.chance).fillna(-np.inf).to_numpy(float)
        extreme = (both.max(0) <= chance + ROUNDING) | (100 * (full - both).max(0) <= NEAR + ROUNDING)
        if extreme.all():
            where = "both methods are at chance or within a point of the full model in all cells"
            raise Untested(where, "other kept shares")
        return pairs[~extreme]

    def compare(
        self,
        subject: str,
        pairs: pd.DataFrame | Differences,
        question: Question,
        margin: float,
        what: str,
        over_pairs: bool = True,
        joint: int = 1,
        seeds_from: pd.DataFrame | Differences | None = None,
        least: int | None = None,
    ) -> Finding:
        """The finding on one difference.

        Args:
            subject: what the finding is about.
            pairs: what is compared.
            question: that is asked of the difference.
            margin: in points.
            what: the beginning of the sentence with the difference.
            over_pairs: whether the claim is about other models and tasks too.
            joint: number of intervals that hold together with the confidence of one (Bonferroni).
            seeds_from: see `uncertainty`.
            least: see `if_tested`.
        """
        gaps = self._differences(pairs)
        unsure = uncertainty(gaps, over_pairs, None if seeds_from is None else self._differences(seeds_from))
        interval = unsure.interval(1 - (1 - self.confidence) / joint)
        n, of = cells_of(gaps.cells), cells_of(self.scores)
        cells = style.count(n, "cell") if n == of or not over_pairs else f"{n} of {of} cells"
        why = f"{what}: {in_points(interval, self.confidence, joint > 1)} in {cells}."
        limits = tuple(sign * margin for sign in question.limits)
        finding = Finding(subject, question.verdict(interval, margin), n, why, interval, limits=limits)
        finding = self.if_tested(finding, gaps.cells, over_pairs, least=least)
        if finding.verdict == NOT_TESTED:
            return finding
        note = loss_note(finding, margin) if question is NO_LOSS else ""
        return with_needs(replace(finding, why=why + note), unsure, question.room(interval.estimate, margin))

    def _differences(self, pairs: pd.DataFrame | Differences) -> Differences:
        return differences(self.sample, pairs) if isinstance(pairs, pd.DataFrame) else pairs

    def if_tested(
        self,
        finding: Finding,
        cells: pd.DataFrame,
        over_pairs: bool = True,
        over_seeds: bool = True,
        unit: Unit = PAIRS,
        least: int | None = None,
    ) -> Finding:
        """The finding with its scope, or the same estimate without a verdict if it rests on too few pairs or seeds.

        Args:
            finding: with a verdict from an interval.
            cells: table with model, task and seed of the differences behind it.
            over_pairs: whether the claim is about more than these pairs of model and task.
            over_seeds: whether the interval contains the spread over seeds.
            unit: what is counted.
            least: number of units that a claim about more than these needs (`least_pairs` by default), unless it is
                limited to the models of the study and their tasks are a sample of others.
        """
        units = by_checkpoint(cells, self.sample.checkpoints)
        number, seeds = len(units[PAIR].drop_duplicates()), seeds_of(cells)
        least = least_pairs(self.confidence) if least is None else least
        of_tasks = held_fixed(units) == ["model"]  # the verdict is on these models; their tasks are a sample
        lacking = []
        if over_pairs and number < least and not of_tasks:
            few_models = unit is PAIRS and units["model"].nunique() < LEAST_UNITS
            tasks = f"; {LEAST_UNITS} tasks would do for these models" if few_models else ""
            lacking.append(f"{unit.count(least)} (the study has {number}{tasks})")
        if over_seeds and seeds < LEAST_SEEDS:
            lacking.append(f"{style.count(LEAST_SEEDS, 'seed')} (the study has {seeds})")
        if lacking:
            return replace(finding, verdict=NOT_TESTED, needs=f"It takes {' and '.join(lacking)}.")
        return replace(finding, scope=scope(cells, over_pairs, unit.columns, self.sample.checkpoints))


def loss_note(finding: Finding, margin: float) -> str:
    """A sentence on a loss that is shown but does not decide whether it is above the margin; "" for others."""
    if finding.verdict == HOLDS and finding.interval.high < 0:
        return " A loss is shown, and it is below the margin."
    if finding.verdict == OPEN_LOSS:
        least, most = (f"{-end:.2f}" for end in (finding.interval.high, finding.interval.low))
        return f" A loss is shown, {least} to {most} points; whether it is above {margin:g} is open."
    return ""


def with_needs(finding: Finding, unsure: Uncertainty, room: float) -> Finding:
    """An open finding with what would decide it (`what_it_takes`); others as they are."""
    if finding.verdict not in (OPEN, OPEN_LOSS):
        return finding
    return replace(finding, needs=what_it_takes(unsure, finding.interval, room))


def what_it_takes(unsure: Uncertainty, interval: Interval, room: float) -> str:
    """A sentence on how much more of what would decide at the present estimate.

    Args:
        unsure: the variance behind the interval. interval: that did not decide.
        room: half width of an interval that would.
    """
    half = interval.high - interval.estimate
    if room * FAR < half:
        return "The estimate is so close to the limit that no study of a reachable size would decide."
    narrower = max(half / room, 1.1)
    return (
        f"It takes an interval {narrower:.1f} times narrower: about {narrower**2:.2g} times as many "
        f"{unsure.largest_source}, if the estimate stays."
    )


def judged(subject: str, judge: Callable[[], Finding]) -> Finding:
    """The finding of `judge`, or one that says what the study lacks."""
    try:
        return judge()
    except Untested as missing:
        return untested(subject, missing)


def untested(subject: str, missing: Untested) -> Finding:
    """The finding on a subject for which the study lacks something."""
    needs = f"It takes {missing.needs}." if missing.needs else ""
    return Finding(subject, NOT_TESTED, 0, f"{missing.lacks[:1].upper()}{missing.lacks[1:]}.", needs=needs)


def least_pairs(confidence: float) -> int:
    """The smallest number of pairs of model and task from which a verdict on all models can follow.

    The widest interval that P pairs allow, from the lowest to the highest, contains the median over all pairs with
    probability 1 - 2^(1 - P). At a confidence of 0.95 this needs 6 pairs.
    """
    return math.ceil(1 - math.log2(1 - confidence) - ROUNDING)


def in_points(interval: Interval, confidence: float, joint: bool = False) -> str:
    """Text for a difference and its interval, with two decimals so that small ones keep their sign."""
    numbers = [f"{value:+.2f}".replace("-", "−") for value in interval]
    kind = f"{'joint ' if joint else ''}{style.percent(confidence)} interval"
    return f"{numbers[0]} points ({kind} {numbers[1]} to {numbers[2]})"


def seeds_of(cells: pd.DataFrame) -> int:
    """Number of seeds of the pair of model and task that has most, in a table with model, task and seed.

    Seeds of different pairs say nothing about the spread over seeds.
    """
    return int(cells.groupby(PAIR)["seed"].nunique().max())


def cells_of(pairs: pd.DataFrame) -> int:
    """Number of cells in a table with model, task and seed."""
    return len(pairs[CELL].drop_duplicates())
