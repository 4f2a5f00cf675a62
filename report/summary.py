"""What a study came to, in sentences whose numbers all come from its tables."""

from report.measurements import overview, verdicts
from report.measurements.contract import ResultTables
from report.outputs import MEASUREMENTS


def answer(tables: ResultTables) -> str:
    """The study in a paragraph: how many claims stand, and what KEN loses beside a random choice and the best."""
    return " ".join([*verdicts.answer(tables), *overview.answer(tables)])


def sentences(tables: ResultTables) -> list[str]:
    """The findings of a study, most important first; what was not run is left out."""
    return [sentence for measurement in MEASUREMENTS for sentence in measurement.call("sentences", tables)]
