"""Findings of a study as sentences; all numbers come from its tables."""

from report.headline import headline
from report.measurements.contract import ResultTables
from report.outputs import MEASUREMENTS


def answer(tables: ResultTables) -> str:
    """The study in a paragraph: its headline."""
    return " ".join(headline(tables))


def sentences(tables: ResultTables) -> list[str]:
    """The findings of a study, most important first."""
    return [sentence for measurement in MEASUREMENTS for sentence in measurement.call("sentences", tables)]
