"""Growth of the time of a selection with the size and with k."""

from typing import Any

import pandas as pd

from report import labels, style
from report import table as columns
from report.drawing import DASHED, WIDTH, Drawing, Figure, canvas, drawing_of, log_axis, method_line
from report.measurements.contract import ResultFiles, ResultTables
from report.results import Columns, read_if_run
from report.table import Table

COLUMNS = {"timing": Columns.of("method", "size k seconds")}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """timing.csv, one row per rule, size and k; no rows if that was not measured."""
    return {"timing": read_if_run(files.results / "timing.csv", COLUMNS["timing"])}


def page(tables: ResultTables) -> dict[str, Any]:
    """All measurements, and the slopes fitted to them."""
    table = Table.of(
        [
            columns.method("Rule"),
            *columns.numbers({"Entries": "size", "k": "k"}, style.integer),
            columns.number("Seconds", "seconds", "{:.3g}".format),
        ],
        tables.timing.itertuples(),
    )
    return {"table": table, "sentence": slopes_sentence(tables.claims)}


def slopes_sentence(claims: pd.DataFrame) -> str:
    """How the time of each rule grows with what it grows fastest with, from the claim about it; "" if not computed."""
    slopes = claims[(claims["unit"] == "slope") & claims["estimate"].notna()]
    slopes = slopes.assign(rule=slopes["subject"].map(lambda subject: subject.partition(", ")[0])).sort_values(
        "estimate", ascending=False
    )
    lines = []
    for row in slopes.drop_duplicates("rule").sort_index().itertuples():
        power, low, high = (
            f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") for value in (row.estimate, row.low, row.high)
        )
        over = row.subject.partition(", ")[2] or "size"
        lines.append(
            f"The time of {style.label(row.rule)} grows fastest with {over}: to the power of {power} ({low} to {high})."
        )
    return f"{' '.join(lines)} A power of 1 is linear growth." if lines else ""


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of all measurements."""
    text = "Seconds of one selection against size and against k"
    note = "The time of pruning was not measured in this study."
    return {"timing": drawing_of(draw_timing, tables.timing, description=text, note=note)}


def draw_timing(timing: pd.DataFrame) -> Figure:
    """Seconds of one selection against size and against k, both logarithmic, with a line of slope 1."""
    largest = timing["size"].max()
    middle = timing.groupby("k")["size"].nunique().idxmax()
    parts = {
        "size": (timing[timing["k"] == middle], f"entries pruned (k = {middle:g})"),
        "k": (timing[timing["size"] == largest], f"k, entries kept of each row ({largest:,.0f} entries)"),
    }
    parts = {column: part for column, part in parts.items() if part[0][column].nunique() > 1} or {"size": parts["size"]}
    figure, panels = canvas(WIDTH, 2.9 * len(parts), len(parts), 1, sharey=True)
    styles = style.method_styles(timing["method"])
    for axes, (column, (rows, name)) in zip(panels[:, 0], parts.items(), strict=True):
        for method, line in rows.sort_values(column).groupby("method", sort=False):
            axes.plot(line[column], line["seconds"], **method_line(styles[method]), label=style.label(method))
        ends = [rows[column].min(), rows[column].max()]
        start = rows.loc[rows[column] == ends[0], "seconds"].min()
        line = {"color": style.INK, "linewidth": 0.9, "linestyle": DASHED, "label": "linear (slope 1)"}
        axes.plot(ends, [start, start * ends[1] / ends[0]], **line)
        axes.set_ylabel("seconds of one selection")
        axes.set_xlabel(name)
        log_axis(axes.xaxis, sorted(set(rows[column])))
    log_axis(panels[0, 0].yaxis)
    labels.write(figure)
    return figure
