"""The picture that heads the page: weighted F1 against the size of the stored file, for a few methods.

The picture of the page is drawn by `report/chart.js` from the same table, for all cells, a model, a task or both.
"""

import itertools
import math
import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from report import drawing, labels, style
from report.measurements import frontier
from report.measurements.contract import ResultFiles, ResultTables
from report.measurements.overview import row_anchor
from report.results import CELL, Columns, read_statistics
from report.scores import METHOD, aggregations, same_budgets

SHOWN = ("ken", "random", "ken-rescaled", "lora")  # besides the best small file, `full` and `none`
CLAIMED = (0.30, 0.75)  # kept shares of a row at which the paper reports no loss: 25 % to 70 % reset (section 5)
LABELS = {"ken": "KEN", "random": "Random choice", "full": "Full model"}
POINTS = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10)
TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)  # shares of the full model's file
COLUMNS = {
    "headline": Columns.of(
        "model task method family unit role cell_model cell_task",
        "budget cells of_cells cell_seed kept_share stored_share stored_bytes weighted_f1 difference_points low high "
        "least most",
    )
}
DESCRIPTION = (
    "Weighted F1 minus that of the full model against the size of the stored file, for KEN, a random choice, KEN "
    "rescaled, the smallest file near full and LoRA"
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means of the shown methods over all cells, those of each model, of each task, and of each pair of the two.

    A model or task of "" means all of them. `low` and `high` are the ends of the 95 % interval, where the statistics
    have one for these cells; `least` and `most` are the range over cells. `role` is "smallest" for the method with the
    smallest file shown to lose at most half a point (or one, or one and a half), "" for the others. `cell_model`,
    `cell_task` and `cell_seed` are those of one of the cells behind the mean.
    """
    seeds = files.seeds[files.seeds["difference_points"].notna()]
    best = frontier.smallest_method(frontier.over_all_cells(frontier.settings(files)))
    seeds = seeds[seeds["method"].isin([*SHOWN, best, *style.CONTROLS])]
    tables = [_means(rows, len(cells)).assign(model=model, task=task) for model, task, rows, cells in _parts(seeds)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS["headline"].names)
    table["role"] = np.where(table["method"] == best, "smallest", "")
    return {"headline": _with_intervals(table, files)[COLUMNS["headline"].names]}


def _parts(seeds: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """(model, task, rows, cells) for all cells and for every choice of a model and a task."""
    for model, task in itertools.product(("", *seeds["model"].unique()), ("", *seeds["task"].unique())):
        rows = seeds[seeds["model"].isin([model] if model else seeds["model"])]
        rows = rows[rows["task"].isin([task] if task else rows["task"])]
        if len(rows):
            yield model, task, rows, rows[CELL].drop_duplicates()


def _means(rows: pd.DataFrame, cells: int) -> pd.DataFrame:
    means = aggregations("kept_share stored_share stored_bytes weighted_f1 difference_points")
    grouped = rows.groupby(METHOD, sort=False)
    table = grouped.agg(
        cells=("seed", "size"), least=("difference_points", "min"), most=("difference_points", "max"),
        **{f"cell_{name}": (name, "first") for name in CELL}, **means,
    )  # fmt: skip
    return table.reset_index().assign(of_cells=cells)


def _with_intervals(table: pd.DataFrame, files: ResultFiles) -> pd.DataFrame:
    """The table with the intervals that the statistics have for the same cells."""
    intervals = same_budgets(read_statistics(files.results, "to_full"))
    intervals = intervals[intervals["cells_of"] == "all"].assign(task="")
    keys = ["model", "task", "method", "unit", "budget"]
    ends = same_budgets(table)[keys].merge(intervals[[*keys, "low", "high"]], on=keys, how="left")
    whole = table["cells"] == table["of_cells"]
    return table.assign(low=ends["low"].where(whole), high=ends["high"].where(whole))


def name_of(method: str, role: str = "") -> str:
    """Label of a method in the picture."""
    return LABELS.get(method, style.label(method)) + (" (smallest file)" if role else "")


def claimed_span(points: pd.DataFrame) -> tuple[float, float] | None:
    """Sizes of KEN's files, as shares of the full model's, between which the paper reports no loss."""
    ken = points[points["method"] == "ken"].sort_values("kept_share")
    if len(ken) < 2 or ken["kept_share"].min() > CLAIMED[1] or ken["kept_share"].max() < CLAIMED[0]:
        return None
    first, last = (float(end) for end in np.interp(CLAIMED, ken["kept_share"], ken["stored_share"]))
    return (first, last) if first < last else None


def page(tables: ResultTables) -> dict[str, Any]:
    """What `report/chart.js` draws, as plain values for JSON; empty if no method has a score."""
    table = tables.headline
    shown = table[table["method"] != "none"]
    if not set(shown["method"]) - {"full"}:
        return {}
    styles = style.method_styles(shown["method"])
    roles = dict(zip(shown["method"], shown["role"], strict=True))
    methods = [
        {
            "name": name,
            "label": name_of(name, role),
            "colour": styles[name].colour if name in styles else style.INK,
            "dash": _dash(styles[name].line) if name in styles else "",
            "hollow": name in styles and styles[name].hollow,
        }
        for name, role in roles.items()
    ]
    spans = {
        f"{model}\n{task}": claimed_span(rows) for (model, task), rows in shown.groupby(["model", "task"], sort=False)
    }
    names = {kind: [name for name in shown[kind].unique() if name] for kind in ("model", "task")}
    return {
        "points": _points(shown),
        "methods": methods,
        "claimed": spans,
        "ticks": list(TICKS),
        "points_ticks": POINTS,
    } | names


def _points(shown: pd.DataFrame) -> list[dict[str, Any]]:
    """One record per point, without the fields that have no value."""
    points = []
    for row in shown.itertuples():
        ends = [row.low, row.high] if not math.isnan(row.low) else []
        points.append(
            {
                "model": row.model, "task": row.task, "method": row.method, "x": row.stored_share,
                "y": row.difference_points, "ends": ends, "range": [row.least, row.most],
                "f1": style.score(row.weighted_f1), "size": style.size(row.stored_bytes),
                "budget": style.budget_label(row.budget, row.unit), "cells": int(row.cells), "of": int(row.of_cells),
                "row": row_anchor(row.method, row.unit, row.budget), "traced": _traced(row),
            }
        )  # fmt: skip
    return points


def _traced(row: Any) -> str:
    """The arguments of `study.trace` for one of the cells behind a point: model, task, seed, method and budget."""
    is_share = row.unit == "share" and row.budget <= 1
    budget = repr(float(row.budget)) if is_share else f"{row.budget:g}"  # as in the name of the stored file
    cell = row.cell_model, row.cell_task, f"{row.cell_seed:.0f}"
    return " ".join(map(shlex.quote, (*cell, row.method, budget)))


def _dash(line: str | tuple) -> str:
    """A dash pattern of matplotlib as one of SVG."""
    return " ".join(f"{1.6 * length:g}" for length in line[1]) if isinstance(line, tuple) else ""


def drawings(tables: ResultTables) -> dict[str, drawing.Drawing]:
    """The picture over all cells, for the README and for a page without its script."""
    points = tables.headline
    points = points[(points["model"] == "") & (points["task"] == "")]
    return {
        "headline": drawing.drawing_of(
            draw_headline, points, description=DESCRIPTION, note="No method has a score and a stored file."
        )
    }


def draw_headline(points: pd.DataFrame) -> drawing.Figure:
    """Difference to full against stored bytes: a labelled line per method, and the sizes of the paper's claim."""
    figure, panels = drawing.canvas(drawing.WIDTH, 3.9)
    axes = panels[0, 0]
    drawing.shade_near(axes, frontier.WITHIN[0])
    styles = style.method_styles(points["method"])
    if span := claimed_span(points):
        colour = styles["ken"].colour
        thick = {"linewidth": 7, "alpha": 0.35, "solid_capstyle": "butt", "zorder": 1.5}
        axes.plot(span, (0, 0), color=colour, label="the paper's claim for KEN", **thick)
    for (method, role), rows in points[points["method"] != "none"].groupby(["method", "role"], sort=False):
        rows = rows.sort_values("stored_share")
        partly = rows["cells"].iloc[0] < rows["of_cells"].iloc[0]
        some = f" ({style.count(rows['cells'].iloc[0], 'cell')})" if partly else ""
        full = {"color": style.INK, "marker": "o", "linestyle": "", "markersize": 6, "zorder": 3}
        look = full if method == "full" else drawing.method_line(styles[method])
        axes.plot(rows["stored_share"], rows["difference_points"], label=name_of(method, role) + some, **look)
        axes.vlines(rows["stored_share"], rows["low"], rows["high"], color=look["color"], linewidth=0.8, zorder=2)
    _set_axes(axes, points[points["method"] != "none"])
    labels.write(figure)
    return figure


def _set_axes(axes: drawing.Axes, points: pd.DataFrame) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(TICKS[0], points["stored_share"].min()) / 1.15, 1.6 * max(1, points["stored_share"].max()))
    drawing.set_ticks(axes.xaxis, TICKS, lambda value: f"{100 * value:g} %")
    drawing.points_axis(axes, points["difference_points"], 1)
    axes.set_xlabel("stored file, share of the full model's (log scale)")
    axes.set_ylabel(f"{drawing.POINTS_LABEL} (log scale beyond ±1)")
