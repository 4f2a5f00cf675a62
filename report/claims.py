"""Judging: the paper's claims and ours, each by a rule of config/claims.yaml, from the test predictions of a study.

`python -m report.claims --results results/mini` writes results/mini/claims.csv. A verdict is computed and never typed:
"reproduced", "not reproduced" or "not decided", the last also where the study lacks what a claim is about.
"""

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from ken.errors import UserError, run
from report import style
from report.losses import LossSample
from report.results import CELL, read_scores, read_table, read_yaml, write_csv
from report.statistics import (
    DIGITS,
    Differences,
    Interval,
    Sample,
    differences,
    hierarchical_interval,
    matched,
    read_sample,
)

REPRODUCED, NOT_REPRODUCED, NOT_DECIDED = "reproduced", "not reproduced", "not decided"
ALL = "all models"
SOURCES = ("paper", "ours", "surgeon")
COLUMNS = [
    *("claim", "source", "text", "subject", "rule", "unit", "estimate", "low", "high", "verdict", "n", "why"),
]
NO_INTERVAL = Interval(np.nan, np.nan, np.nan)
_NEAR = 1e-9  # two shares that differ less are the same number, written differently


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
        own = rows if model is None else rows[rows["model"] == model]
        if own.empty:
            raise Undecided(self._why_missing(method))
        return own

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


CLAIMS: dict[str, Callable[..., list[Finding]]] = {}


def claim(name: str) -> Callable:
    """Register a function that judges a claim; its keyword-only parameters are the numbers that a rule must give."""

    def register(function: Callable[..., list[Finding]]) -> Callable[..., list[Finding]]:
        CLAIMS[name] = function
        return function

    return register


def judged(subject: str, judge: Callable[[], Finding]) -> Finding:
    """The finding of `judge`, or one that says what the study lacks."""
    try:
        return judge()
    except Undecided as missing:
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


@claim("reset-a-quarter")
def reset_a_quarter(evidence: Evidence, *, kept_share: float, within: float, margin_points: float) -> list[Finding]:
    """KEN against full at the largest share up to `kept_share`, a verdict each model."""

    def judge(model: str) -> Finding:
        pairs = evidence.pairs("ken", "full", model)
        # A budget of 1 or more is a number of entries in each row, no share.
        share = pairs["budget"][pairs["budget"] <= kept_share + _NEAR].max()
        if np.isnan(share):
            raise Undecided(f"KEN has no kept share up to {style.percent(kept_share)}")
        pairs = pairs[pairs["budget"] == share]
        interval = evidence.interval(pairs, over_pairs=False)
        verdict = not_inferior(interval, margin_points)
        n = cells_of(pairs)
        why = f"At {style.percent(share)} kept {in_points(interval, evidence.confidence)} to full in "
        why += f"{style.count(n, 'cell')}; the estimate is {'0 or above' if interval.estimate >= 0 else 'below 0'}."
        if verdict == NOT_REPRODUCED and share < kept_share - within - _NEAR:
            verdict = NOT_DECIDED
            why += f" The study has no larger share up to {style.percent(kept_share)}."
        return Finding(model, verdict, n, why, interval)

    return [judged(model, lambda model=model: judge(model)) for model in evidence.models]


def best_share(
    evidence: Evidence, model: str, least_kept: float, most_kept: float, within: float, margin_points: float
) -> Finding:
    """Whether KEN loses nothing on a model at any share of a range; `why` is a part of a sentence."""
    pairs = evidence.pairs("ken", "full", model)
    pairs = pairs[pairs["budget"].between(least_kept - _NEAR, most_kept + _NEAR)]
    if pairs.empty:
        raise Undecided(f"KEN has no share from {style.percent(least_kept)} to {style.percent(most_kept)}")
    tried = dict(iter(pairs.groupby("budget")))
    intervals = {
        budget: evidence.interval(rows, over_pairs=False, budgets=len(tried)) for budget, rows in tried.items()
    }
    verdicts = {budget: not_inferior(interval, margin_points) for budget, interval in intervals.items()}
    verdict = best_of(list(verdicts.values()))
    if verdict == NOT_REPRODUCED and max(tried) < most_kept - within - _NEAR:
        verdict = NOT_DECIDED
    share = max(deciding(intervals, verdicts, verdict), key=lambda budget: intervals[budget].low)
    why = f"{model} at {style.percent(share)} kept, {in_points(intervals[share], evidence.confidence, joint=True)}"
    return Finding(model, verdict, cells_of(pairs), why, intervals[share])


