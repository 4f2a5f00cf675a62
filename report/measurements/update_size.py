"""How far fine-tuning moves the weights, and the loss at a kept share against it."""

import math
from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.drawing import (
    POINTS_LABEL,
    WIDE,
    Drawing,
    Figure,
    canvas,
    drawing_of,
    log_axis,
    method_entries,
    remove_rest,
    shade_near,
)
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, Columns, read_if_run
from report.scores import NEAR, aggregations
from report.table import Table

AGAINST = ("linear layers", "body")  # the kind that losses are drawn against: the first that the study has
NAMED = {"linear layers": "linear layers", "embeddings": "embeddings", "body": "the body"}  # kinds of the sentence
METHODS = ("ken", "ken-rescaled")
SHOWN = (0.05, 0.25, 0.50, 0.75)  # kept shares in the figure; the first ones of a study that has none of them
COLUMNS = {
    "updates": Columns.of("model kind", "parameters cells relative_update relative_update_min relative_update_max"),
    "update_losses": Columns.of("model task method kind", "seed budget relative_update difference_points"),
}
FILE = Columns.of("model task kind", "seed parameters relative_update")
NOTE = (
    "Mean and range over tasks and seeds. Every cell: updates.csv. Kinds overlap: linear layers are part of the body."
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Relative updates per model and kind, and the losses of KEN in each cell beside its relative update."""
    updates = read_if_run(files.results / "updates.csv", FILE)
    table = updates.groupby(["model", "kind"], sort=False).agg(
        parameters=("parameters", "mean"),
        cells=("seed", "size"),
        **aggregations("relative_update", ends="relative_update"),
    )
    kind = next((kind for kind in AGAINST if kind in set(updates["kind"])), AGAINST[-1])
    of_kind = updates.loc[updates["kind"] == kind, [*CELL, "kind", "relative_update"]]
    seeds = files.seeds[files.seeds["method"].isin(METHODS) & (files.seeds["unit"] == "share")]
    losses = seeds.merge(of_kind, on=CELL)
    return {
        "updates": table.reset_index()[COLUMNS["updates"].names],
        "update_losses": losses[COLUMNS["update_losses"].names],
    }


def page(tables: ResultTables) -> dict[str, Any]:
    """A section with the figure and the relative updates."""
    table = Table.of(
        [
            *columns.texts({"Model": "model", "Kind": "kind"}),
            columns.number("Parameters", "parameters", style.integer),
            columns.number("||Δ|| / ||W0||", "relative_update", style.small_share),
            columns.span("Over cells", "relative_update_min", "relative_update_max", style.small_share),
            columns.number("Cells", "cells", style.integer),
        ],
        tables.updates.itertuples(),
    )
    seeds = style.count(len(tables.counts["seeds"]), "seed")
    against = "against the relative size of the update (log scale)"
    caption = f"One dot per cell ({seeds}): difference to full at a kept share, {against}."
    text = " ".join(sentences(tables)) or "The size of updates was not measured."
    absent = "The size of updates was not measured in this study."
    title = "How large are the updates?"
    return {"section": PageSection("updates", title, text, table, NOTE, absent, "update_size", caption)}


def sentences(tables: ResultTables) -> list[str]:
    """The range over models of the relative update of some kinds of tensors."""
    means = tables.updates.set_index("kind")["relative_update"].dropna()
    ranges = {
        name: style.span(means[[kind]].min(), means[[kind]].max(), style.small_share, merged=True)
        for kind, name in NAMED.items()
        if kind in means.index
    }
    if not ranges:
        return []
    (name, of_first), *others = ranges.items()
    which = ", depending on the model" if tables.updates["model"].nunique() > 1 else ""
    lines = [f"Fine-tuning moves the weights of {name} by {of_first} of their norm{which}."]
    return [" ".join([*lines, *(f"For {name} it is {of_kind}." for name, of_kind in others)])]


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of losses against the size of the update."""
    text = "Difference to full against the relative size of the update, one panel per kept share, one dot per cell"
    note = "The size of updates was not measured in this study."
    return {"update_size": drawing_of(draw_losses, tables.update_losses, description=text, note=note)}


def draw_losses(losses: pd.DataFrame) -> Figure:
    """Difference to full in points against the relative update, one panel per kept share, one dot per cell."""
    budgets = sorted(losses["budget"].unique())
    shares = [share for share in SHOWN if share in budgets] or budgets[: len(SHOWN)]
    wide = min(2, len(shares))
    high = math.ceil(len(shares) / wide)
    figure, panels = canvas(WIDE, 2.3 * high + 0.7, high, wide, sharex=True, sharey=True)
    methods = [name for name in METHODS if name in set(losses["method"])]
    styles = style.method_styles(methods)
    for axes, share in zip(panels.ravel(), shares, strict=False):
        shade_near(axes, NEAR)
        for method in methods:
            rows = losses[(losses["method"] == method) & (losses["budget"] == share)]
            filled = {"markerfacecolor": "white"} if styles[method].hollow else {}
            axes.plot(
                100 * rows["relative_update"], rows["difference_points"], styles[method].marker, markersize=4,
                color=styles[method].colour, **filled,
            )  # fmt: skip
        axes.set_title(f"{style.budget_label(share)} kept")
    remove_rest(panels, len(shares))
    log_axis(panels[0, 0].xaxis)
    figure.supxlabel(f"||Δ|| / ||W0|| of {losses['kind'].iloc[0]}, % (log scale)", fontsize=9)
    figure.supylabel(POINTS_LABEL, fontsize=9)
    figure.legend(handles=method_entries(methods, linestyle=""), loc="outside upper center", ncols=len(methods))
    return figure
