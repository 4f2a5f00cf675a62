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
    """The table of these rows, and the cells whose training failed."""
    return {
        "failed_cells": failed_cells(tables),
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
        ),
    }


def sentences(tables: ResultTables) -> list[str]:
    """The number of rows without a score, and the cells whose training failed."""
    counts = tables.counts
    without = counts["declined"] + counts["failed"]
    if not without:
        return []
    verb = "has" if without == 1 else "have"
    kinds = [f"{counts[kind]} {kind}" for kind in ("declined", "failed") if counts[kind]]
    text = f"Of {counts['rows']} rows, {without} {verb} no score; the report lists each with its reason."
    return [*failed_cells(tables), f"{text} Of these, {' and '.join(kinds)}."]


def failed_cells(tables: ResultTables) -> list[str]:
    """A paragraph that names the cells without a fine-tuned model; none if all have one."""
    failed = tables.not_ok[tables.not_ok["method"] == "full"]
    if failed.empty:
        return []
    names = [
        f"{row.model} on {row.task}, seed {row.seed:.0f}: {row.reason.rstrip('.')}." for row in failed.itertuples()
    ]
    cells, verb = style.count(len(failed), "cell"), "is" if len(failed) == 1 else "are"
    return [" ".join([f"The training of {cells} failed, which {verb} left out of all means.", *names])]
