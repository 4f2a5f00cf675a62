"""Claims about pruned language models: LLM Surgeon against the dense model and against other prunings."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd

from report import style
from report.intervals import Interval
from report.judging.evidence import (
    ROUNDING,
    Evidence,
    Finding,
    Untested,
    cells_of,
    deciding,
    judged,
    not_inferior,
    superior,
    worst_of,
)
from report.judging.losses import LossSample

LOSS_KEYS = ["structure", "shots", "budget"]


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
        rises = {
            budget: evidence.interval(sample.differences(pruned, sample.of("dense"), []))
            for budget, pruned in rows.groupby("budget")
        }
        # `not_inferior` expects differences in score; a rise of the loss has the opposite sign.
        falls = {budget: Interval(-rise.estimate, -rise.high, -rise.low) for budget, rise in rises.items()}
        verdicts = {budget: not_inferior(fall, margin_nats) for budget, fall in falls.items()}
        verdict = worst_of(list(verdicts.values()))
        worst = max(deciding(rises, verdicts, verdict), key=lambda budget: rises[budget].estimate)
        parts = [
            f"{style.percent(budget)} removed {in_nats(rise, evidence.confidence)}" for budget, rise in rises.items()
        ]
        n = len(rows[["model", "seed"]].drop_duplicates())
        why = f"Above the dense model in {style.count(n, 'run')} of language models: {', '.join(parts)}."
        finding = Finding("language models", verdict, n, why, rises[worst], "nats")
        return evidence.if_tested(finding, rows.assign(task="language"), unit=("model", "models"))

    return judged_on_losses(evidence, {"language models": judge})


def surgeon_shots(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """One shot against the most shots, at equal structures and sparsities."""

    def judge(sample: LossSample) -> Finding:
        rows = sample.of("llm-surgeon")
        one, several = rows[rows["shots"] == 1], most_shots(rows[rows["shots"] > 1])
        keys = ["structure", "budget"]
        return saved(evidence, sample, (one, several), keys, "One shot minus several", margin_nats)

    return judged_on_losses(evidence, {"language models": judge})


def surgeon_correlated(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """Independent against correlated updates, at equal structures, shots and sparsities."""

    def judge(sample: LossSample) -> Finding:
        both = (sample.of("llm-surgeon-independent"), sample.of("llm-surgeon"))
        return saved(evidence, sample, both, LOSS_KEYS, "Independent minus correlated updates", margin_nats)

    return judged_on_losses(evidence, {"language models": judge})


def surgeon_ahead(evidence: Evidence, *, margin_nats: float) -> list[Finding]:
    """Magnitude pruning, L-OBD and K-OBD against LLM Surgeon, with a verdict for each."""

    def judge(sample: LossSample, other: str) -> Finding:
        both = (sample.of(other), sample.of("llm-surgeon"))
        finding = saved(evidence, sample, both, LOSS_KEYS, f"{style.label(other)} minus LLM Surgeon", margin_nats)
        return replace(finding, subject=style.label(other))

    others = ("magnitude", "l-obd", "k-obd")
    return judged_on_losses(evidence, {style.label(other): partial(judge, other=other) for other in others})


def judged_on_losses(evidence: Evidence, judges: dict[str, Callable[[LossSample], Finding]]) -> list[Finding]:
    """The finding on each subject from the pruned language models of a study; none if it has no such models."""
    sample = evidence.losses
    if sample is None or sample.rows.empty:
        return []
    return [judged(subject, partial(judge, sample)) for subject, judge in judges.items()]


def most_shots(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the largest number of shots."""
    return rows[rows["shots"] == rows["shots"].max()]


def saved(evidence: Evidence, sample: LossSample, both: tuple, keys: list[str], what: str, margin: float) -> Finding:
    """The finding on how much lower the loss of the second of two sets of rows is, at equal keys."""
    gaps = sample.differences(*both, keys)
    if gaps.cells.empty:
        raise Untested("the study lacks one of the two, or they have no setting in common")
    interval, n = evidence.interval(gaps), cells_of(gaps.cells)
    why = f"{what}: {in_nats(interval, evidence.confidence)} on average over {len(gaps.points) // n} settings"
    why += f" in {style.count(n, 'run')} of language models."
    finding = Finding("language models", superior(interval, margin), n, why, interval, "nats")
    return evidence.if_tested(finding, gaps.cells, unit=("model", "models"))


def in_nats(interval: Interval, confidence: float) -> str:
    """Text for a difference in loss and its interval."""
    numbers = [f"{value:+.3f}".replace("-", "−") for value in interval]
    return f"{numbers[0]} nats a token ({style.percent(confidence)} interval {numbers[1]} to {numbers[2]})"
