"""Claims about scores: KEN against full, a random choice, other methods and its own variants."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd

from report import style
from report.intervals import Differences, mean_interval
from report.judging.evidence import (
    AHEAD,
    DIFFERENT,
    NO_LOSS,
    ROUNDING,
    Evidence,
    Finding,
    Untested,
    judged,
)
from report.results import ALL_MODELS, CELL, CONTROL, FAILS, HOLDS, NOT_TESTED, OPEN, OPEN_LOSS
from report.statistics import Sample, differences

CONTROL_METHOD, CONTROL_SHARE = "delta-magnitude", 0.75  # loses next to nothing, so that a rule of no loss must pass it
MEAN = "mean of all models"


def reset_a_quarter(evidence: Evidence, *, kept_share: float, within: float, margin_points: float) -> list[Finding]:
    """KEN against full at the largest share up to `kept_share`: over all models, and for each of them jointly."""

    def judge(subject: str, method: str, model: str | None = None) -> Finding:
        everywhere, pairs = evidence.pairs(method, "full"), evidence.pairs(method, "full", model)
        # A budget above 1 is a number of entries in each row, not a share.
        share = pairs["budget"][pairs["budget"] <= kept_share + ROUNDING].max()
        if np.isnan(share):
            kept = style.percent(kept_share)
            raise Untested(f"{style.label(method)} has no kept share up to {kept}", f"a run with {kept} kept")
        everywhere, pairs = (rows[rows["budget"] == share] for rows in (everywhere, pairs))
        what, joint = f"At {style.percent(share)} kept, {style.label(method)} minus full", len(evidence.models)
        over = {"over_pairs": model is None, "joint": 1 if model is None else joint, "seeds_from": everywhere}
        finding = evidence.compare(subject, pairs, NO_LOSS, margin_points, what, **over)
        return harder_than_claimed(finding, share, kept_share, within)

    findings = [judged(ALL_MODELS, partial(judge, ALL_MODELS, "ken"))]
    findings += [judged(model, partial(judge, model, "ken", model)) for model in evidence.models]
    return with_control(findings, partial(judge, method=CONTROL_METHOD))


def harder_than_claimed(finding: Finding, share: float, claimed: float, within: float) -> Finding:
    """The finding, or none if the claim was not shown with less kept than it is about."""
    if finding.verdict in (HOLDS, NOT_TESTED) or share >= claimed - within - ROUNDING:
        return finding
    kept = style.percent(claimed)
    why = f"{finding.why} This is harder than the claim."
    return replace(finding, verdict=NOT_TESTED, why=why, needs=f"It takes a run with {kept} kept.")


def with_control(findings: list[Finding], control: Callable[[str], Finding]) -> list[Finding]:
    """Findings on a rule of no loss, and that on a method which the rule must be able to pass."""
    subject = f"{CONTROL}{style.label(CONTROL_METHOD)}"
    checked = judged(subject, partial(control, subject))
    if checked.verdict == HOLDS:
        return [*findings, checked]
    if checked.verdict == NOT_TESTED:
        note = "The control was not tested."
    else:
        note = "The control does not pass either: this study may be too small to show that nothing is lost."
    is_open = (OPEN, OPEN_LOSS)
    noted = [replace(each, why=f"{each.why} {note}") if each.verdict in is_open else each for each in findings]
    return [*noted, checked]


def best_share(evidence: Evidence, subject: str, method: str, shares: tuple, margin: float, models: int) -> Finding:
    """Whether a method loses nothing at some share of a range, on one model or the mean of all.

    Args:
        subject: a model, or another name for all of them.
        shares: least share, most share, and how much less than the most still tests the claim.
        margin: in points. models: number of verdicts of which one that fails is enough.
    """
    least, most, within = shares
    model = subject if subject in evidence.models else None
    pairs = evidence.pairs(method, "full", model)
    pairs = pairs[pairs["budget"].between(least - ROUNDING, most + ROUNDING)]
    if pairs.empty:
        limits = f"from {style.percent(least)} to {style.percent(most)}"
        raise Untested(f"{style.label(method)} has no share {limits}", "a run with one")
    tried, everywhere = list(pairs.groupby("budget")), dict(iter(evidence.pairs(method, "full").groupby("budget")))

    def compare(joint: int) -> list[Finding]:
        return [
            evidence.compare(
                subject,
                rows,
                NO_LOSS,
                margin,
                f"At {style.percent(share)} kept, {style.label(method)} minus full",
                over_pairs=model is None,
                joint=joint,
                seeds_from=everywhere[share],
            )
            for share, rows in tried
        ]

    return harder_than_claimed(any_of(compare(models), compare(len(tried))), max(pairs["budget"]), most, within)


def reset_range(
    evidence: Evidence, *, least_kept: float, most_kept: float, within: float, models: float, margin_points: float
) -> list[Finding]:
    """KEN against full at some share of a range: in every model of at least `models`, over all models, and in each."""
    shares = (least_kept, most_kept, within)

    def each(method: str, number: int) -> list[Finding]:
        best = partial(best_share, evidence, method=method, shares=shares, margin=margin_points, models=number)
        return [judged(model, partial(best, model)) for model in evidence.models]

    def judge(subject: str, single: list[Finding], joint: list[Finding]) -> Finding:
        finding = all_of(single, joint)
        passed, failed = sum(each.verdict == HOLDS for each in single), sum(each.verdict == FAILS for each in joint)
        weakest = f"weakest: {finding.subject}"
        why = f"Of {style.count(len(single), 'model')}, {passed} pass and {failed} fail; {weakest}. {finding.why}"
        scope = "" if finding.verdict == NOT_TESTED else f"{finding.scope} ({weakest})".lstrip()
        finding = replace(finding, subject=subject, n=sum(each.n for each in single), why=why, scope=scope)
        if subject == ALL_MODELS and finding.verdict == HOLDS and evidence.checkpoints < models:
            return replace(finding, verdict=NOT_TESTED, needs=f"It takes {models:g} models.")
        return finding

    single, joint = each("ken", 1), each("ken", len(evidence.models))
    mean = judged(MEAN, partial(best_share, evidence, MEAN, "ken", shares, margin_points, 1))
    # A model passes by its own interval and fails by the joint one, as in the verdict on all.
    own = [other if one.verdict == FAILS else one for one, other in zip(single, joint, strict=True)]
    findings = [judge(ALL_MODELS, single, joint), mean, *own]
    controls = each(CONTROL_METHOD, 1), each(CONTROL_METHOD, len(evidence.models))
    return with_control(findings, lambda subject: judge(subject, *controls))


def all_of(single: list[Finding], joint: list[Finding]) -> Finding:
    """The finding that all of several hold, which is that of the weakest of those that decide.

    All hold if each does with its own confidence; one that does not refutes this, for which the intervals must be
    joint.

    Args:
        single: findings from intervals of their own. joint: the same from joint intervals.
    """

    def weakest(findings: list[Finding]) -> Finding:
        return min(findings, key=lambda finding: np.nan_to_num(finding.interval.estimate))

    for verdict, findings in ((FAILS, joint), (NOT_TESTED, single), (OPEN_LOSS, joint)):
        if decisive := [finding for finding in findings if finding.verdict == verdict]:
            return weakest(decisive)
    # What is not shown by joint intervals is open, with the joint interval.
    short = [
        one if one.verdict == OPEN else other for one, other in zip(single, joint, strict=True) if one.verdict != HOLDS
    ]
    return weakest(short or single)


def low_end(finding: Finding) -> float:
    """The low end of the interval of a finding."""
    return finding.interval.low


def any_of(single: list[Finding], joint: list[Finding], strength: Callable[[Finding], float] = low_end) -> Finding:
    """The finding that at least one of several holds, which is that of the strongest of those that decide.

    None holds if each fails with its own confidence; one that holds is enough, for which the intervals must be joint.

    Args:
        single: findings from intervals of their own. joint: the same from joint intervals.
        strength: of a finding.
    """
    held = [finding for finding in joint if finding.verdict == HOLDS]
    verdicts = {finding.verdict for finding in single}
    if held or verdicts in ({FAILS}, {NOT_TESTED}):
        return max(held or single, key=strength)
    if verdicts <= {FAILS, OPEN_LOSS}:  # each shows a loss alone
        return max((finding for finding in single if finding.verdict == OPEN_LOSS), key=strength)
    undecided = [finding for finding in joint if finding.verdict != FAILS] or single  # which may be joint over more
    first = next(word for word in (OPEN, NOT_TESTED, OPEN_LOSS, FAILS) if word in {each.verdict for each in undecided})
    return max((finding for finding in undecided if finding.verdict == first), key=strength)


def ahead(evidence: Evidence, method: str, reference: str, *, margin_points: float) -> list[Finding]:
    """Whether a method is ahead of another: on average over the budgets that both have, and at each of them.

    Models that share a checkpoint, which are one in these verdicts, also have verdicts of their own. Cells in which
    both methods are at the floor or the ceiling are left out.
    """
    pairs = evidence.pairs(method, reference)
    what = f"{style.label(method)} minus {style.label(reference)}"

    def judge(subject: str, rows: pd.DataFrame, joint: int, where: str, over_pairs: bool = True) -> Finding:
        compared = evidence.between_floor_and_ceiling(rows)
        if len(compared) < len(rows):
            with_all = style.points(mean_interval(differences(evidence.sample, rows)).estimate, 2)
            where += f", without cells at chance or near full ({with_all} with them)"
        everywhere = None if over_pairs else evidence.between_floor_and_ceiling(pairs)
        over = {"over_pairs": over_pairs, "joint": joint, "seeds_from": everywhere}
        return evidence.compare(subject, compared, AHEAD, margin_points, f"{what}{where}", **over)

    tried = list(pairs.groupby("budget"))
    budgets = f", over {style.count(len(tried), 'budget')}"
    findings = [judged(ALL_MODELS, partial(judge, ALL_MODELS, pairs, 1, budgets))]
    if len(tried) > 1:
        findings += [
            judged(kept(budget), partial(judge, kept(budget), rows, len(tried), f" at {kept(budget)}"))
            for budget, rows in tried
        ]
    sharing = [(model, rows) for model, rows in pairs.groupby("model", sort=False) if model in evidence.sharing]
    findings += [judged(model, partial(judge, model, rows, len(sharing), budgets, False)) for model, rows in sharing]
    return findings


def kept(budget: float) -> str:
    """A budget as a subject, e.g. "25 % kept"."""
    return f"{style.budget_label(budget)} kept".replace(style.NO_BREAK_SPACE, " ")


def ahead_on_curve(
    evidence: Evidence,
    other: str,
    column: str,
    scale: Callable = np.asarray,
    method: str = "ken",
    *,
    margin_points: float,
) -> list[Finding]:
    """Whether KEN is ahead of another method, interpolated at the values of that method in a column.

    Over all models, and for each jointly with the others.
    """

    @cache
    def gaps_of(model: str | None) -> Differences:
        curve = pd.concat([evidence.rows(method, model), evidence.rows("full", model)])
        return from_curve(evidence.sample, curve, evidence.rows(other, model), column, scale)

    def judge(subject: str, model: str | None, joint: int) -> Finding:
        gaps, tried = gaps_of(model), len(evidence.rows(other, model))
        outside = tried - len(gaps.points)
        if not len(gaps.points):
            raise Untested(f"all {tried} rows of {other} are outside the {column} of {style.label(method)}")
        what = f"{style.label(method)} minus {style.label(other)}, on average over "
        what += style.count(len(gaps.points), "point") + (f" ({outside} outside the range)" if outside else "")
        over = {"over_pairs": model is None, "joint": joint, "seeds_from": gaps_of(None)}
        return evidence.compare(subject, gaps, AHEAD, margin_points, what, **over)

    evidence.rows(method)
    models = list(dict.fromkeys(evidence.rows(other)["model"]))
    findings = [judged(ALL_MODELS, partial(judge, ALL_MODELS, None, 1))]
    return findings + [judged(model, partial(judge, model, model, len(models))) for model in models]


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

    influence = difference(sample.influence, share[:, None])
    cells = sample.rows.loc[compared, CELL].reset_index(drop=True)
    return Differences(cells, difference(f1, share), influence, sample.checkpoints)


def rescaled_keeps(evidence: Evidence, *, kept_shares: list[float], margin_points: float) -> list[Finding]:
    """KEN with rescaled updates against full, at all of several shares."""
    pairs = evidence.pairs("ken-rescaled", "full")
    by_share = {share: pairs[np.isclose(pairs["budget"], share, rtol=0, atol=ROUNDING)] for share in kept_shares}
    missing = [style.percent(share) for share, rows in by_share.items() if rows.empty]
    if missing:
        shares = " and ".join(missing)
        raise Untested(f"ken-rescaled has no score with {shares} kept", f"a run with {shares} kept")

    def compare(joint: int) -> list[Finding]:
        return [
            evidence.compare(
                kept(share), rows, NO_LOSS, margin_points, f"KEN rescaled minus full at {kept(share)}", joint=joint
            )
            for share, rows in by_share.items()
        ]

    joint = compare(len(by_share))
    findings = [replace(all_of(compare(1), joint), subject=ALL_MODELS), *joint]
    return with_control(findings, partial(control, evidence, margin_points, evidence.models))


def control(evidence: Evidence, margin_points: float, models: Iterable[str], subject: str) -> Finding:
    """The control of a rule of no loss on the mean over some models."""
    pairs = evidence.pairs(CONTROL_METHOD, "full")
    pairs = pairs[np.isclose(pairs["budget"], CONTROL_SHARE) & pairs["model"].isin(list(models))]
    if pairs.empty:
        raise Untested(f"{CONTROL_METHOD} has no score with {kept(CONTROL_SHARE)}", "a run at that kept share")
    what = f"{style.label(CONTROL_METHOD)} minus full at {kept(CONTROL_SHARE)}"
    return evidence.compare(subject, pairs, NO_LOSS, margin_points, what, least=0)


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
        raise Untested(f"no model is known to have {size} parameters", "a model of that size")
    pairs = pairs[np.isclose(pairs["budget"], kept_share, rtol=0, atol=ROUNDING)]
    if pairs.empty:
        raise Untested(f"{method} has no score with {style.percent(kept_share)} kept", "a run at that kept share")
    what = f"{style.label(method)} minus full at {kept(kept_share)}"
    finding = evidence.compare(ALL_MODELS, pairs, NO_LOSS, margin_points, what, least=0)
    finding = replace(finding, why=f"{finding.why} {file_sizes(evidence.sample.rows, pairs)}")
    return with_control([finding], partial(control, evidence, margin_points, models))


def file_sizes(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """The mean and the largest size of files, in units of those of the full models that they are paired with."""
    stored, full = (rows["stored_bytes"][pairs[name]].to_numpy(float) for name in ("row", "row_reference"))
    sizes = pairs.assign(share=stored / full).groupby("model")["share"].mean()
    most = f"{100 * sizes.max():.2f} % ({sizes.idxmax()})"
    return f"The files have {100 * sizes.mean():.2f} % of the full model's bytes, at most {most}."


def grid_differs(evidence: Evidence, *, margin_points: float) -> list[Finding]:
    """The rule of the released code against the paper's, at any budget."""
    tried = list(evidence.pairs("ken-grid", "ken").groupby("budget"))

    def compare(joint: int) -> list[Finding]:
        return [
            evidence.compare(
                kept(budget), rows, DIFFERENT, margin_points, f"Ken-grid minus KEN at {kept(budget)}", joint=joint
            )
            for budget, rows in tried
        ]

    joint = compare(len(tried))
    largest = any_of(compare(1), joint, lambda finding: abs(finding.interval.estimate))
    return [replace(largest, subject=ALL_MODELS), *joint]