@claim("reset-range")
def reset_range(
    evidence: Evidence, *, least_kept: float, most_kept: float, within: float, models: float, margin_points: float
) -> list[Finding]:
    """KEN against full at some share of a range, in every one of at least so many models."""
    limits = (least_kept, most_kept, within, margin_points)
    findings = {model: judged(model, partial(best_share, evidence, model, *limits)) for model in evidence.models}
    verdicts = {model: finding.verdict for model, finding in findings.items()}
    intervals = {model: finding.interval for model, finding in findings.items() if finding.n}
    if not intervals:
        return [replace(next(iter(findings.values())), subject=ALL)]
    verdict = worst_of(list(verdicts.values()))
    if verdict == REPRODUCED and len(verdicts) < models:
        verdict = NOT_DECIDED
    weakest = min(deciding(intervals, verdicts, verdict), key=lambda model: intervals[model].estimate)
    passed, failed = (list(verdicts.values()).count(v) for v in (REPRODUCED, NOT_REPRODUCED))
    why = f"Of {style.count(len(verdicts), 'model')} ({models:g} needed), {passed} pass and {failed} fail; "
    why += f"{'failing' if failed else 'weakest'}: {findings[weakest].why}."
    cells = sum(finding.n for finding in findings.values())
    return [Finding(ALL, verdict, cells, why, intervals[weakest])]


def ahead(evidence: Evidence, method: str, reference: str, margin_points: float) -> list[Finding]:
    """Whether a method is ahead of another, on average over the budgets that both have."""

    def judge() -> Finding:
        pairs = evidence.pairs(method, reference)
        budgets = pairs["budget"].nunique()
        where = f"on average over {style.count(budgets, 'budget')}"
        return lead(evidence, differences(evidence.sample, pairs), (method, reference), where, margin_points)

    return [judged(ALL, judge)]


def lead(evidence: Evidence, gaps: Differences, names: tuple[str, str], where: str, margin_points: float) -> Finding:
    """The finding on a lead of the first of two methods over the second."""
    interval = evidence.interval(gaps)
    n, of = cells_of(gaps.cells), cells_of(evidence.scores)
    first, second = map(style.label, names)
    cells = style.count(n, "cell") if n == of else f"{n} of {of} cells"
    why = f"{first} minus {second}: {in_points(interval, evidence.confidence)} {where} in {cells}."
    return Finding(ALL, superior(interval, margin_points), n, why, interval)


