"""Kept shares and files chosen on validation, and their loss on test."""

import math
from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, PAIR, Columns, read_table
from report.scores import aggregations
from report.table import Table

SMALLEST_FILE = "smallest-file"  # `study.cells.suggest.SMALLEST_FILE`, whose module imports torch
COLUMNS = {
    "suggestions": Columns.of(
        "model task method",
        "searches looked seeds share share_min share_max stored_bytes stored_share loss_points loss_points_max held "
        "margin confidence",
    )
}
FILE = Columns.of(
    "model task method",
    "seed share margin confidence looks kept_share stored_bytes weighted_f1 macro_f1 accuracy full_weighted_f1",
)

TOO_FEW, NONE = "too few validation rows", "nothing certified"


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Shares and losses on test over seeds, per model, task and method; empty where no search had a result."""
    chosen = read_table(files.results / "suggestions.csv", *FILE)
    chosen = chosen.assign(
        loss_points=100 * (chosen["full_weighted_f1"] - chosen["weighted_f1"]),
        stored_share=chosen["stored_bytes"] / _dense_bytes(files, chosen),
    )
    chosen["held"] = (
        (chosen["loss_points"].round(9) <= 100 * chosen["margin"]).astype(float).where(chosen["share"].notna())
    )
    table = chosen.groupby([*PAIR, "method"], sort=False).agg(
        searches=("share", "size"),
        looked=("looks", "count"),
        seeds=("share", "count"),
        margin=("margin", "first"),
        confidence=("confidence", "first"),
        held=("held", "sum"),
        **aggregations("share stored_bytes stored_share loss_points", ends="share loss_points"),
    )
    return {"suggestions": table.reset_index()[COLUMNS["suggestions"].names]}


def _dense_bytes(files: ResultFiles, chosen: pd.DataFrame) -> pd.Series:
    """Bytes of the full model of each row."""
    full = files.scores[files.scores["method"] == "full"].set_index(CELL)["stored_bytes"]
    return full.reindex(pd.MultiIndex.from_frame(chosen[CELL])).set_axis(chosen.index).astype(float)


def _lacks_rows(tables: ResultTables) -> bool:
    """Whether some tasks have too few validation rows for a search, so that no file was evaluated."""
    return bool((tables.suggestions["looked"] == 0).any())


def _why_none(row: Any) -> str:
    """Why a row has no result; "" if it has one."""
    if not math.isnan(row.share):
        return ""
    return NONE if row.looked else TOO_FEW


def _needed(suggestions: pd.DataFrame) -> str:
    """How many validation rows a choice needs."""
    from ken.suggestion import examples_needed  # imports torch

    first = suggestions.iloc[0]
    limit = f"a loss of at most {100 * first['margin']:g} points at {style.percent(first['confidence'])} confidence"
    return (
        f"It takes at least {examples_needed(first['margin'], first['confidence']):,} validation rows to show {limit}."
    )


def page(tables: ResultTables) -> dict[str, Any]:
    """Section with the shares, and the margin and confidence of their choice."""
    note = [columns.text("Note", _why_none)] if tables.suggestions["share"].isna().any() else []
    table = Table.of(
        [
            *columns.PAIR,
            columns.method(),
            columns.number("Keep", "share", style.share),
            *note,
            columns.span("Over seeds", "share_min", "share_max", style.percent, by="share_max"),
            columns.number("Test F1 to full, points", lambda row: -row.loss_points, style.points),
            columns.number("Worst seed", lambda row: -row.loss_points_max, style.points),
            columns.number("Stored file", "stored_bytes", style.size),
            columns.number("Of the full file", "stored_share", style.share),
            columns.number("Within the margin on test", "held", style.integer),
            columns.number("Searches with a result", "seeds", style.integer),
        ],
        tables.suggestions.itertuples(),
    )
    text = "".join(
        f"The smallest share of each row, or the smallest file, that loses at most {100 * row.margin:g} points on "
        f"validation at {style.percent(row.confidence)} confidence. A share is found by bisection, a file among "
        "several ways of coding. Test data took no part in the choice: the chosen model was evaluated on it once."
        for row in tables.suggestions[:1].itertuples()
    )
    if _lacks_rows(tables):
        text += f" {_needed(tables.suggestions)}"
    absent = "No share was looked for in this study."
    return {"section": PageSection("choice", "How much to keep?", text, table, absent=absent)}


def sentences(tables: ResultTables) -> list[str]:
    """Shares chosen on validation for each method: median over models and tasks, and the loss on test."""
    chosen = tables.suggestions.dropna(subset="share")
    if chosen.empty and _lacks_rows(tables):
        return [f"No share could be chosen on validation: there are {TOO_FEW}. {_needed(tables.suggestions)}"]
    if chosen.empty:
        return ["No search on validation had a result."] if len(tables.suggestions) else []
    first = chosen.iloc[0]
    lines = [
        f"Shares and files were chosen on validation to lose at most {100 * first['margin']:g} points at "
        f"{style.percent(first['confidence'])} confidence."
    ]
    for method, rows in chosen.groupby("method", sort=False):
        if method == SMALLEST_FILE:
            lines.append(_on_files(tables.suggestions[tables.suggestions["method"] == method]))
            continue
        loss = style.loses(-rows["loss_points"].mean())
        share = style.share(rows["share"].median())
        lines.append(f"{style.label(method)} keeps {share} of each row (median) and {loss} points on test.")
        lines.append(_promise(rows))
    return [" ".join(lines)]


def _promise(rows: pd.DataFrame) -> str:
    """How often the loss on test is within the margin, and the largest loss."""
    held, chosen = int(rows["held"].sum()), int(rows["seeds"].sum())
    worst = rows["loss_points_max"].max()
    return f"On test, {held} of {chosen} lose no more than was allowed; the worst {style.loses(-worst)} points."


def _on_files(rows: pd.DataFrame) -> str:
    """In how many cells a file is certified, how small it is, and how often the loss on test is within the margin."""
    return (
        f"`ken suggest` certifies a file in {rows['seeds'].sum():.0f} of {rows['searches'].sum():.0f} cells. It has "
        f"{style.share(rows['stored_share'].median())} of the full model's bytes (median). {_promise(rows)}"
    )
