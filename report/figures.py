"""Drawing: from the tables of a study to its figures, each as SVG, PNG and PDF.

`python -m report.figures --results results/mini` reads results/mini/tables and writes results/mini/figures. Nothing is
computed here, so a changed colour costs seconds.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from report import style
from report.errors import run
from report.tables import NEAR, Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75)
KEPT_SHARE = "kept share of the body, % (log scale)"


def file_name(model: str) -> str:
    """Stem of a model's figure: its name, with what a file name cannot hold replaced."""
    return "model_" + "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model)


def curves(tables: Tables, models: Sequence[str]) -> "Figure":
    """Weighted F1 against kept share: one row of panels a model, one column a task."""
    from matplotlib.figure import Figure

    summary, tasks = tables.scores_summary, tables.counts["tasks"]
    methods = [name for name in tables.counts["methods"] if name not in style.CONTROLS]
    height = 2.25 * len(models) + 0.95
    figure = Figure(figsize=(max(6.4, 3.7 * len(tasks)), height), layout="constrained")
    panels = figure.subplots(len(models), len(tasks), squeeze=False, sharex=True, sharey="col")
    for row, model in zip(panels, models, strict=True):
        for axes, task in zip(row, tasks, strict=True):
            _draw_curves(axes, summary[(summary["model"] == model) & (summary["task"] == task)], methods)
            axes.set_title(f"{model} · {task}")
            axes.tick_params(labelbottom=True)
    _share_axis(panels[0, 0], summary)
    for axes in panels[-1]:
        axes.set_xlabel(KEPT_SHARE)
    for axes in panels[:, 0]:
        axes.set_ylabel("weighted F1")
    _legend(figure, methods, tables)
    return figure


def _draw_curves(axes: "Axes", frame: pd.DataFrame, methods: Sequence[str]) -> None:
    for control, line in (("full", "-"), ("none", (0, (1, 1.6)))):
        for value in frame.loc[frame["method"] == control, "weighted_f1"].dropna():
            axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=line, zorder=1)
    for method, look in _drawing_order(methods):
        rows = frame[(frame["method"] == method) & frame["weighted_f1"].notna() & (frame["kept_share"] > 0)]
        rows = rows.sort_values("kept_share")
        axes.plot(rows["kept_share"], rows["weighted_f1"], **_line(look))
        spread = rows["weighted_f1_sd"].fillna(0)
        if spread.any():
            low, high = rows["weighted_f1"] - spread, rows["weighted_f1"] + spread
            axes.fill_between(rows["kept_share"], low, high, color=look.colour, alpha=0.16, linewidth=0)


def summary(tables: Tables) -> "Figure":
    """Difference to full in points against kept share, mean over all cells, with the middle half of the cells."""
    from matplotlib.figure import Figure

    overview = tables.overview
    methods = [name for name in tables.counts["methods"] if name not in style.CONTROLS]
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-NEAR, NEAR, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)
    axes.axhline(0, color=style.INK, linewidth=1.1, zorder=1)
    for value in overview.loc[overview["method"] == "none", "difference_points"].dropna():
        axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=(0, (1, 1.6)), zorder=1)
    for method, look in _drawing_order(methods):
        rows = overview[(overview["method"] == method) & overview["difference_points"].notna()]
        rows = rows[rows["kept_share"] > 0].sort_values("kept_share")
        low, high = rows["difference_points_q25"], rows["difference_points_q75"]
        axes.fill_between(rows["kept_share"], low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=1)
        axes.plot(rows["kept_share"], rows["difference_points"], **_line(look))
    _share_axis(axes, overview)
    axes.set_xlabel(KEPT_SHARE)
    axes.set_ylabel("weighted F1 minus full, points")
    _legend(figure, methods, tables)
    return figure


