"""KEN's choice beside every draw of a random choice, where it matters most what is kept."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, Columns
from report.table import Table

STEEP = 5.0  # loss of a random choice, in points of weighted F1, from which a cell counts as steep
SEVERAL = 5  # cells from which the sentence speaks of a kept share
COLUMNS = {"draws": Columns.of("", "budget cells draws above below")}
NOTE = (
    f"Steep: a random choice loses more than {STEEP:g} points on average over its draws. Expected: in how many of them "
    "one more random draw would be above all others, or below."
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """For each kept share: number of steep cells, and in how many of them KEN is above, or below, all random draws.

    Only cells with at least two draws count; `draws` is the smallest number in any of them.
    """
    keys = [*CELL, "budget"]
    scores, means = (table[table["unit"] == "share"] for table in (files.scores, files.seeds))
    random = scores[(scores["method"] == "random") & (scores["status"] == "ok")]
    ends = random.groupby(keys)["weighted_f1"].agg(least="min", most="max").reset_index()
    steep = means[(means["method"] == "random") & (means["draws"] > 1) & (means["difference_points"] < -STEEP)]
    ken = means.loc[means["method"] == "ken", [*keys, "weighted_f1"]]
    steep = steep[[*keys, "draws"]].merge(ends, on=keys).merge(ken, on=keys)
    steep = steep.assign(above=steep["weighted_f1"] > steep["most"], below=steep["weighted_f1"] < steep["least"])
    table = steep.groupby("budget").agg(
        cells=("seed", "size"), draws=("draws", "min"), above=("above", "sum"), below=("below", "sum")
    )
    return {"draws": table.reset_index()[COLUMNS["draws"].names]}


def _expected(row: Any) -> float:
    """In how many cells one more random draw would be above all others."""
    return row.cells / (row.draws + 1)


def page(tables: ResultTables) -> dict[str, Any]:
    """A section with the numbers at each kept share."""
    table = Table.of(
        [
            columns.number("Kept", "budget", style.percent),
            columns.number("Steep cells", "cells", style.integer),
            columns.number("Random draws in each", "draws", style.integer),
            columns.number("KEN above all draws", "above", style.integer),
            columns.number("KEN below all draws", "below", style.integer),
            columns.number("Expected of each", _expected, "{:.1f}".format),
        ],
        tables.draws.itertuples(),
    )
    absent = "No cell of this study is steep and has several random draws."
    text = " ".join(sentences(tables))
    return {"section": PageSection("draws", "Is KEN beyond chance where it matters?", text, table, NOTE, absent)}


def sentences(tables: ResultTables) -> list[str]:
    """The numbers at the largest kept share with several steep cells."""
    rows = tables.draws[tables.draws["cells"] >= SEVERAL]
    if rows.empty:
        return []
    row = rows.loc[rows["budget"].idxmax()]
    draws = f"all {row.draws:.0f} draws" if row.draws > 2 else "both draws"
    return [
        f"With {style.percent(row.budget)} of each row kept, a random choice loses more than {STEEP:g} points in "
        f"{row.cells:.0f} cells. KEN is above {draws} in {row.above:.0f} of them and below in {row.below:.0f}. "
        f"One more random draw would be above in {_expected(row):.1f} on average, and below in as many."
    ]