@claim("ahead-of-random")
def ahead_of_random(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """KEN against a random choice at equal budgets."""
    return ahead(evidence, "ken", "random", margin_points)


@claim("update-over-value")
def update_over_value(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """Choice by |Δ| against choice by the density of the value, at equal budgets."""
    return ahead(evidence, "delta-magnitude", "ken", margin_points)


@claim("ahead-of-flop")
def ahead_of_flop(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """KEN against FLOP at an equal number of kept entries."""
    return [judged(ALL, lambda: ahead_on_curve(evidence, "flop", "kept", margin_points))]


@claim("ahead-of-lora")
def ahead_of_lora(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """KEN against LoRA at equal stored bytes."""
    return [judged(ALL, lambda: ahead_on_curve(evidence, "lora", "stored_bytes", margin_points, np.log))]


def ahead_on_curve(
    evidence: Evidence, other: str, column: str, margin_points: float, scale: Callable = np.asarray
) -> Finding:
    """Whether KEN, interpolated at the value that each row of another method has in a column, is ahead of it."""
    rows = evidence.rows(other)
    curve = pd.concat([evidence.rows("ken"), evidence.rows("full")])
    gaps = from_curve(evidence.sample, curve, rows, column, scale)
    outside = len(rows) - len(gaps.points)
    if not len(gaps.points):
        raise Undecided(f"all {len(rows)} rows of {other} are outside the {column} of KEN")
    where = f"on average over {style.count(len(gaps.points), 'point')} of {style.label(other)}"
    where += f" ({outside} outside KEN's range)" if outside else ""
    return lead(evidence, gaps, ("ken", other), where, margin_points)


def from_curve(
    sample: Sample, curve: pd.DataFrame, rows: pd.DataFrame, column: str, scale: Callable = np.asarray
) -> Differences:
    """Weighted F1 of a curve at the values that rows have in a column, minus theirs; within the range of the curve.

    Args:
        sample: the study's.
        curve: rows of `sample.rows` that are joined by straight lines within a cell.
        rows: rows of `sample.rows` to compare.
        column: the horizontal axis.
        scale: what is linear between two points, e.g. `np.log`.
    """
    below, above, share, compared = [], [], [], []
    for cell, own in rows.groupby(CELL):
        points = curve[(curve[CELL] == list(cell)).all(axis=1)].sort_values(column).drop_duplicates(column)
        x, at = (scale(frame[column].to_numpy(float)) for frame in (points, own))
        inside = (at >= x.min()) & (at <= x.max()) if len(x) > 1 else np.zeros(len(at), bool)
        at = at[inside]
        right = np.searchsorted(x, at).clip(1)
        below.extend(points.index[right - 1])
        above.extend(points.index[right])
        share.extend((at - x[right - 1]) / (x[right] - x[right - 1]))
        compared.extend(own.index[inside])
    share = np.array(share)
    f1 = sample.rows["weighted_f1"].to_numpy()

    def difference(values: np.ndarray, share: np.ndarray) -> np.ndarray:
        return 100 * ((1 - share) * values[below] + share * values[above] - values[compared])

    resampled = difference(sample.resampled, share[:, None])
    return Differences(sample.rows.loc[compared, CELL].reset_index(drop=True), difference(f1, share), resampled)


@claim("rescaled-keeps")
def rescaled_keeps(evidence: Evidence, *, kept_shares: list[float], margin_points: float) -> list[Finding]:
    """KEN with rescaled updates against full, at all of several shares."""

    def judge() -> Finding:
        pairs = evidence.pairs("ken-rescaled", "full")
        by_share = {share: pairs[np.isclose(pairs["budget"], share, rtol=0, atol=_NEAR)] for share in kept_shares}
        missing = [style.percent(share) for share, rows in by_share.items() if rows.empty]
        if missing:
            raise Undecided(f"ken-rescaled has no score with {' and '.join(missing)} kept")
        intervals = {share: evidence.interval(rows) for share, rows in by_share.items()}
        verdicts = {share: not_inferior(interval, margin_points) for share, interval in intervals.items()}
        verdict = worst_of(list(verdicts.values()))
        n = cells_of(pd.concat(by_share.values()))
        worst = min(deciding(intervals, verdicts, verdict), key=lambda share: intervals[share].estimate)
        return Finding(ALL, verdict, n, at_budgets(evidence, intervals, n), intervals[worst])

    return [judged(ALL, judge)]


@claim("grid-differs")
def grid_differs(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """The rule of the released code against the paper's, at each budget."""

    def judge() -> Finding:
        tried = dict(iter(evidence.pairs("ken-grid", "ken").groupby("budget")))
        intervals = {budget: evidence.interval(rows, budgets=len(tried)) for budget, rows in tried.items()}
        verdicts = {budget: different(interval, margin_points) for budget, interval in intervals.items()}
        verdict = best_of(list(verdicts.values()))
        n = cells_of(pd.concat(tried.values()))
        largest = max(deciding(intervals, verdicts, verdict), key=lambda budget: abs(intervals[budget].estimate))
        return Finding(ALL, verdict, n, at_budgets(evidence, intervals, n, joint=True), intervals[largest])

    return [judged(ALL, judge)]


def at_budgets(evidence: Evidence, intervals: dict[float, Interval], cells: int, joint: bool = False) -> str:
    """One sentence with the differences at several budgets."""
    parts = [
        f"at {style.budget_label(budget)} kept {in_points(interval, evidence.confidence, joint)}"
        for budget, interval in intervals.items()
    ]
    return f"In {style.count(cells, 'cell')}: {', '.join(parts)}."


@claim("spread-evenly")
def spread_evenly(evidence: Evidence, *, share: float) -> list[Finding]:
    """Share of matrices whose kept entries have no more kept neighbours than a random selection."""

    def judge() -> Finding:
        numbers = ("seed", "observed_neighbours", "neighbours_low", "neighbours_high")
        table = measured(evidence.results / "spread.csv", ("model", "task", "method", "matrix"), numbers, "ken")
        even = int((table["observed_neighbours"] <= table["neighbours_high"]).sum())
        ends = proportion_confint(even, len(table), alpha=1 - evidence.confidence, method="beta")
        interval = Interval(even / len(table), *map(float, ends))
        verdict = REPRODUCED if interval.low > share else NOT_REPRODUCED if interval.high < share else NOT_DECIDED
        fewer = int((table["observed_neighbours"] < table["neighbours_low"]).sum())
        why = (
            f"{even} of {style.count(len(table), 'matrix', 'matrices')} are without clusters, "
            f"{fewer} of them with fewer kept neighbours than a random selection."
        )
        return Finding(ALL, verdict, cells_of(table), why, interval, "share")

    return [judged(ALL, judge)]


@claim("linear-time")
def linear_time(evidence: Evidence, *, tolerance: float, values: float) -> list[Finding]:
    """Slopes of log seconds over log size and log k, of KEN and of the released code's rule, a verdict each."""

    def judge(method: str, axis: str) -> Finding:
        table = measured(evidence.results / "timing.csv", ("method",), ("size", "k", "seconds"), method)
        if (table[["size", "k", "seconds"]] <= 0).any(axis=None):
            raise UserError(f"{evidence.results / 'timing.csv'} has numbers that are not above 0: measure it again.")
        if table[axis].nunique() < values:
            raise Undecided(f"timing.csv has {table[axis].nunique()} values of {axis}, {values:g} are needed")
        varied = [name for name in ("size", "k") if table[name].nunique() > 1]
        design = np.column_stack([np.ones(len(table)), np.log(table[varied])])
        if np.linalg.matrix_rank(design) < design.shape[1] or len(table) <= design.shape[1]:
            raise Undecided("timing.csv does not vary size and k independently, or has too few rows")
        fit = OLS(np.log(table["seconds"].to_numpy()), design).fit()
        index = 1 + varied.index(axis)
        interval = Interval(float(fit.params[index]), *map(float, fit.conf_int(1 - evidence.confidence)[index]))
        inside = max(abs(interval.low - 1), abs(interval.high - 1)) < tolerance
        outside = interval.low > 1 + tolerance or interval.high < 1 - tolerance
        verdict = REPRODUCED if inside else NOT_REPRODUCED if outside else NOT_DECIDED
        why = f"Seconds grow with {axis} to the power of {interval.estimate:.2f} in {len(table)} measurements."
        return Finding(subject(method, axis), verdict, len(table), why, interval, "slope")

    def subject(method: str, axis: str) -> str:
        return f"{method}, {axis}"

    pairs = [(method, axis) for method in ("ken", "ken-grid") for axis in ("size", "k")]
    return [judged(subject(*pair), lambda pair=pair: judge(*pair)) for pair in pairs]


@claim("surgeon-structured")
def surgeon_structured(
    evidence: Evidence, *, least_removed: float, most_removed: float, margin_nats: float
) -> list[Finding]:
    """LLM Surgeon's removal of rows and columns against the dense model, at all sparsities of a range."""

    def judge(sample: LossSample) -> Finding:
        rows = most_shots(sample.of("llm-surgeon", structure="row-column"))
        rows = rows[rows["budget"].between(least_removed - _NEAR, most_removed + _NEAR)]
        if rows.empty:
            where = f"from {style.percent(least_removed)} to {style.percent(most_removed)}"
            raise Undecided(f"LLM Surgeon has not removed rows and columns {where}")
        rises = {
            budget: evidence.interval(sample.differences(own, sample.of("dense"), []))
            for budget, own in rows.groupby("budget")
        }
        # A rise in loss is a loss as not_inferior knows it, with the sign turned.
        turned = {budget: Interval(-rise.estimate, -rise.high, -rise.low) for budget, rise in rises.items()}
        verdicts = {budget: not_inferior(fall, margin_nats) for budget, fall in turned.items()}
        verdict = worst_of(list(verdicts.values()))
        worst = max(deciding(rises, verdicts, verdict), key=lambda budget: rises[budget].estimate)
        parts = [
            f"{style.percent(budget)} removed {in_nats(rise, evidence.confidence)}" for budget, rise in rises.items()
        ]
        n = len(rows[["model", "seed"]].drop_duplicates())
        why = f"Above the dense model in {style.count(n, 'run')} of language models: {', '.join(parts)}."
        return Finding("language models", verdict, n, why, rises[worst], "nats")

    return judged_on_losses(evidence, {"language models": judge})


@claim("surgeon-shots")
def surgeon_shots(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """One shot against the most shots, at equal structures and sparsities."""

    def judge(sample: LossSample) -> Finding:
        rows = sample.of("llm-surgeon")
        one, several = rows[rows["shots"] == 1], most_shots(rows[rows["shots"] > 1])
        keys = ["structure", "budget"]
        return saved(evidence, sample, (one, several), keys, "One shot minus several", margin_nats)

    return judged_on_losses(evidence, {"language models": judge})


@claim("surgeon-correlated")
def surgeon_correlated(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """Independent against correlated updates, at equal structures, shots and sparsities."""

    def judge(sample: LossSample) -> Finding:
        both = (sample.of("llm-surgeon-independent"), sample.of("llm-surgeon"))
        return saved(evidence, sample, both, LOSS_KEYS, "Independent minus correlated updates", margin_nats)

    return judged_on_losses(evidence, {"language models": judge})


@claim("surgeon-ahead")
def surgeon_ahead(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """Magnitude pruning, L-OBD and K-OBD against LLM Surgeon, a verdict each."""

    def judge(sample: LossSample, other: str) -> Finding:
        both = (sample.of(other), sample.of("llm-surgeon"))
        finding = saved(evidence, sample, both, LOSS_KEYS, f"{style.label(other)} minus LLM Surgeon", margin_nats)
        return replace(finding, subject=style.label(other))

    others = ("magnitude", "l-obd", "k-obd")
    return judged_on_losses(evidence, {style.label(other): partial(judge, other=other) for other in others})


LOSS_KEYS = ["structure", "shots", "budget"]


def judged_on_losses(evidence: Evidence, judges: dict[str, Callable[[LossSample], Finding]]) -> list[Finding]:
    """Findings, by subject, on the pruned language models of a study; none where it has none."""
    sample = evidence.losses
    if sample is None or sample.rows.empty:
        return []
    return [judged(subject, partial(judge, sample)) for subject, judge in judges.items()]


def most_shots(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the largest number of shots."""
    return rows[rows["shots"] == rows["shots"].max()]


def saved(evidence: Evidence, sample: LossSample, both: tuple, keys: list[str], what: str, margin: float) -> Finding:
    """The finding on what the second of two sets of rows has less loss than the first, at equal keys."""
    gaps = sample.differences(*both, keys)
    if gaps.cells.empty:
        raise Undecided("the study lacks one of the two, or they have no setting in common")
    interval, n = evidence.interval(gaps), cells_of(gaps.cells)
    why = f"{what}: {in_nats(interval, evidence.confidence)} on average over {len(gaps.points) // n} settings"
    why += f" in {style.count(n, 'run')} of language models."
    return Finding("language models", superior(interval, margin), n, why, interval, "nats")


def in_nats(interval: Interval, confidence: float) -> str:
    """For people: a difference in loss and its interval."""
    numbers = [f"{value:+.3f}".replace("-", "−") for value in interval]
    return f"{numbers[0]} nats a token ({style.percent(confidence)} interval {numbers[1]} to {numbers[2]})"


def measured(path: Path, text: Sequence[str], numeric: Sequence[str], method: str) -> pd.DataFrame:
    """The named columns of a table of measurements that a study may lack, without gaps; the rows of one method.

    Raises:
        Undecided: it does not exist or is empty.
        UserError: as `read_table`, or a cell is empty.
    """
    if not path.exists():
        raise Undecided(f"the study has no {path.name}")
    table = read_table(path, text, numeric)[[*text, *numeric]]
    table = table[table["method"] == method]
    if table.empty:
        raise Undecided(f"{path.name} has no rows of {method}")
    if table.isna().any(axis=None):
        raise UserError(f"{path} has empty cells among its numbers: run the step that writes it again.")
    return table


@dataclass(frozen=True)
class Rule:
    """One entry of the rules file: `rule` in words with its numbers put in, and the numbers."""

    claim: str
    source: str
    text: str
    rule: str
    numbers: dict[str, float | list[float]]


def read_rules(path: Path) -> tuple[list[Rule], float]:
    """The rules of a YAML file and the confidence of their intervals.

    Raises:
        UserError: the file is missing, no YAML, or an entry has a wrong, missing or unknown key; says which.
    """
    loaded = read_yaml(path, "the rules of the claims")
    if (
        not isinstance(loaded, dict)
        or set(loaded) != {"confidence", "claims"}
        or not isinstance(loaded["claims"], list)
    ):
        raise UserError(f"{path} must have the keys confidence and claims, and claims a list.")
    confidence = loaded["confidence"]
    if not _is_number(confidence) or not 0 < confidence < 1:
        raise UserError(f"{path} has confidence {confidence!r}, expected a number between 0 and 1.")
    rules = [_rule(path, entry, confidence) for entry in loaded["claims"]]
    names = [rule.claim for rule in rules]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the claim {twice[0]!r} twice: remove one.")
    return rules, confidence


def _rule(path: Path, entry: object, confidence: float) -> Rule:
    name = entry.get("id") if isinstance(entry, dict) else None
    if name not in CLAIMS:
        raise UserError(f"{path} has the claim {name!r}, expected an id among {', '.join(CLAIMS)}.")
    where = f"{path}, claim {name!r},"
    parameters = inspect.signature(CLAIMS[name]).parameters.values()
    expected = {p.name: p.annotation for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    words = ("id", "source", "text", "rule")
    for key in (*words, *expected):
        if key not in entry:
            raise UserError(f"{where} lacks {key!r}: add it.")
    for key in entry:
        if key not in (*words, *expected):
            raise UserError(f"{where} has the unknown key {key!r}, expected {', '.join((*words, *expected))}.")
    if entry["source"] not in SOURCES:
        raise UserError(f"{where} has the source {entry['source']!r}, expected {' or '.join(SOURCES)}.")
    numbers = {key: _number(where, key, entry[key], kind) for key, kind in expected.items()}
    try:
        rule = entry["rule"].format(**numbers, confidence=confidence)
    except (AttributeError, LookupError, ValueError, TypeError) as error:
        raise UserError(f"{where} has a rule that cannot be filled in ({error!r}): correct its braces.") from None
    return Rule(name, entry["source"], str(entry["text"]).strip(), rule.strip(), numbers)


def _number(where: str, key: str, value: object, kind: object) -> float | list[float]:
    values = value if kind == list[float] and isinstance(value, list) else [value]
    if not values or not all(_is_number(number) and number >= 0 for number in values):
        wanted = "a list of numbers" if kind == list[float] else "a number"
        raise UserError(f"{where} has {key} {value!r}, expected {wanted} from 0.")
    return list(values) if kind == list[float] else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def judge_all(evidence: Evidence, rules: Sequence[Rule]) -> pd.DataFrame:
    """A row a claim and subject, in the order of the rules."""
    rows = []
    for rule in rules:
        for finding in CLAIMS[rule.claim](evidence, **rule.numbers):
            words = (rule.claim, rule.source, rule.text, finding.subject, rule.rule, finding.unit)
            rows.append((*words, *finding.interval, finding.verdict, finding.n, finding.why))
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge the claims of a rules file from the results of a study.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--rules", type=Path, default=Path("config/claims.yaml"), help="default: config/claims.yaml")
    parser.add_argument("--out", type=Path, help="file to write (default: claims.csv in the results folder)")
    arguments = parser.parse_args()
    rules, confidence = read_rules(arguments.rules)
    results = arguments.results
    losses = LossSample.read(results) if (results / "perplexity.csv").exists() else None
    evidence = Evidence(results, read_scores(results), read_sample(results), confidence, losses)
    table = judge_all(evidence, rules)
    out = arguments.out or results / "claims.csv"
    write_csv(out, table, DIGITS)
    for row in table.itertuples():
        print(f"{row.claim}, {row.subject}: {row.verdict}. {row.why}")


if __name__ == "__main__":
    run(main)
