"""Claims about pruned language models: LLM Surgeon against the dense model and against other prunings."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pandas as pd

from report import style
from report.intervals import Differences, Interval, uncertainty
from report.judging.evidence import (
    AHEAD,
    LANGUAGE_MODELS,
    NO_LOSS,
    ROUNDING,
    Evidence,
    Finding,
    Untested,
    cells_of,
    judged,
    not_inferior,
    superior,
    with_needs,
)
from report.judging.losses import LossSample
from report.results import FAILS, HOLDS, NOT_TESTED, OPEN, OPEN_LOSS

OTHERS = ("magnitude", "l-obd", "k-obd", "wanda", "sparsegpt")


def surgeon_structured(
    evidence: Evidence, *, least_removed: float, most_removed: float, margin_nats: float
) -> list[Finding]:
    """Rows and columns removed by LLM Surgeon against the dense model, at all sparsities of a range."""

    def judge(sample: LossSample) -> Finding:
        rows = most_shots(sample.of("llm-surgeon", structure="row-column"))
        rows = rows[rows["budget"].between(least_removed - ROUNDING, most_removed + ROUNDING)]
        if rows.empty:
            where = f"from {style.percent(least_removed)} to {style.percent(most_removed)}"
            raise Untested(f"LLM Surgeon has not removed rows and columns {where}")
        gaps = {budget: sample.differences(pruned, sample.of("dense"), []) for budget, pruned in rows.groupby("budget")}
        if any(each.cells.empty for each in gaps.values()):
            raise Untested("the study lacks the loss of a dense model")
        unsure = {budget: uncertainty(each) for budget, each in gaps.items()}
        rises = {budget: each.interval(evidence.confidence) for budget, each in unsure.items()}
        # `not_inferior` expects differences in score; a rise of the loss has the opposite sign.
        falls = {budget: Interval(-rise.estimate, -rise.high, -rise.low) for budget, rise in rises.items()}
        verdicts = {budget: not_inferior(fall, margin_nats) for budget, fall in falls.items()}
        verdict = worst_of(list(verdicts.values()))
        worst = max(deciding(rises, verdicts, verdict), key=lambda budget: rises[budget].estimate)
        parts = [
            f"{style.percent(budget)} removed {in_nats(rise, evidence.confidence)}" for budget, rise in rises.items()
        ]
        cells = rows.assign(task="language")
        n = cells_of(cells)
        why = f"Above the dense model in {style.count(n, 'run')} of language models: {', '.join(parts)}."
        finding = Finding("language models", verdict, n, why, rises[worst], "nats", limits=(margin_nats,))
        finding = evidence.if_tested(finding, cells, unit=LANGUAGE_MODELS)
        return with_needs(finding, unsure[worst], NO_LOSS.room(falls[worst].estimate, margin_nats))

    return judged_on_losses(evidence, {"language models": judge})


def surgeon_shots(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """One shot against the most shots, at equal sparsities, with a verdict for each structure."""

    def judge(sample: LossSample, structure: str) -> Finding:
        rows = sample.of("llm-surgeon", structure=structure)
        gaps = sample.differences(rows[rows["shots"] == 1], most_shots(rows[rows["shots"] > 1]), ["budget"])
        return saved(evidence, gaps, style.STRUCTURE_LABELS[structure], "One shot minus several", margin_nats)

    return judged_on_structures(evidence, judge, style.STRUCTURE_LABELS)


def surgeon_correlated(evidence: Evidence, structures: Sequence[str], *, margin_nats: float) -> list[Finding]:
    """Independent against correlated updates, at equal shots and sparsities, with a verdict for each structure."""

    def judge(sample: LossSample, structure: str) -> Finding:
        both = (sample.of(name, structure=structure) for name in ("llm-surgeon-independent", "llm-surgeon"))
        gaps = sample.differences(*both, ["shots", "budget"])
        what = "Independent minus correlated updates"
        return saved(evidence, gaps, style.STRUCTURE_LABELS[structure], what, margin_nats)

    return judged_on_structures(evidence, judge, structures)


def surgeon_ahead(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """Other prunings against LLM Surgeon, each with its most shots, at equal sparsity; a verdict for each."""

    def gaps(sample: LossSample, other: pd.DataFrame, surgeon: pd.DataFrame) -> Differences:
        return sample.differences(other, surgeon, ["structure", "budget"])

    return ahead_of_others(evidence, gaps, "", margin_nats)


def surgeon_ahead_stored(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """The same at equal stored shares, between which the loss of LLM Surgeon is interpolated."""
    return ahead_of_others(evidence, LossSample.differences_at_stored_shares, " at equal stored size", margin_nats)


def ahead_of_others(evidence: Evidence, gaps: Callable[..., Differences], where: str, margin: float) -> list[Finding]:
    """A finding on each of `OTHERS` from `gaps`: (sample, its rows, rows of LLM Surgeon) -> differences in loss."""

    def judge(sample: LossSample, other: str) -> Finding:
        label = style.label(other)
        rows = (most_shots(sample.of(name)) for name in (other, "llm-surgeon"))
        return saved(evidence, gaps(sample, *rows), label, f"{label} minus LLM Surgeon{where}", margin)

    return judged_on_losses(evidence, {style.label(other): partial(judge, other=other) for other in OTHERS})


def worst_of(verdicts: Sequence[str]) -> str:
    """Verdict that all of several hold: one that does not refutes it; one that is open or untested leaves it so."""
    return next((verdict for verdict in (FAILS, NOT_TESTED, OPEN_LOSS, OPEN) if verdict in verdicts), HOLDS)


def deciding(intervals: dict, verdicts: dict, verdict: str) -> list:
    """Keys of the intervals behind an overall verdict: those with the same verdict, or all if there are none."""
    return [key for key in intervals if verdicts[key] == verdict] or list(intervals)


def judged_on_structures(
    evidence: Evidence, judge: Callable[[LossSample, str], Finding], structures: Iterable[str]
) -> list[Finding]:
    """The finding on each of some structures."""
    judges = {style.STRUCTURE_LABELS[name]: partial(judge, structure=name) for name in structures}
    return judged_on_losses(evidence, judges)


def judged_on_losses(evidence: Evidence, judges: dict[str, Callable[[LossSample], Finding]]) -> list[Finding]:
    """The finding on each subject from the pruned language models of a study; none if it has no such models."""
    sample = evidence.losses
    if sample is None or sample.rows.empty:
        return []
    return [judged(subject, partial(judge, sample)) for subject, judge in judges.items()]


def most_shots(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the largest number of shots of their structure."""
    return rows[rows["shots"] == rows.groupby("structure")["shots"].transform("max")]


def saved(evidence: Evidence, gaps: Differences, subject: str, what: str, margin: float) -> Finding:
    """The finding on whether differences in loss are above 0.

    Args:
        gaps: loss without what the claim is about minus loss with it.
        what: the same in words, for the sentence.
    """
    if gaps.cells.empty:
        raise Untested("the study lacks one of the two, or they have no setting in common")
    unsure, n = uncertainty(gaps), cells_of(gaps.cells)
    interval = unsure.interval(evidence.confidence)
    why = f"{what}: {in_nats(interval, evidence.confidence)} on average over {len(gaps.points) // n} settings"
    why += f" in {style.count(n, 'run')} of language models."
    finding = Finding(subject, superior(interval, margin), n, why, interval, "nats", limits=(margin,))
    finding = evidence.if_tested(finding, gaps.cells, unit=LANGUAGE_MODELS)
    return with_needs(finding, unsure, AHEAD.room(interval.estimate, margin))


def in_nats(interval: Interval, confidence: float) -> str:
    """Text for a difference in loss and its interval."""
    numbers = [f"{value:+.3f}".replace("-", "−") for value in interval]
    return f"{numbers[0]} nats a token ({style.percent(confidence)} interval {numbers[1]} to {numbers[2]})"
