"""How much of a choice is fixed before fine-tuning, how large the kept updates are, and what no choice at all costs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from report import labels, style
from report import table as columns
from report.drawing import (
    DASHED,
    WIDTH,
    Axes,
    Drawing,
    Figure,
    canvas,
    drawing_of,
    method_line,
    shade_near,
    share_axis,
)
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import Columns, read_if_run
from report.scores import NEAR, aggregations
from report.table import Table

COLUMNS = {"choices": Columns.of("method measure", "budget rows kept_share value value_min value_max")}
FILE = Columns.of("model task method measure other_task", "seed budget kept_share value")
MEASURES = {
    "pretrained": "also kept of the pre-trained weights",
    "task": "also kept for another task",
    "size": "mean |Δ| of kept entries, of all = 1",
}
WORDS = {"pretrained": ", also of the base", "task": ", also for another task", "size": ""}  # behind the method
LINES = {"pretrained": (0, (1, 1)), "task": "-", "size": "-"}  # dashes of a measure
COMPARED = ("ken", "shrink", "random", "delta-magnitude")  # whose loss is drawn beside the overlaps
SHOWN = 0.25  # kept share of the sentence, if the study has it
NOTE = "Mean over models, seeds and tasks or pairs of tasks. Every one of them: choices.csv."


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Mean and range of every measure per method and budget."""
    rows = read_if_run(files.results / "choices.csv", FILE)
    table = rows.groupby(["method", "measure", "budget"], sort=False).agg(
        rows=("value", "size"), **aggregations("kept_share value", ends="value")
    )
    return {"choices": table.reset_index()[COLUMNS["choices"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """A section with the figure and all means."""
    table = Table.of(
        [
            columns.method(),
            columns.text("Measure", lambda row: MEASURES.get(row.measure, row.measure)),
            columns.number("Kept share", "kept_share", style.share),
            columns.number("Mean", "value", "{:.3f}".format),
            columns.span("Range", "value_min", "value_max", "{:.3f}".format),
            columns.number("Measured", "rows", style.integer),
        ],
        tables.choices.itertuples(),
    )
    seeds = style.count(len(tables.counts["seeds"]), "seed")
    caption = (
        f"Means over all cells ({seeds}). Top: share of the kept entries that the same rule also keeps of the "
        "pre-trained base (dotted) and for another task (solid). Middle: mean size of the kept updates, that of all "
        "updates is 1. Bottom: difference to full; the shrunk update multiplies every update by "
        "the kept share and chooses nothing."
    )
    text = " ".join(sentences(tables)) or "No choice was described."
    absent = "What methods choose was not described in this study."
    return {"section": PageSection("choices", "Does the choice matter?", text, table, NOTE, absent, "choices", caption)}


def sentences(tables: ResultTables) -> list[str]:
    """How much of KEN's choice is fixed before fine-tuning, and the size of its updates; what no choice costs."""
    choices = tables.choices
    of_ken = choices[choices["method"] == "ken"]
    if of_ken.empty:
        return []
    budget = SHOWN if SHOWN in set(of_ken["budget"]) else of_ken["budget"].iloc[len(of_ken) // 2]
    at = choices[(choices["budget"] == budget) & (choices["method"] == "ken")].set_index("measure")
    value, lines = at["value"], []
    if "pretrained" in at.index:
        lines.append(
            f"With {style.kept(budget)} kept, KEN would choose {style.share(value['pretrained'])} of the same entries "
            f"from the pre-trained weights alone. By chance it would be {style.share(at['kept_share']['pretrained'])}."
        )
        least = of_ken[of_ken["measure"] == "pretrained"].sort_values("budget").iloc[0]
        if least["budget"] < budget:
            lines.append(f"With {style.kept(least['budget'])} kept, it would choose {style.share(least['value'])}.")
        if "task" in at.index:
            lines.append(f"For another task, KEN keeps {style.share(value['task'])} of the same entries.")
    if "size" in at.index:
        lines.append(f"The updates that KEN keeps have {value['size']:.3f} times the mean size of all.")
    lines += _without_choice(tables, budget)
    return [" ".join(lines)] if lines else []


def _without_choice(tables: ResultTables, budget: float) -> list[str]:
    """What KEN and the shrunk update lose at a budget, if both were run on all cells."""
    rows = tables.over_all_cells()
    points = rows[rows["budget"] == budget].set_index("method")["difference_points"]
    if not {"ken", "shrink"} <= set(points.dropna().index):
        return []
    return [
        f"Shrinking every update to {style.budget_label(budget)} of its size, without any choice, "
        f"{style.loses(points['shrink'])} points. KEN {style.loses(points['ken'])}."
    ]


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of overlaps, sizes and losses."""
    overview = tables.overview
    losses = overview[overview["method"].isin(COMPARED) & (overview["unit"] == "share") & (overview["budget"] < 1)]
    text = "Overlap of choices, size of kept updates, and difference to full, against the kept share"
    note = "What methods choose was not described in this study."
    return {"choices": drawing_of(draw_choices, tables.choices, losses, description=text, note=note)}


def draw_choices(choices: pd.DataFrame, losses: pd.DataFrame) -> Figure:
    """Three panels against the kept share: overlaps with chance, relative size of kept updates, difference to full."""
    figure, panels = canvas(WIDTH, 7.6, 3, 1, sharex=True)
    overlap, size, loss = panels[:, 0]
    for axes, measures in ((overlap, ("task", "pretrained")), (size, ("size",))):
        _draw_measures(axes, choices, measures)
    shares = choices["kept_share"].drop_duplicates().sort_values()
    chance = {"color": style.MUTED, "linewidth": 0.9, "linestyle": DASHED}
    overlap.plot(shares, shares, label="by chance", **chance)
    overlap.set(ylim=(0, 1.03), ylabel="share of the kept entries", title="Kept anyway")
    size.axhline(1, label="mean of all updates", **chance)
    size.set(ylim=(0, 1.08 * choices.loc[choices["measure"] == "size", "value"].max()))
    size.set(ylabel="mean |Δ|, of all = 1", title="Size of kept updates")
    shade_near(loss, NEAR)
    styles = style.method_styles(COMPARED)
    for method in reversed(COMPARED):
        rows = losses[losses["method"] == method].sort_values("budget")
        if len(rows):
            loss.plot(
                rows["budget"], rows["difference_points"], label=style.label(method), **method_line(styles[method])
            )
    loss.set(ylabel="weighted F1 minus full, points", title="Loss")
    share_axis(overlap, pd.concat([shares, losses["budget"]]))
    for axes in panels[:, 0]:
        axes.tick_params(labelbottom=True)
    loss.set_xlabel("kept share, % (log scale)")
    labels.write(figure)
    return figure


def _draw_measures(axes: Axes, choices: pd.DataFrame, measures: Sequence[str]) -> None:
    """A line for every method and measure."""
    rows = choices[choices["measure"].isin(measures)]
    styles = style.method_styles(rows["method"])
    for (method, measure), line in rows.sort_values("kept_share").groupby(["method", "measure"], sort=False):
        settings = method_line(styles[method]) | {"linestyle": LINES[measure]}
        text = f"{style.label(method)}{WORDS[measure]}"
        axes.plot(line["kept_share"], line["value"], label=text, **settings)
