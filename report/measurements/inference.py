"""Inference time per text of compressed models, relative to the dense model."""

from typing import Any

import numpy as np
import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import Columns, damaged, read_table
from report.scores import aggregations
from report.table import Table

COLUMNS = {
    "inference": Columns.of(
        "method unit form",
        "budget cells relative_time relative_time_min relative_time_max milliseconds_per_text parameters peak_mib",
    )
}
FILE = Columns.of(
    "model task method unit form", "seed budget parameters texts milliseconds_per_text relative_time peak_mib"
)
FORMS = {
    "dense": "dense",
    "restored": "restored to a dense model",
    "merged": "merged into the weights",
    "beside": "unmerged adapter",
    "compiled": "compacted to smaller layers",
}  # form in inference.csv -> label
NOTE = (
    "Geometric mean and range over cells of the time of a text, relative to the dense model on the same inputs in the "
    "same run. Memory: model and intermediate results."
)
PHRASES = {
    "restored": "Restored to a dense model",
    "merged": "Merged into the weights",
    "beside": "As an unmerged adapter",
    "compiled": "Compacted to smaller layers",
}  # form in inference.csv -> start of its sentence
NAMED = 3  # most methods that a sentence names


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Relative time per method, budget and form: geometric mean and range over cells.

    Raises:
        UserError: see `read_table`; or a relative time is not above 0.
    """
    path = files.results / "inference.csv"
    times = read_table(path, *FILE)
    if not (times["relative_time"] > 0).all():
        raise damaged(path, "has a relative_time that is not above 0")
    table = (
        times.assign(log=np.log(times["relative_time"]))
        .groupby(["method", "unit", "budget", "form"], sort=False)
        .agg(
            cells=("seed", "size"),
            relative_time=("log", "mean"),
            **aggregations("milliseconds_per_text parameters peak_mib", ends="relative_time"),
        )
    )
    table["relative_time"] = np.exp(table["relative_time"])
    return {"inference": table.reset_index()[COLUMNS["inference"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Section with times per method, budget and form of the model."""
    table = Table.of(
        [
            columns.method(),
            columns.text("Form", lambda row: FORMS.get(row.form, row.form)),
            columns.budget(),
            columns.number("Time, dense = 1", "relative_time", "{:.2f}".format),
            columns.span("Over cells", "relative_time_min", "relative_time_max", "{:.2f}".format),
            columns.number("ms a text", "milliseconds_per_text", _digits),
            columns.number("Parameters", "parameters", style.integer),
            columns.number("Memory, MiB", "peak_mib", _digits),
            columns.number("Cells", "cells", style.integer),
        ],
        tables.inference.itertuples(),
    )
    text = speed(tables.inference) or "Only the dense model was timed."
    absent = "Inference was not timed in this study."
    return {"section": PageSection("speed", "Is it faster?", text, table, NOTE, absent)}


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def sentences(tables: ResultTables) -> list[str]:
    """The sentence of `speed`, if inference was timed."""
    return list(filter(None, [speed(tables.inference)]))


def speed(times: pd.DataFrame) -> str:
    """How long a text takes with each form of compressed models; "" if it was not measured.

    Args:
        times: the table inference.
    """
    lines = []
    for form, rows in times[times["form"] != "dense"].groupby("form", sort=False):
        methods = list(dict.fromkeys(rows["method"]))
        names = style.listed([style.label(name) for name in methods]) if len(methods) <= NAMED else "methods"
        takes = "takes" if len(methods) == 1 else "take"
        times_dense = style.span(rows["relative_time"].min(), rows["relative_time"].max(), "{:.2f}".format, merged=True)
        phrase = PHRASES.get(form, f"As {FORMS.get(form, form)}")
        unit = " times as long for a text as the dense model" if not lines else " times as long"
        lines.append(f"{phrase}, {names} {takes} {times_dense}{unit}.")
    return " ".join(lines)