def stored_bytes(tables: Tables) -> "Figure":
    """Weighted F1 against the bytes of the stored file, both mean over all cells."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    overview = tables.overview[tables.overview["weighted_f1"].notna() & (tables.overview["stored_bytes"] > 0)]
    methods = [name for name in tables.counts["methods"] if name not in style.CONTROLS]
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for method, look in _drawing_order(methods):
        rows = overview[overview["method"] == method].sort_values("stored_bytes")
        axes.plot(rows["stored_bytes"], rows["weighted_f1"], **_line(look))
    for control, line in (("full", "-"), ("none", (0, (1, 1.6)))):
        for row in overview[overview["method"] == control].itertuples():
            axes.axhline(row.weighted_f1, color=style.INK, linewidth=1.1, linestyle=line, zorder=1)
            filled = style.INK if control == "full" else "white"
            axes.plot(row.stored_bytes, row.weighted_f1, "o", color=style.INK, markerfacecolor=filled, zorder=3)
    axes.set_xscale("log")
    axes.set_xticks(_byte_ticks(overview["stored_bytes"]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.size(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("stored file (log scale)")
    axes.set_ylabel("weighted F1")
    _legend(figure, methods, tables)
    return figure


def pretraining_gain(tables: Tables) -> "Figure":
    """Random initialisation joined with pre-training by a line, one row a model, one panel a task."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    gain, models, tasks = tables.pretraining_gain, tables.counts["models"], tables.counts["tasks"]
    height = 0.32 * len(models) + 1.3
    figure = Figure(figsize=(max(6.4, 3.7 * len(tasks)), height), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    references = tables.tasks.set_index("task")
    for axes, task in zip(panels, tasks, strict=True):
        for row in gain[gain["task"] == task].itertuples():
            place = models.index(row.model)
            axes.plot([row.random_init, row.pretrained], [place, place], color=style.MUTED, linewidth=2, zorder=1)
            axes.plot(row.random_init, place, "o", color=style.MUTED, markerfacecolor="white", markersize=6)
            axes.plot(row.pretrained, place, "o", color=style.ACCENT, markersize=6.5)
        if task in references.index:
            axes.axvline(
                references.loc[task, "tfidf_weighted_f1"], color=style.INK, linewidth=1.1, linestyle=(0, (4, 2))
            )
        axes.set_title(task)
        axes.set_xlabel("weighted F1")
    panels[0].set_yticks(range(len(models)), models)
    panels[0].set_ylim(len(models) - 0.4, -0.6)
    entries = [
        Line2D(
            [], [], color=style.MUTED, marker="o", markerfacecolor="white", linestyle="", label="random initialisation"
        ),
        Line2D([], [], color=style.ACCENT, marker="o", linestyle="", label="pre-trained"),
        Line2D([], [], color=style.INK, linewidth=1.1, linestyle=(0, (4, 2)), label="TF-IDF reference"),
    ]
    figure.legend(handles=entries, loc="outside upper center", ncols=3)
    return figure


def _drawing_order(methods: Sequence[str]) -> list[tuple[str, style.Look]]:
    """Last method of the study first, so that where curves coincide its first methods lie on top."""
    looks = style.looks(methods)
    return [(name, looks[name]) for name in reversed(methods)]


def _line(look: style.Look) -> dict:
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    shape = {"marker": look.marker, "markersize": look.size, "linestyle": look.line}
    return {"color": look.colour, "zorder": 2, **shape, **edge}


def _share_axis(axes: "Axes", frame: pd.DataFrame) -> None:
    """Logarithmic axis over the kept shares of the methods, with ticks in percent."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shares = frame.loc[~frame["method"].isin(style.CONTROLS) & (frame["kept_share"] > 0), "kept_share"]
    low, high = (shares.min(), shares.max()) if len(shares) else (0.01, 1.0)
    low, high = low / 1.15, min(high * 1.15, 1.15)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = [10.0**power for power in range(math.floor(math.log10(low)), -2)]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in (*decades, *SHARE_TICKS) if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _byte_ticks(sizes: pd.Series) -> list[float]:
    """1, 2 and 5 times powers of ten over the range, or powers alone over a wide one."""
    if sizes.empty:
        return []
    low, high = sizes.min() / 1.3, sizes.max() * 1.3
    steps = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _legend(figure: "Figure", methods: Sequence[str], tables: Tables) -> None:
    """One legend for all panels, in the order of the study, controls last."""
    from matplotlib.lines import Line2D

    looks = style.looks(methods)
    entries = [Line2D([], [], **_line(looks[name]), label=style.label(name)) for name in methods]
    for control, line in (("full", "-"), ("none", (0, (1, 1.6)))):
        if control in tables.counts["methods"]:
            name = f"{style.label(control)} ({'nothing' if control == 'full' else 'whole body'} reset)"
            entries.append(Line2D([], [], color=style.INK, linewidth=1.1, linestyle=line, label=name))
    columns = min(len(entries), max(3, int(figure.get_figwidth() / 1.75)))
    figure.legend(handles=entries, loc="outside upper center", ncols=columns, handlelength=2.6)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of a study from its tables.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with tables/")
    parser.add_argument("--out", type=Path, help="folder to write to (default: figures in the results folder)")
    arguments = parser.parse_args()
    tables = Tables.read(arguments.results)
    folder = arguments.out or arguments.results / "figures"
    models = tables.counts["models"]
    with style.applied():
        style.save(summary(tables), folder / "summary")
        style.save(stored_bytes(tables), folder / "bytes")
        if not tables.pretraining_gain.empty:
            style.save(pretraining_gain(tables), folder / "pretraining_gain")
        style.save(curves(tables, models), folder / "curves")
        for model in models:
            style.save(curves(tables, [model]), folder / file_name(model), formats=("svg", "png"))
    print(f"figures of {len(models)} models in {folder}")


if __name__ == "__main__":
    run(main)
