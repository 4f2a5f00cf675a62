"""Ablations of KEN: other bandwidths, zero instead of reset, one kind of matrix at a time."""

import math
from typing import Any

import pandas as pd

from report import labels, style
from report import table as columns
from report.drawing import (
    POINTS_LABEL,
    WIDTH,
    Drawing,
    Figure,
    canvas,
    drawing_of,
    method_line,
    set_ticks,
    shade_near,
)
from report.measurements.contract import ResultFiles, ResultTables
from report.results import CELL, Columns, read_if_run, to_numbers
from report.scores import NEAR, aggregations, is_near
from report.table import Column, Table

COLUMNS = {
    "checks": Columns.of(
        "check variant method",
        "kept_share cells seeds weighted_f1 difference_points difference_points_min "
        "difference_points_max none_points stored_bytes parameters parameter_share",
    )
}
FILE = Columns.of(
    "model task check variant method",
    "seed kept_share stored_bytes weighted_f1 full_weighted_f1 none_weighted_f1 parameters",
)
SHARE_LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # lines of kept shares in the figure of bandwidths


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means over cells for every variant and kept share of the body (rounded to a hundredth).

    For the check matrices, `parameters` are those of the kind of matrix, and `parameter_share` is their share of the
    body. `none_points` is the difference to full of a body that is reset entirely.

    Raises:
        UserError: see `read_table`; or a factor of the bandwidth is not a number.
    """
    path = files.results / "checks.csv"
    rows = read_if_run(path, FILE)
    to_numbers(rows.loc[rows["check"] == "bandwidth", "variant"], path)
    body = rows.groupby(CELL)["parameters"].transform("max")
    matrices = rows["check"] == "matrices"
    if matrices.all():  # the size of the body is not known from other checks
        body = rows.groupby(CELL)["parameters"].transform("sum")
    rows = rows.assign(
        kept_share=rows["kept_share"].round(2).mask(matrices),
        share=rows["kept_share"],
        difference_points=100 * (rows["weighted_f1"] - rows["full_weighted_f1"]),
        none_points=100 * (rows["none_weighted_f1"] - rows["full_weighted_f1"]),
        parameter_share=rows["parameters"] / body,
    )
    means = "weighted_f1 difference_points none_points stored_bytes parameters parameter_share"
    table = rows.groupby(["check", "variant", "method", "kept_share"], sort=False, dropna=False).agg(
        cells=("seed", "size"),
        seeds=("seed", "nunique"),
        held=("share", "mean"),
        **aggregations(means, ends="difference_points"),
    )
    table = table.reset_index()
    table["kept_share"] = table["kept_share"].fillna(table["held"])
    return {"checks": table[COLUMNS["checks"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Table and sentence of each check, with its numbers of cells and seeds."""
    checks = tables.checks
    sentences = {"bandwidth": bandwidth_sentence, "zero": zero_sentence, "matrices": matrices_sentence}
    cells = {
        name: f"{style.count(rows['cells'].max(), 'cell')}, {style.count_range(rows['seeds'], 'seed')}"
        for name, rows in checks.groupby("check")
    }
    return {
        "bandwidth": bandwidth_table(checks),
        "zero": zero_table(checks),
        "matrices": matrices_table(checks),
        "sentences": {name: sentence(checks) for name, sentence in sentences.items()},
        "cells": cells,
    }


def bandwidth_table(checks: pd.DataFrame) -> Table:
    """One row per factor of the bandwidth and kept share."""
    return Table.of(
        [
            columns.number("Factor", lambda row: float(row.variant), "{:g}".format),
            columns.number("Body kept", "kept_share", style.share),
            columns.number("Weighted F1", "weighted_f1", style.score),
            *_points_columns(),
            columns.number("Cells", "cells", style.integer),
        ],
        checks[checks["check"] == "bandwidth"].itertuples(),
    )


def _points_columns() -> list[Column]:
    low, high = "difference_points_min", "difference_points_max"
    return [
        columns.number("To full, points", "difference_points", style.points),
        columns.span("Over cells", low, high, style.points, merged=True),
    ]


def zero_table(checks: pd.DataFrame) -> Table:
    """Reset compared with zero, per method and kept share, in points to full."""

    def points(row: Any, variant: str) -> float:
        return row.at[variant].difference_points if variant in row.at else math.nan

    differences = {
        "Rest reset, points to full": lambda row: points(row, "reset"),
        "Rest set to zero, points to full": lambda row: points(row, "zero"),
        "Worth of the reset, points": lambda row: points(row, "reset") - points(row, "zero"),
    }
    compared = checks[(checks["check"] == "zero") & checks["variant"].isin(["reset", "zero"])]
    return Table.of(
        [
            columns.method("Chosen by"),
            columns.number("Body kept", "kept_share", style.share),
            *columns.numbers(differences, style.points),
            columns.number("Cells", lambda row: (row.at.get("reset") or row.at["zero"]).cells, style.integer),
        ],
        columns.groups(compared, ["method", "kept_share"], "variant"),
    )


