"""Confidence intervals of mean differences over models, tasks, seeds and test texts.

No interval has a random part, so a verdict cannot depend on a seed. The variance of a mean comes from the differences
between the units that a study has: models, tasks, seeds, test texts. Units that are crossed are counted as crossed
(Cameron, Gelbach and Miller 2011, "Robust Inference With Multiway Clustering"), and the interval is that of Student's t
with the degrees of freedom of Satterthwaite 1946, since a study has few models and tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats

from report.results import CELL, PAIR

CONFIDENCE = 0.95
LEAST_UNITS = 3  # of models or tasks that are taken as a sample of others; two hardly tell how much others differ
LEAST_SEEDS = 2  # one seed says nothing about the spread over seeds
UNEQUAL = 0.1  # p of an F test below which a model does not share the spread over seeds of the others
DECIMALS = 9  # to which scores and differences are rounded, so that the order of a sum has no effect
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}  # in words
NONE_SHARED: Mapping[str, str] = {}  # no model starts from the checkpoint of another


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Differences:
    """Differences in weighted F1, in points. A cell with several counts with their mean.

    Attributes:
        cells: model, task and seed of each difference, (n, 3).
        points: the differences, (n,).
        influence: of each test text on each difference, (n, texts). The squares of a row add up to the variance of the
            difference over draws of test texts. All cells of a task have the same texts in the same columns.
        checkpoints: model -> the first model that starts from the same checkpoint, for those that are not the first.
    """

    cells: pd.DataFrame
    points: np.ndarray
    influence: np.ndarray
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def over(self, keys: list[str]) -> "Differences":
        """Means of the differences that are equal in some of the columns of `cells`, sorted by them."""
        groups = self.cells.groupby(keys)
        codes, cells = groups.ngroup().to_numpy(), groups.size().index.to_frame(index=False)
        means = (group_means(codes, values) for values in (self.points, self.influence))
        return Differences(cells, *means, self.checkpoints)

    def by_checkpoint(self) -> "Differences":
        """The same, with all models that start from one checkpoint under the name of the first."""
        return replace(self, cells=by_checkpoint(self.cells, self.checkpoints))

    def text_variance(self, weights: np.ndarray) -> float:
        """Variance, over draws of test texts, of the sum of the differences times weights (n,)."""
        tasks = self.cells["task"].to_numpy()
        sums = [weights[tasks == task] @ self.influence[tasks == task] for task in dict.fromkeys(tasks)]
        return float(sum(np.square(each).sum() for each in sums))


@dataclass(frozen=True)
class Uncertainty:
    """A mean difference with its variance.

    Attributes:
        estimate: the mean. variance: of the mean. freedom: degrees of freedom of the variance, infinite if it is known.
        sources: what the variance comes from -> variance; they add up to about the whole.
    """

    estimate: float
    variance: float
    freedom: float
    sources: Mapping[str, float] = field(default_factory=dict)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Student's interval, symmetric about the estimate."""
        half = stats.t.ppf((1 + confidence) / 2, self.freedom) * np.sqrt(self.variance)
        ends = (self.estimate, self.estimate - half, self.estimate + half)
        return Interval(*(float(np.round(value, DECIMALS) + 0.0) for value in ends))  # no -0

    @property
    def largest_source(self) -> str:
        """What most of the variance comes from."""
        return max(self.sources, key=lambda name: self.sources[name])


