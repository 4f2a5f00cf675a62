"""Fine-tuning from the pre-trained body compared with fine-tuning from random initialisation."""

import math
from functools import partial
from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.drawing import DASHED, WIDE, WIDTH, Drawing, Figure, canvas, entry, remove_rest
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, PAIR, Columns
from report.scores import aggregations
from report.table import Table

COLUMNS = {
    "pretraining_gain": Columns.of(
        "model task", "seeds random_init random_init_sd pretrained pretrained_sd gain_points"
    )
}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means of both arms per model and task, over the seeds that have both."""
    arms = files.finetuning.pivot_table(index=CELL, columns="arm", values="weighted_f1", sort=False)
    arms = arms.reindex(columns=["random-init", "pretrained"]).set_axis(["random_init", "pretrained"], axis=1)
    both = arms.dropna().reset_index()
    both["gain_points"] = 100 * (both["pretrained"] - both["random_init"])
    means = "random_init pretrained"
    table = both.groupby(PAIR, sort=False).agg(
        seeds=("seed", "nunique"), **aggregations(f"{means} gain_points", sd=means)
    )
    return {"pretraining_gain": table.reset_index()[COLUMNS["pretraining_gain"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Section with random initialisation and the pre-trained body."""
    table = Table.of(
        [
            *columns.PAIR,
            columns.mean("Random initialisation", "random_init", "random_init_sd"),
            columns.mean("Pre-trained", "pretrained", "pretrained_sd"),
            columns.number("Gain, points", "gain_points", style.points),
            columns.number("Seeds", "seeds", style.integer),
        ],
        tables.pretraining_gain.itertuples(),
    )
    seeds = style.count_range(tables.pretraining_gain["seeds"], "seed")
    section = PageSection(
        "pretraining",
        "Does pre-training help?",
        "The same fine-tuning from the pre-trained body and from random initialisation. If pre-training added nothing, "
        "its values would not be worth going back to.",
        table,
        absent="Fine-tuning from random initialisation was not run in this study.",
        figure="pretraining_gain",
        caption=f"Weighted F1 on test, mean over {seeds} that {'was' if seeds == '1 seed' else 'were'} run both ways, "
        f"{len(table.rows)} pairs of model and task; no band, the spread over seeds is in the table.",
    )
    return {"section": section}


def sentences(tables: ResultTables) -> list[str]:
    """The mean gain, and its range over models and tasks."""
    points = tables.pretraining_gain["gain_points"].dropna()
    if points.empty:
        return []
    mean, pairs = points.mean(), style.count(len(points), "pair")
    lines = [
        f"Fine-tuned from random initialisation instead of the pre-trained body, models {_change(-mean)} on average."
    ]
    if len(points) > 1:
        low, high = style.points(points.min()), style.points(points.max())
        lines.append(f"What pre-training adds ranges from {low} to {high} points over {pairs} of model and task.")
    return [" ".join(lines)]


def _change(points: float) -> str:
    return f"{'gain' if round(points, 1) > 0 else 'lose'} {abs(points):.1f} points of weighted F1"


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure, if the study has both arms."""
    if tables.pretraining_gain.empty:
        return {}
    text = "Weighted F1 from random initialisation and from the pre-trained body"
    return {"pretraining_gain": Drawing(partial(draw_gain, tables), text)}


def draw_gain(tables: ResultTables) -> Figure:
    """A line from random initialisation to pre-training, one row per model, one panel per task."""
    gain, models, tasks = tables.pretraining_gain, tables.counts["models"], tables.counts["tasks"]
    wide = min(2, len(tasks))
    high = math.ceil(len(tasks) / wide)
    figure, panels = canvas(
        WIDE if wide > 1 else WIDTH, (0.26 * len(models) + 0.7) * high + 0.5, high, wide, sharey=True
    )
    tfidf = tables.tasks.set_index("task")["tfidf_weighted_f1"]
    hollow = {"color": style.MUTED, "marker": "o", "markerfacecolor": "white"}
    filled = {"color": style.ACCENT, "marker": "o"}
    reference = {"color": style.INK, "linewidth": 1.1, "linestyle": DASHED}
    for axes, task in zip(panels.ravel(), tasks, strict=False):
        for row in gain[gain["task"] == task].itertuples():
            height = models.index(row.model)
            axes.plot([row.random_init, row.pretrained], [height, height], color=style.MUTED, linewidth=2, zorder=1)
            axes.plot(row.random_init, height, markersize=6, linestyle="", **hollow)
            axes.plot(row.pretrained, height, markersize=6.5, linestyle="", **filled)
        if task in tfidf.index:
            axes.axvline(tfidf[task], **reference)
        axes.set_title(task)
    remove_rest(panels, len(tasks))
    figure.supxlabel("weighted F1", fontsize=9)
    panels[0, 0].set_yticks(range(len(models)), models)
    panels[0, 0].set_ylim(len(models) - 0.4, -0.6)
    entries = [
        entry("random initialisation", linestyle="", **hollow),
        entry("pre-trained", linestyle="", **filled),
        entry("TF-IDF reference", **reference),
    ]
    figure.legend(handles=entries, loc="outside upper center", ncols=3)
    return figure