def matrices_table(checks: pd.DataFrame) -> Table:
    """One kind of matrix pruned at a time."""
    return Table.of(
        [
            columns.text("Pruned alone", "variant"),
            columns.number("Its entries", "parameters", style.integer),
            columns.number("Of the body", "parameter_share", style.share),
            *_points_columns(),
            columns.number("Cells", "cells", style.integer),
        ],
        checks[checks["check"] == "matrices"].itertuples(),
    )


def bandwidth_sentence(checks: pd.DataFrame) -> str:
    """Range of the weighted F1 over all bandwidth factors, at each kept share; "" if it was not measured."""
    rows = checks[checks["check"] == "bandwidth"]
    points = rows.groupby("kept_share")["difference_points"]
    ranges = points.max() - points.min()
    if ranges.empty:
        return ""
    factors = rows["variant"].astype(float)
    lines = [f"The bandwidth was multiplied by factors from {factors.min():g} to {factors.max():g}."]
    lines += [
        f"With {style.percent(share)} kept, the best and the worst factor differ by {value:.1f} points on average."
        for share, value in ranges.items()
    ]
    return " ".join(lines)


def zero_sentence(checks: pd.DataFrame) -> str:
    """Gain of resetting over setting to zero; "" if it was not measured."""
    wide = checks[checks["check"] == "zero"].pivot(
        index=["method", "kept_share"], columns="variant", values="difference_points"
    )
    worth = (wide["reset"] - wide["zero"]).dropna() if {"reset", "zero"} <= set(wide.columns) else pd.Series()
    if worth.empty:
        return ""
    lines = [
        f"With {style.percent(share)} kept, {style.label(method)} {style.loses(-value)} more points"
        for (method, share), value in worth.items()
    ]
    return " ".join([f"{lines[0]} if the rest is set to zero instead of reset.", *(f"{line}." for line in lines[1:])])


def matrices_sentence(checks: pd.DataFrame) -> str:
    """The kind of matrix that loses most when it alone is pruned; "" if it was not measured."""
    rows = checks[checks["check"] == "matrices"]
    if rows.empty:
        return ""
    worst = rows.loc[rows["difference_points"].idxmin()]
    if is_near(worst["difference_points"]):
        return f"No kind of matrix loses more than {NEAR:g} point when it alone is pruned."
    return (
        f"Of the kinds pruned alone, “{worst['variant']}” loses most: {-worst['difference_points']:.1f} points. It has "
        f"{style.share(worst['parameter_share'])} of the body's entries."
    )


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figures of bandwidths and of kinds of matrices."""
    checks = tables.checks
    return {
        "bandwidth": drawing_of(
            draw_bandwidth,
            checks[checks["check"] == "bandwidth"],
            description="Difference to full against the factor of the bandwidth",
            note="The bandwidth was not varied in this study.",
        ),
        "matrices": drawing_of(
            draw_matrices,
            checks[checks["check"] == "matrices"],
            description="Difference to full when one kind of matrix is pruned",
            note="Kinds of matrices were not pruned one at a time in this study.",
        ),
    }


def draw_bandwidth(rows: pd.DataFrame) -> Figure:
    """Difference to full by factor of Scott's bandwidth, one line per kept share, with its range over cells."""
    rows = rows.assign(factor=pd.to_numeric(rows["variant"])).sort_values("factor")
    figure, ((axes,),) = canvas(WIDTH, 3.4)
    shade_near(axes, NEAR)
    ken = style.FIXED["ken"]
    for index, (share, group) in enumerate(rows.groupby("kept_share")):
        low = group["difference_points"] - group["difference_points_min"]
        high = group["difference_points_max"] - group["difference_points"]
        line = method_line(ken) | {
            "linestyle": SHARE_LINES[index % len(SHARE_LINES)],
            "markerfacecolor": "white" if index % 2 else ken.colour,
            "markeredgecolor": ken.colour,
        }
        factors = group["factor"] * 1.03**index  # side by side if ranges coincide
        bars = axes.errorbar(factors, group["difference_points"], [low, high], capsize=3, elinewidth=0.9, **line)
        bars.lines[0].set_label(f"{style.percent(share)} kept")
    axes.set_xscale("log")
    set_ticks(axes.xaxis, sorted(set(rows["factor"])), "{:g}".format)
    axes.set_xlabel("bandwidth, in units of Scott's (log scale)")
    axes.set_ylabel(POINTS_LABEL)
    labels.write(figure)
    return figure


def draw_matrices(rows: pd.DataFrame) -> Figure:
    """Loss when one kind of matrix is pruned and all others are kept: mean and range over cells."""
    rows = rows.sort_values("variant", key=lambda kinds: kinds == "others", kind="stable").iloc[::-1]
    figure, ((axes,),) = canvas(WIDTH, 0.3 * len(rows) + 0.9)
    shade_near(axes, NEAR, across=True)
    heights, colour = range(len(rows)), style.FIXED["ken"].colour
    axes.hlines(heights, rows["difference_points_min"], rows["difference_points_max"], color=style.MUTED, linewidth=2)
    axes.plot(rows["difference_points"], heights, "o", color=colour, markersize=6)
    axes.set_yticks(heights, [f"{row.variant} ({style.share(row.parameter_share)})" for row in rows.itertuples()])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(POINTS_LABEL)
    return figure
