"""Draw the figures of the report from its tables."""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report import results, style
from report.results import CONTROLS, Results


def share_axis(axes: Axes, budgets: list[float]) -> None:
    """Logarithmic axis of kept shares with the study's budgets as its ticks."""
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{100 * b:g}" if b <= 1 else f"k={b:g}" for b in budgets])
    axes.minorticks_off()
    axes.set_xlim(min(budgets) * 0.85, max(budgets) * 1.18)


def budgets_of(table: pd.DataFrame) -> list[float]:
    """Budgets of the compared methods, smallest first."""
    return sorted(set(table.loc[~table["method"].isin(CONTROLS), "budget"]))


def draw_cell(axes: Axes, cell: pd.DataFrame, methods: list[str]) -> None:
    """Weighted F1 against kept share of one model and task: all methods, full and none as lines."""
    for name, dash in (("full", "-"), ("none", (0, (2, 2)))):
        value = cell.loc[cell["method"] == name, "weighted_f1"]
        if len(value):
            axes.axhline(value.iloc[0], color=style.INK, linewidth=0.9, linestyle=dash, zorder=1)
    for method in methods:
        rows, look = cell[cell["method"] == method].sort_values("budget"), style.looks(methods)[method]
        spread = rows["spread"].fillna(0)
        axes.plot(rows["budget"], rows["weighted_f1"], color=look.color, marker=look.marker, linestyle=look.dash)
        low, high = rows["weighted_f1"] - spread, rows["weighted_f1"] + spread
        axes.fill_between(rows["budget"], low, high, color=look.color, alpha=0.15, linewidth=0)


def legend(figure: Figure, methods: list[str], columns: int = 8) -> None:
    """One legend above all panels."""
    looks = style.looks(methods)
    handles = [
        plt.Line2D([], [], color=looks[m].color, marker=looks[m].marker, linestyle=looks[m].dash) for m in methods
    ]
    names = [results.label(method) for method in methods]
    for name, dash in (("full", "-"), ("none", (0, (2, 2)))):
        handles.append(plt.Line2D([], [], color=style.INK, linewidth=0.9, linestyle=dash))
        names.append(f"{name} ({'all' if name == 'full' else 'nothing'} kept)")
    figure.legend(
        handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(columns, len(names)), frameon=False
    )


def curves(table: pd.DataFrame, found: Results, models: list[str], columns: int = 8) -> Figure:
    """Grid of panels, a row per model and a column per task."""
    tasks = found.task_names
    figure, grid = plt.subplots(
        len(models), len(tasks), figsize=(3.6 * len(tasks) + 0.6, 2.5 * len(models)), squeeze=False, sharex=True
    )
    for model, row in zip(models, grid, strict=True):
        for task, axes in zip(tasks, row, strict=True):
            cell = table[(table["model"] == model) & (table["task"] == task)]
            draw_cell(axes, cell, found.methods)
            share_axis(axes, budgets_of(table))
            axes.set_title(f"{model} · {task}")
    for axes in grid[:, 0]:
        axes.set_ylabel("weighted F1")
    for axes in grid[-1]:
        axes.set_xlabel("kept share of each row, %")
    figure.tight_layout()
    legend(figure, found.methods, columns)
    return figure


def summary(over: pd.DataFrame, found: Results) -> Figure:
    """Mean difference to the full model over all models and tasks, against the kept share."""
    figure, axes = plt.subplots(figsize=(6.4, 3.9))
    axes.axhline(0, color=style.INK, linewidth=0.9)
    none = over.loc[over["method"] == "none", "to_full"]
    if len(none):
        axes.axhline(100 * none.iloc[0], color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)))
    for method in found.methods:
        rows, look = over[over["method"] == method].sort_values("budget"), style.looks(found.methods)[method]
        axes.plot(rows["budget"], 100 * rows["to_full"], color=look.color, marker=look.marker, linestyle=look.dash)
        low, high = 100 * rows["low"], 100 * rows["high"]
        axes.fill_between(rows["budget"], low, high, color=look.color, alpha=0.1, linewidth=0)
    share_axis(axes, budgets_of(over))
    axes.set_xlabel("kept share of each row, % (all other weights reset)")
    axes.set_ylabel("weighted F1 minus full model, points")
    legend(figure, found.methods, columns=4)
    return figure


def stored_bytes(over: pd.DataFrame, found: Results) -> Figure:
    """Mean difference to the full model against the size of the stored file."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    axes.axhline(0, color=style.INK, linewidth=0.9)
    for method in found.methods:
        rows, look = over[over["method"] == method].sort_values("budget"), style.looks(found.methods)[method]
        line = {"color": look.color, "marker": look.marker, "linestyle": look.dash}
        axes.plot(rows["stored_bytes"] / 2**20, 100 * rows["to_full"], **line)
    full = over.loc[over["method"] == "full", "stored_bytes"]
    if len(full):
        axes.axvline(full.iloc[0] / 2**20, color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(
            "full model", (full.iloc[0] / 2**20, 0), (-4, -10), textcoords="offset points", ha="right", fontsize=8
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("stored file, MiB (mean over models)")
    axes.set_ylabel("weighted F1 minus full model, points")
    legend(figure, found.methods, columns=4)
    return figure


def pretraining_gain(gain: pd.DataFrame, found: Results) -> Figure:
    """What pre-training is worth: weighted F1 from random and from pre-trained weights, joined by a line."""
    tasks, models = found.task_names, found.model_names
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(3.6 * len(tasks) + 1, 0.36 * len(models) + 1.3), squeeze=False, sharey=True
    )
    for task, axes in zip(tasks, grid[0], strict=True):
        rows = gain[gain["task"] == task].set_index("model").reindex(models)
        places = np.arange(len(models))
        axes.hlines(places, rows["random_init"], rows["pretrained"], color=style.GRID, linewidth=4, zorder=1)
        axes.scatter(rows["random_init"], places, color="#7f7f7f", marker="o", zorder=2, label="random initialisation")
        axes.scatter(rows["pretrained"], places, color="#0072B2", marker="D", zorder=2, label="pre-trained")
        axes.set_yticks(places, models)
        axes.set_title(task)
        axes.set_xlabel("weighted F1 after fine-tuning")
        axes.grid(axis="y", visible=False)
    grid[0][0].invert_yaxis()
    figure.tight_layout()
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def figures(found: Results) -> dict[str, Callable[[], Figure]]:
    """Name -> function that draws the figure."""
    table = results.summary(found.scores)
    over = results.overview(table)
    gain = results.pretraining_gain(found.finetuning)
    drawn = {
        "summary": lambda: summary(over, found),
        "stored_bytes": lambda: stored_bytes(over, found),
        "curves": lambda: curves(table, found, found.model_names),
    }
    if len(gain):
        drawn["pretraining_gain"] = lambda: pretraining_gain(gain, found)
    for model in found.model_names:
        drawn[f"curves_{model}"] = lambda model=model: curves(table, found, [model], columns=4)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of a study's report.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study")
    parser.add_argument("--out", required=True, type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    style.use_style()
    for name, draw in figures(Results.read(arguments.results)).items():
        style.save(draw(), arguments.out / name)
        print(name, flush=True)


if __name__ == "__main__":
    results.run(main)