def group_means(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of the values (n, ...) with the same code: codes (n,) from 0 to groups - 1 -> (groups, ...)."""
    weights = 1 / np.bincount(codes)[codes]
    return sparse.csr_array((weights, (codes, np.arange(len(codes))))) @ values


def by_checkpoint(cells: pd.DataFrame, checkpoints: Mapping[str, str]) -> pd.DataFrame:
    """A table with a column model, with all models that start from one checkpoint under the name of the first."""
    return cells.assign(model=cells["model"].replace(dict(checkpoints)))


def mean_interval(gaps: Differences, confidence: float = CONFIDENCE) -> Interval:
    """The mean difference over models × tasks with its interval; see `uncertainty`."""
    return uncertainty(gaps).interval(confidence)


def held_fixed(cells: pd.DataFrame, over_pairs: bool = True) -> list[str]:
    """Those of "model" and "task" that an interval takes as they are, because a study has fewer than `LEAST_UNITS`.

    Args:
        cells: table with model and task; models that start from one checkpoint have one name (`by_checkpoint`).
        over_pairs: False if the statement is about these models and tasks only.
    """
    return [name for name in PAIR if not over_pairs or cells[name].nunique() < LEAST_UNITS]


def scope(
    cells: pd.DataFrame, over_pairs: bool = True, of: Sequence[str] = PAIR, checkpoints: Mapping[str, str] = NONE_SHARED
) -> str:
    """What a statement is limited to: "on these two tasks"; "" if it is about other models and tasks too.

    Args:
        cells: table with model and task. over_pairs: False for a statement on one model.
        of: the columns among model and task that may be named. checkpoints: see `Differences`.
    """
    units = by_checkpoint(cells, checkpoints)
    nouns = {"task": "task", "model": "checkpoint" if set(cells["model"]) & set(checkpoints) else "model"}
    named = [name for name in of if name in held_fixed(units, over_pairs) and (over_pairs or name == "task")]
    counts = {nouns[name]: units[name].nunique() for name in named}
    parts = [
        f"this {noun}" if count == 1 else f"these {NUMBERS.get(count, count)} {noun}s" for noun, count in counts.items()
    ]
    return f"on {' and '.join(parts)}" if parts else ""


def uncertainty(gaps: Differences, over_pairs: bool = True, seeds_from: Differences | None = None) -> Uncertainty:
    """The mean difference over models × tasks and its variance. Pairs of model and task have equal weights.

    Models and tasks are a crossed sample of others if there are at least `LEAST_UNITS` of them. Where tasks are a
    sample, seeds and texts need no part of their own: differences between pairs contain them, and counting them again
    would make the interval too wide. Where tasks are not, all models have the same sample of texts.

    Models that start from one checkpoint, e.g. with several learning rates, are one model with their mean in the
    variance; in the mean difference, each has its own weight.

    Args:
        gaps: at least one difference.
        over_pairs: False if the statement is about these models and tasks only.
        seeds_from: differences that contain `gaps`, e.g. those of all models, whose spread over seeds is that of `gaps`
            too: two or three seeds of one model hardly tell it. If `gaps` spread significantly more, theirs counts. By
            default `gaps` alone.
    """

    def in_cells(several: Differences) -> Differences:
        cells = several.over(CELL)
        return cells.by_checkpoint().over(CELL) if over_pairs else cells

    cells, everywhere = in_cells(gaps), in_cells(gaps if seeds_from is None else seeds_from)
    pairs = cells.over(PAIR)
    sampled = [name for name in PAIR if name not in held_fixed(pairs.cells, over_pairs)]
    if len(sampled) == 2:
        unsure = _of_crossed(pairs)
    elif sampled:
        unsure = _of_units(pairs, sampled[0])
    else:
        unsure = _of_seeds(cells, pairs, *_spread_over_seeds(cells, everywhere))
    return replace(unsure, estimate=gaps.over(CELL).over(PAIR).points.mean())


def _of_crossed(pairs: Differences) -> Uncertainty:
    """Models × tasks without repetition, a random sample of both (Searle, Casella and McCulloch 1992, chapter 4).

    The variance of the mean is that between models plus that between tasks minus that of the residuals, which both
    contain. It is no less than the variance for independent pairs, so that it stays above 0. Satterthwaite's degrees of
    freedom are too few where variances are subtracted (Gaylor and Hopper 1969); those of the fewer units are the least.
    """
    n, mean = len(pairs.points), pairs.points.mean()
    codes = [pd.factorize(pairs.cells[name])[0] for name in PAIR]
    numbers = [code.max() + 1 for code in codes]
    sums = [np.bincount(code, pairs.points - mean) / n for code in codes]
    between = [k / (k - 1) * np.square(each).sum() for k, each in zip(numbers, sums, strict=True)]
    design = np.hstack([np.eye(k)[code] for k, code in zip(numbers, codes, strict=True)])
    residuals = pairs.points - design @ np.linalg.lstsq(design, pairs.points)[0]
    left = n - np.linalg.matrix_rank(design)
    residual = np.square(residuals).sum() / left / n if left else 0.0
    crossed, independent = sum(between) - residual, pairs.points.var(ddof=1) / n
    sources = dict(zip(("models", "tasks"), (max(value - residual, 0.0) for value in between), strict=True))
    sources["seeds and test texts"] = residual
    if crossed <= independent:
        return Uncertainty(mean, independent, n - 1, sources)
    parts = zip((*between, residual), (*(k - 1 for k in numbers), max(left, 1)), strict=True)
    freedom = crossed**2 / sum(part**2 / freedom for part, freedom in parts)
    return Uncertainty(mean, crossed, max(freedom, min(numbers) - 1.0), sources)


def _of_units(pairs: Differences, name: str) -> Uncertainty:
    """Models as a sample on given tasks, or tasks as a sample for given models; the weight of a unit is its pairs."""
    n = len(pairs.points)
    codes = pd.factorize(pairs.cells[name])[0]
    units = codes.max() + 1
    sums = np.bincount(codes, pairs.points - pairs.points.mean()) / n
    between = units / (units - 1) * np.square(sums).sum()
    own = sum(pairs.text_variance((codes == unit) / n) for unit in range(units))
    return _with_texts(pairs, between, own, units - 1, f"{name}s")


def _spread_over_seeds(own: Differences, everywhere: Differences) -> tuple[float, int]:
    """Variance over the seeds of a pair of model and task, pooled over all pairs, and its degrees of freedom.

    It is pooled over the own pairs alone if these spread more than the others (an F test at `UNEQUAL`).
    """
    (squares, freedom), (all_squares, all_freedom) = _squares_over_seeds(own), _squares_over_seeds(everywhere)
    others, of_others = all_squares - squares, all_freedom - freedom
    if freedom and of_others and squares * of_others > others * freedom:
        steady = others / of_others
        if not steady or stats.f.sf(squares / freedom / steady, freedom, of_others) < UNEQUAL:
            return squares / freedom, freedom
    return all_squares / max(all_freedom, 1), all_freedom


def _squares_over_seeds(cells: Differences) -> tuple[float, int]:
    """Sum of squared deviations from the mean over seeds of each pair of model and task, and its degrees of freedom."""
    codes = pd.factorize(pd.MultiIndex.from_frame(cells.cells[PAIR]))[0]
    deviations = cells.points - group_means(codes, cells.points)[codes]
    return float(np.square(deviations).sum()), int(len(codes) - codes.max() - 1)


def _of_seeds(cells: Differences, pairs: Differences, spread: float, freedom: int) -> Uncertainty:
    """Given pairs of model and task: seeds are a sample within each, crossed with the texts of the task."""
    codes = pd.factorize(pd.MultiIndex.from_frame(cells.cells[PAIR]))[0]
    weights = 1 / np.bincount(codes)[codes] / len(pairs.points)
    between = spread * np.square(weights).sum()
    own = np.square(weights) @ np.square(cells.influence).sum(1)
    return _with_texts(pairs, between, own, freedom, "seeds")


def _with_texts(pairs: Differences, between: float, own: float, freedom: int, name: str) -> Uncertainty:
    """The variance between units, and that over draws of the test texts which the units share.

    Args:
        pairs: the differences. between: variance of the mean from the differences between units.
        own: variance of the mean if each unit had texts of its own; `between` contains it.
        freedom: degrees of freedom of `between`, 0 if there is one unit. name: of the units.
    """
    texts = pairs.text_variance(np.full(len(pairs.points), 1 / len(pairs.points)))
    variance = between + max(texts - own, 0.0)
    sources = {name: max(between - own, 0.0), "test texts": texts}
    if variance <= texts or not freedom:
        return Uncertainty(pairs.points.mean(), texts, np.inf, sources)
    return Uncertainty(pairs.points.mean(), variance, freedom * (variance / between) ** 2, sources)
