"""Weighted F1 per model, task, method and budget: means over seeds, and one figure per model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from report import drawing, labels, named, panels, style
from report import table as columns
from report.drawing import Drawing, Figure
from report.measurements.contract import ResultFiles, ResultTables
from report.results import PAIR, Columns
from report.scores import METHOD, aggregations, is_near, keeps_more, with_kept_shares
from report.table import Column, Table, TableCell

COLUMNS = {
    "scores_summary": Columns.of(
        "model task method family unit",
        "budget seeds draws declined failed weighted_f1 weighted_f1_sd difference_points "
        "difference_points_sd macro_f1 accuracy kept kept_share parameters stored_bytes stored_share "
        "learning_rate_min learning_rate_max validation_weighted_f1 seconds",
    )
}
GROUP = [*PAIR, *METHOD]


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Mean and standard deviation (n − 1) over seeds per model, task, method and budget.

    Groups without any score are included, with their numbers of declined and failed rows.
    """
    scored = "weighted_f1 difference_points"
    means = "macro_f1 accuracy kept kept_share parameters stored_bytes stored_share seconds validation_weighted_f1"
    means_of_seeds = files.seeds.groupby(GROUP, sort=False).agg(
        seeds=("seed", "nunique"),
        draws=("draws", "max"),
        **aggregations(f"{scored} {means}", sd=scored, ends="learning_rate"),
    )
    scores = files.scores
    status = scores[GROUP].assign(**{word: (scores["status"] == word).astype(int) for word in ("declined", "failed")})
    counted = status.groupby(GROUP, sort=False)[["declined", "failed"]].sum().reset_index()
    table = counted.merge(means_of_seeds.reset_index(), "left", on=GROUP)
    table[["seeds", "draws"]] = table[["seeds", "draws"]].fillna(0).astype(int)
    return {"scores_summary": table[COLUMNS["scores_summary"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """The table of all models, and a table and a figure for each model."""
    models = tables.counts["models"]
    by_model = {model: {"table": score_table(tables, [model]), "picture": file_name(model)} for model in models}
    return {"table": score_table(tables, models), "by_model": by_model}


def score_table(tables: ResultTables, models: Sequence[str]) -> Table:
    """Weighted F1 per model, task and method (rows) at every kept share (columns), between `none` and `full`.

    Within model and task, the best method of a column is marked, and so are scores at most one point below full. A
    method that holds more than the others at its budgets is not marked best.
    """
    summary, budgets = tables.scores_summary, tables.counts["budgets"]
    shown = summary[summary["model"].isin(models) & (summary["unit"] == "share") & summary["budget"].isin(budgets)]
    shown = shown[~shown["method"].isin(style.CONTROLS)]
    within = [*PAIR, "budget"]
    more = keeps_more(shown, within)
    best = shown[~more].groupby(within)["weighted_f1"].max()

    def score(row: Any, scored: Any) -> TableCell:
        comparable = not more[row.rows.index].any()
        return score_cell(scored, best.get((row.model, row.task, scored.budget)) if comparable else None)

    none, full = control_columns(summary, _control_cell)
    shares = columns.over_budgets(budgets, score)
    rows = columns.groups(shown, [*PAIR, "method"], "budget")
    return Table.of([*columns.PAIR, columns.method(), none, *shares, full], rows)


def control_columns(summary: pd.DataFrame, cell: Callable[[Any], TableCell]) -> list[Column]:
    """The columns none and full with the controls of the model and task of a row; empty if they were not run."""
    controls = {(row.model, row.task, row.method): row for row in summary.itertuples() if row.method in style.CONTROLS}

    def control(row: Any, method: str) -> TableCell:
        scored = controls.get((row.model, row.task, method))
        return TableCell() if scored is None else cell(scored)

    return [Column(method, partial(control, method=method), "number") for method in style.CONTROLS]


def _control_cell(row: Any) -> TableCell:
    """The mean without its spread, which the table `finetuned` has."""
    if not row.seeds:
        return score_cell(row)
    return columns.number_cell(row.weighted_f1, style.score, "control")


def score_cell(row: Any, best: float | None = None) -> TableCell:
    """Mean and spread of a row of the table, or why it has no score."""
    if not row.seeds:
        return TableCell("failed" if row.failed else "declined", marks="missing")
    marks = ["best"] if row.weighted_f1 == best else []
    if is_near(row.difference_points):
        marks.append("near")
    return columns.mean_cell(row.weighted_f1, row.weighted_f1_sd, " ".join(marks))


def file_name(model: str) -> str:
    """Stem of a model's figure: its name, with characters replaced that a file name cannot have."""
    return "model_" + "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model)


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """One figure per model. Only the page shows it, so there is no PDF."""
    text = "Weighted F1 against kept share, a panel for each task and family of methods: "
    return {
        file_name(model): Drawing(partial(draw_curves, tables, model), text + model, formats=("svg", "png"))
        for model in tables.counts["models"]
    }


def draw_curves(tables: ResultTables, model: str) -> Figure:
    """Weighted F1 of one model against kept share: one row of panels per task, one column per family of methods."""
    summary, tasks = tables.scores_summary, tables.counts["tasks"]
    summary = summary[summary["model"] == model]
    families, order = panels.families(tables), named.methods(tables)
    width, wrap = (drawing.WIDE, 18) if len(families) > 1 else (drawing.WIDTH, 40)
    figure, grid = drawing.canvas(
        width, drawing.height(len(tasks)), len(tasks), len(families), sharex=True, sharey="row"
    )
    drawing.share_axis(grid[0, 0], with_kept_shares(tables.overview)["kept_share"])
    others = 0
    for row, task in zip(grid, tasks, strict=True):
        frame = summary[summary["task"] == task]
        frame = frame.assign(
            low=frame["weighted_f1"] - frame["weighted_f1_sd"], high=frame["weighted_f1"] + frame["weighted_f1_sd"]
        )
        grey = 0
        for axes, (title, methods) in zip(row, families.items(), strict=True):
            grey += panels.draw_methods(axes, frame, methods, "weighted_f1", order, style.LABELS)
            axes.set_title(f"{task} · {title}" if methods else task)
            axes.tick_params(labelbottom=True)
        others = max(others, grey)
        row[0].set_ylabel("weighted F1")
    figure.supxlabel(panels.XLABEL, fontsize=9)
    drawing.note_above(figure, drawing.others_note(others))
    labels.write(figure, wrap)
    return figure
