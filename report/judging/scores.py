"""Claims about scores: KEN against full, a random choice, other methods and its own variants."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from report import style
from report.judging.evidence import (
    ALL,
    NOT_DECIDED,
    NOT_REPRODUCED,
    REPRODUCED,
    ROUNDING,
    Evidence,
    Finding,
    Undecided,
    best_of,
    cells_of,
    deciding,
    different,
    in_points,
    judged,
    not_inferior,
    superior,
    worst_of,
)
from report.results import CELL
from report.statistics import Differences, Interval, Sample, differences


def reset_a_quarter(evidence: Evidence, *, kept_share: float, within: float, margin_points: float) -> list[Finding]:
    """KEN against full at the largest share up to `kept_share`, with a verdict per model."""

    def judge(model: str) -> Finding:
        pairs = evidence.pairs("ken", "full", model)
        # A budget of 1 or more is a number of entries in each row, not a share.
        share = pairs["budget"][pairs["budget"] <= kept_share + ROUNDING].max()
        if np.isnan(share):
            raise Undecided(f"KEN has no kept share up to {style.percent(kept_share)}")
        pairs = pairs[pairs["budget"] == share]
        interval = evidence.interval(pairs, over_pairs=False)
        verdict = not_inferior(interval, margin_points)
        n = cells_of(pairs)
        why = f"At {style.percent(share)} kept {in_points(interval, evidence.confidence)} to full in "
        why += f"{style.count(n, 'cell')}; the estimate is {'0 or above' if interval.estimate >= 0 else 'below 0'}."
        if verdict == NOT_REPRODUCED and share < kept_share - within - ROUNDING:
            verdict = NOT_DECIDED
            why += f" The study has no larger share up to {style.percent(kept_share)}."
        return evidence.if_tested(Finding(model, verdict, n, why, interval), pairs, over_pairs=False)

    return [judged(model, partial(judge, model)) for model in evidence.models]


def best_share(
    evidence: Evidence, model: str, least_kept: float, most_kept: float, within: float, margin_points: float
) -> Finding:
    """Whether KEN loses nothing on a model at some share of a range; `why` is the end of a sentence."""
    pairs = evidence.pairs("ken", "full", model)
    pairs = pairs[pairs["budget"].between(least_kept - ROUNDING, most_kept + ROUNDING)]
    if pairs.empty:
        raise Undecided(f"KEN has no share from {style.percent(least_kept)} to {style.percent(most_kept)}")
    tried = dict(iter(pairs.groupby("budget")))
    intervals = {
        budget: evidence.interval(rows, over_pairs=False, budgets=len(tried)) for budget, rows in tried.items()
    }
    verdicts = {budget: not_inferior(interval, margin_points) for budget, interval in intervals.items()}
    verdict = best_of(list(verdicts.values()))
    if verdict == NOT_REPRODUCED and max(tried) < most_kept - within - ROUNDING:
        verdict = NOT_DECIDED
    share = max(deciding(intervals, verdicts, verdict), key=lambda budget: intervals[budget].low)
    why = f"{model} at {style.percent(share)} kept, {in_points(intervals[share], evidence.confidence, joint=True)}."
    return evidence.if_tested(Finding(model, verdict, cells_of(pairs), why, intervals[share]), pairs, over_pairs=False)


def reset_range(
    evidence: Evidence, *, least_kept: float, most_kept: float, within: float, models: float, margin_points: float
) -> list[Finding]:
    """KEN against full at some share of a range, for every model of at least `models`."""
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
    why += f"{'failing' if failed else 'weakest'}: {findings[weakest].why}"
    cells = sum(finding.n for finding in findings.values())
    return [Finding(ALL, verdict, cells, why, intervals[weakest])]


def ahead(evidence: Evidence, method: str, reference: str, *, margin_points: float) -> list[Finding]:
    """Whether a method is ahead of another, on average over the budgets that both have."""
    pairs = evidence.pairs(method, reference)
    where = f"on average over {style.count(pairs['budget'].nunique(), 'budget')}"
    return [lead(evidence, differences(evidence.sample, pairs), (method, reference), where, margin_points)]


def lead(evidence: Evidence, gaps: Differences, names: tuple[str, str], where: str, margin_points: float) -> Finding:
    """The finding on the lead of the first of two methods over the second."""
    interval = evidence.interval(gaps)
    n, of = cells_of(gaps.cells), cells_of(evidence.scores)
    first, second = map(style.label, names)
    cells = style.count(n, "cell") if n == of else f"{n} of {of} cells"
    why = f"{first} minus {second}: {in_points(interval, evidence.confidence)} {where} in {cells}."
    return evidence.if_tested(Finding(ALL, superior(interval, margin_points), n, why, interval), gaps.cells)


def ahead_on_curve(
    evidence: Evidence, other: str, column: str, scale: Callable = np.asarray, *, margin_points: float
) -> list[Finding]:
    """Whether KEN is ahead of another method, interpolated at the values of that method in a column."""
    rows = evidence.rows(other)
    curve = pd.concat([evidence.rows("ken"), evidence.rows("full")])
    gaps = from_curve(evidence.sample, curve, rows, column, scale)
    outside = len(rows) - len(gaps.points)
    if not len(gaps.points):
        raise Undecided(f"all {len(rows)} rows of {other} are outside the {column} of KEN")
    where = f"on average over {style.count(len(gaps.points), 'point')} of {style.label(other)}"
    where += f" ({outside} outside KEN's range)" if outside else ""
    return [lead(evidence, gaps, ("ken", other), where, margin_points)]


def from_curve(
    sample: Sample, curve: pd.DataFrame, rows: pd.DataFrame, column: str, scale: Callable = np.asarray
) -> Differences:
    """Weighted F1 of a curve, interpolated at the values of rows in a column, minus that of the rows.

    Rows outside the range of the curve are left out.

    Args:
        sample: the scores of the study.
        curve: rows of `sample.rows`, joined by straight lines within a cell.
        rows: rows of `sample.rows` to compare with the curve.
        column: the horizontal axis.
        scale: of the horizontal axis, e.g. `np.log`.
    """
    below, above, share, compared = [], [], [], []
    for cell, wanted in rows.groupby(CELL):
        points = curve[(curve[CELL] == list(cell)).all(axis=1)].sort_values(column).drop_duplicates(column)
        x, at = (scale(frame[column].to_numpy(float)) for frame in (points, wanted))
        inside = (at >= x.min()) & (at <= x.max()) if len(x) > 1 else np.zeros(len(at), bool)
        at = at[inside]
        right = np.searchsorted(x, at).clip(1)
        below.extend(points.index[right - 1])
        above.extend(points.index[right])
        share.extend((at - x[right - 1]) / (x[right] - x[right - 1]))
        compared.extend(wanted.index[inside])
    share = np.array(share)
    f1 = sample.rows["weighted_f1"].to_numpy()

    def difference(values: np.ndarray, share: np.ndarray) -> np.ndarray:
        return 100 * ((1 - share) * values[below] + share * values[above] - values[compared])

    resampled = difference(sample.resampled, share[:, None])
    return Differences(sample.rows.loc[compared, CELL].reset_index(drop=True), difference(f1, share), resampled)


def rescaled_keeps(evidence: Evidence, *, kept_shares: list[float], margin_points: float) -> list[Finding]:
    """KEN with rescaled updates against full, at all of several shares."""
    pairs = evidence.pairs("ken-rescaled", "full")
    by_share = {share: pairs[np.isclose(pairs["budget"], share, rtol=0, atol=ROUNDING)] for share in kept_shares}
    missing = [style.percent(share) for share, rows in by_share.items() if rows.empty]
    if missing:
        raise Undecided(f"ken-rescaled has no score with {' and '.join(missing)} kept")
    intervals = {share: evidence.interval(rows) for share, rows in by_share.items()}
    verdicts = {share: not_inferior(interval, margin_points) for share, interval in intervals.items()}
    verdict = worst_of(list(verdicts.values()))
    cells = pd.concat(by_share.values())
    n = cells_of(cells)
    worst = min(deciding(intervals, verdicts, verdict), key=lambda share: intervals[share].estimate)
    finding = Finding(ALL, verdict, n, at_budgets(evidence, intervals, n), intervals[worst])
    return [evidence.if_tested(finding, cells)]


def small_file(
    evidence: Evidence, method: str, large: bool, *, kept_share: float, million_parameters: float, margin_points: float
) -> list[Finding]:
    """A method at one kept share against full, in the models with at least a number of parameters or in the others."""
    pairs = evidence.pairs(method, "full")
    parameters = evidence.parameters
    models = parameters.index[(parameters >= 1e6 * million_parameters) == large]
    pairs = pairs[pairs["model"].isin(models)]
    if pairs.empty:
        size = f"{'at least' if large else 'fewer than'} {million_parameters:g} million"
        raise Undecided(f"not tested here, since no model is known to have {size} parameters")
    pairs = pairs[np.isclose(pairs["budget"], kept_share, rtol=0, atol=ROUNDING)]
    if pairs.empty:
        raise Undecided(f"not tested here, since {method} has no score with {style.percent(kept_share)} kept")
    interval, n = evidence.interval(pairs), cells_of(pairs)
    why = f"{style.label(method)}, with {style.percent(kept_share)} kept: {in_points(interval, evidence.confidence)} "
    why += f"to full in {style.count(n, 'cell')}."
    return [Finding(ALL, not_inferior(interval, margin_points), n, why, interval)]


def grid_differs(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """The rule of the released code against the paper's, at each budget."""
    tried = dict(iter(evidence.pairs("ken-grid", "ken").groupby("budget")))
    intervals = {budget: evidence.interval(rows, budgets=len(tried)) for budget, rows in tried.items()}
    verdicts = {budget: different(interval, margin_points) for budget, interval in intervals.items()}
    verdict = best_of(list(verdicts.values()))
    cells = pd.concat(tried.values())
    n = cells_of(cells)
    largest = max(deciding(intervals, verdicts, verdict), key=lambda budget: abs(intervals[budget].estimate))
    finding = Finding(ALL, verdict, n, at_budgets(evidence, intervals, n, joint=True), intervals[largest])
    return [evidence.if_tested(finding, cells)]


def at_budgets(evidence: Evidence, intervals: dict[float, Interval], cells: int, joint: bool = False) -> str:
    """A sentence with the differences at several budgets."""
    parts = [
        f"at {style.budget_label(budget)} kept {in_points(interval, evidence.confidence, joint)}"
        for budget, interval in intervals.items()
    ]
    return f"In {style.count(cells, 'cell')}: {', '.join(parts)}."
