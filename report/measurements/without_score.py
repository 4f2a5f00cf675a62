"""Rows without a score, declined or failed, with their reasons."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import Columns
from report.table import Table

COLUMNS = {"not_ok": Columns.of("model task method unit status reason", "seed draw budget")}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Rows of scores.csv whose status is not ok."""
    axes = ["model", "task", "seed", "draw", "method", "budget", "unit"]
    return {"not_ok": files.scores.loc[files.scores["status"] != "ok", [*axes, "status", "reason"]]}


def page(tables: ResultTables) -> dict[str, Any]:
    """The table of these rows."""
    return {
        "table": Table.of(
            [
                *columns.PAIR,
                columns.method(),
                columns.text("Status", "status"),
                *columns.numbers({"Seed": "seed", "Draw": "draw"}, style.integer),
                columns.budget(),
                columns.text("Reason", "reason", "prose"),
            ],
            tables.not_ok.itertuples(),
        )
    }


def sentences(tables: ResultTables) -> list[str]:
    """The number of rows without a score."""
    counts = tables.counts
    without = counts["declined"] + counts["failed"]
    if not without:
        return []
    parts = f"{counts['declined']} declined, {counts['failed']} failed"
    return [f"Without a score: {without} of {counts['rows']} rows ({parts}); all are listed with their reasons."]
