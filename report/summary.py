"""Findings of a study as sentences; all numbers come from its tables."""

from report.measurements import overview, verdicts
from report.measurements.contract import ResultTables
from report.outputs import MEASUREMENTS


def answer(tables: ResultTables) -> str:
    """The study in a paragraph: the verdicts, and the loss of KEN, of a random choice and of the best method."""
    return " ".join([*verdicts.answer(tables), *overview.answer(tables)])


def sentences(tables: ResultTables) -> list[str]:
    """The findings of a study, most important first."""
    return [sentence for measurement in MEASUREMENTS for sentence in measurement.call("sentences", tables)]
