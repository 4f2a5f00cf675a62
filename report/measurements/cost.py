"""Seconds and memory to make a stored file, also relative to the fine-tuning of the same cell."""

import math
from typing import Any

import numpy as np
import pandas as pd

from report import style
from report import table as columns
from report.drawing import Drawing, Figure, canvas, drawing_of, set_ticks
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, Columns
from report.scores import aggregations
from report.table import Table

COLUMNS = {"cost": Columns.of("method family", "cells files seconds seconds_min seconds_max relative peak_mib")}
NOTE = (
    "Seconds: to choose or train, and to store; mean over the files of a cell, then over cells. What a method computes "
    "once for all its budgets counts with the first. Fine-tuning: the whole job, with the evaluation on the test set. "
    "Fine-tuning = 1: geometric mean over cells of the seconds in units of those of the cell's fine-tuning. A method "
    "that tries several learning rates counts all of them. Peak memory is that of the process until then. Methods that "
    "do not train share one process, so later ones show at least what earlier ones needed."
)
FINETUNING = "fine-tuning"  # method of the reference row


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Seconds per cell, also relative to the fine-tuning of the same cell, and peak memory.

    The seconds of a cell are the mean over its files. `relative` is the geometric mean over cells. The first row is
    the fine-tuning itself, from the pre-trained body only.
    """
    scores, finetuning = files.scores, files.finetuning
    tuned = finetuning[finetuning["arm"] == "pretrained"].set_index(CELL)
    made = scores[(scores["status"] == "ok") & ~scores["method"].isin(style.CONTROLS)]
    cells = made.groupby([*CELL, "method", "family"], sort=False).agg(
        files=("seconds", "size"), seconds=("seconds", "mean"), peak_mib=("peak_mib", "max")
    )
    whole = tuned[["seconds", "peak_mib"]].assign(method=FINETUNING, family="trained", files=1).reset_index()
    cells = pd.concat([whole, cells.reset_index()], ignore_index=True)
    unit = cells.set_index(CELL).index.map(tuned["seconds"].to_dict()).to_numpy(float)
    with np.errstate(divide="ignore"):
        cells["log"] = np.log(cells["seconds"].to_numpy(float) / unit)
    table = cells.groupby(["method", "family"], sort=False).agg(
        cells=("seed", "size"),
        files=("files", "sum"),
        relative=("log", "mean"),
        peak_mib=("peak_mib", "max"),
        **aggregations("seconds", ends="seconds"),
    )
    table["relative"] = np.exp(table["relative"])
    return {"cost": table.reset_index()[COLUMNS["cost"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Section with the table, and KEN compared with the methods that train."""
    seconds = "{:.3g}".format
    table = Table.of(
        [
            columns.text("Method", lambda row: "Fine-tuning" if row.method == FINETUNING else style.label(row.method)),
            columns.number("Seconds a file", "seconds", seconds),
            columns.span("Over cells", "seconds_min", "seconds_max", seconds),
            columns.number("Fine-tuning = 1", "relative", seconds),
            *columns.numbers({"Peak memory, MiB": "peak_mib", "Files": "files", "Cells": "cells"}, style.integer),
        ],
        tables.cost.itertuples(),
    )
    title = "What it costs to make a file"
    shown = "cost" if len(_drawn(tables.cost)) else ""
    caption = (
        "Time to choose or train and to store one file, fine-tuning = 1; mean over the cells that a method ran in, of "
        f"{tables.extent}."
    )
    section = PageSection("cost", title, cost_sentence(tables.cost), table, NOTE, "", shown, caption, filters=False)
    return {"section": section}


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of times relative to fine-tuning."""
    text = "Time to make one stored file in units of the fine-tuning, one dot per method"
    return {"cost": drawing_of(draw_cost, _drawn(tables.cost), description=text, note="No time was measured.")}


def _drawn(cost: pd.DataFrame) -> pd.DataFrame:
    """Rows of the figure, fastest first: methods without a number of bits, which cost what their base costs."""
    names = cost["method"].map(style.MethodName.of)
    own = names.map(lambda name: name.bits is None and not name.rescaled).astype(bool)
    return cost[own & (cost["relative"] > 0)].sort_values("relative", kind="stable")


def draw_cost(cost: pd.DataFrame) -> Figure:
    """Seconds per file relative to fine-tuning on a log axis, one row per method."""
    figure, panels = canvas(5.4, 0.19 * len(cost) + 0.8)
    axes = panels[0, 0]
    styles = style.method_styles(cost["method"])
    for row, one in enumerate(cost.itertuples()):
        colour = style.INK if one.method == FINETUNING else styles[one.method].colour
        axes.plot(one.relative, row, "o" if one.family != "trained" else "D", color=colour, markersize=5)
    names = ["Fine-tuning" if name == FINETUNING else style.label(name) for name in cost["method"]]
    axes.set_yticks(range(len(cost)), names)
    axes.set_ylim(len(cost) - 0.4, -0.6)
    axes.set_xscale("log")
    low, high = math.floor(math.log10(cost["relative"].min())), math.ceil(math.log10(cost["relative"].max()))
    set_ticks(axes.xaxis, [10.0**power for power in range(low, max(high, low + 1) + 1)], lambda value: f"{value:g}")
    axes.set_xlabel("time of one stored file, fine-tuning = 1 (log scale)")
    return figure


def cost_sentence(cost: pd.DataFrame) -> str:
    """Time to make a file for KEN and for the methods that train, relative to the fine-tuning."""
    relative = cost.set_index("method")["relative"].dropna()
    trained = cost.loc[(cost["family"] == "trained") & (cost["method"] != FINETUNING), "method"]
    lines = []
    if "ken" in relative:
        lines.append(
            f"Making a file with KEN takes {relative['ken']:.2g} times as long as fine-tuning the model, which comes "
            "first."
        )
    times = relative[relative.index.isin(trained)].sort_values()
    if len(times) == 1:
        lines.append(f"{style.label(times.index[0])}, which trains instead, takes {times.iloc[0]:.2g} times as long.")
    elif len(times):
        low, high = (f"{times.iloc[end]:.2f} ({style.label(times.index[end])})" for end in (0, -1))
        lines.append(f"Methods that train instead take from {low} to {high} times as long, in the cells they ran in.")
    return " ".join(lines)
