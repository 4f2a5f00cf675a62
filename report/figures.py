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
from report.tables import NEAR, Tables, with_kept_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
BYTE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
POINT_TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50)
KEPT_SHARE = "kept share of the body, % (log scale)"
CONTROL_LINES = {"full": ("-", "nothing"), "none": ((0, (1, 1.6)), "whole body")}  # control -> line, what is reset
PANELS = {"Kept values as they are": ("reset", "other"), "Kept updates rescaled": ("rescaled",)}
REFERENCES = ("ken", "random")  # thin in every panel, so that panels can be compared


def file_name(model: str) -> str:
    """Stem of a model's figure: its name, with what a file name cannot hold replaced."""
    return "model_" + "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model)


def panels_of(tables: Tables) -> dict[str, list[str]]:
    """Title -> methods of the panels over kept shares, in the order of the study; no panel without methods."""
    shares = with_kept_shares(tables.overview).drop_duplicates("method")
    panels = {title: shares.loc[shares["family"].isin(families), "method"] for title, families in PANELS.items()}
    return {title: list(methods) for title, methods in panels.items() if len(methods)} or {"No method": []}


def curves(tables: Tables, model: str) -> "Figure":
    """Weighted F1 of one model against kept share: a row of panels a task, a column a family of methods."""
    from matplotlib.figure import Figure

    summary, tasks, columns = tables.scores_summary, tables.counts["tasks"], panels_of(tables)
    summary = summary[summary["model"] == model]
    figure = Figure(figsize=(max(6.4, 4.9 * len(columns)), 2.6 * len(tasks) + 1.6), layout="constrained")
    panels = figure.subplots(len(tasks), len(columns), squeeze=False, sharex=True, sharey="row")
    for row, task in zip(panels, tasks, strict=True):
        frame = summary[summary["task"] == task]
        frame = frame.assign(
            low=frame["weighted_f1"] - frame["weighted_f1_sd"], high=frame["weighted_f1"] + frame["weighted_f1_sd"]
        )
        for axes, (title, methods) in zip(row, columns.items(), strict=True):
            _draw_methods(axes, frame, methods, "weighted_f1")
            axes.set_title(f"{task} · {title.lower()}" if methods else task)
            axes.tick_params(labelbottom=True)
        row[0].set_ylabel("weighted F1")
    _finish(figure, panels, columns, tables)
    return figure


def summary(tables: Tables) -> "Figure":
    """Difference to full in points against kept share, mean over all cells, a panel a family of methods."""
    from matplotlib.figure import Figure

    frame, columns = tables.overview, panels_of(tables)
    ran = frame["cells"] + frame["without_score"] == tables.counts["cells"]
    frame = frame[ran].assign(low=frame["difference_points_q25"], high=frame["difference_points_q75"])
    figure = Figure(figsize=(max(6.4, 4.9 * len(columns)), 4.9), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharex=True, sharey=True)
    for axes, (title, methods) in zip(panels[0], columns.items(), strict=True):
        axes.axhspan(-NEAR, NEAR, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)
        _draw_methods(axes, frame, methods, "difference_points")
        axes.set_title(title if methods else "")
    panels[0, 0].set_ylabel("weighted F1 minus full, points")
    _finish(figure, panels, columns, tables)
    return figure


def _draw_methods(axes: "Axes", frame: pd.DataFrame, methods: Sequence[str], height: str) -> None:
    """Lines of controls, references and methods; the first method has a band from `low` to `high`."""
    for control, (line, _) in CONTROL_LINES.items():
        for value in frame.loc[frame["method"] == control, height].dropna():
            axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=line, zorder=1)
    looks = style.looks([*methods, *REFERENCES])
    drawn = frame[frame[height].notna() & (frame["kept_share"] > 0)].sort_values("kept_share")
    # Last method of the study first, so that where curves coincide its first methods lie on top.
    for method in [*_absent(REFERENCES, methods), *reversed(methods)]:
        rows = drawn[drawn["method"] == method]
        thin = {} if method in methods else {"linewidth": 0.8, "markersize": 0}
        axes.plot(rows["kept_share"], rows[height], **_line(looks[method]) | thin)
    band = drawn[(drawn["method"] == methods[0]) & drawn["low"].notna()] if methods else drawn.iloc[:0]
    if (band["high"] > band["low"]).any():
        colour = looks[methods[0]].colour
        axes.fill_between(band["kept_share"], band["low"], band["high"], color=colour, alpha=0.16, linewidth=0)


def _absent(names: Sequence[str], methods: Sequence[str]) -> list[str]:
    return [name for name in names if name not in methods]


def _finish(figure: "Figure", panels, columns: dict[str, list[str]], tables: Tables) -> None:
    """Shared axis, a legend below each column of panels, and one for the controls."""
    from matplotlib.lines import Line2D

    known = tables.counts["methods"]
    _share_axis(panels[0, 0], with_kept_shares(tables.overview)["kept_share"])
    for axes, methods in zip(panels[-1], columns.values(), strict=True):
        axes.set_xlabel(KEPT_SHARE)
        if methods:
            _panel_legend(axes, methods, [name for name in _absent(REFERENCES, methods) if name in known])
    controls = [
        Line2D([], [], color=style.INK, linewidth=1.1, linestyle=line, label=f"{style.label(name)} ({what} reset)")
        for name, (line, what) in CONTROL_LINES.items()
        if name in known
    ]
    figure.legend(handles=controls, loc="outside upper center", ncols=2, handlelength=2.6)


def _panel_legend(axes: "Axes", methods: Sequence[str], references: Sequence[str]) -> None:
    """Below a panel: its methods in the order of the study, then the thin lines of other panels' methods."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    looks = style.looks([*methods, *references])
    entries = [Line2D([], [], **_line(looks[name]), label=style.label(name)) for name in methods]
    for name in references:
        thin = {"linewidth": 0.8, "markersize": 0, "label": f"{style.label(name)}, as it is"}
        entries.append(Line2D([], [], **_line(looks[name]) | thin))
    below = axes.transAxes + ScaledTranslation(0, -0.5, axes.figure.dpi_scale_trans)  # inches
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0), "bbox_transform": below, "borderaxespad": 0}
    spacing = {"handlelength": 2.4, "columnspacing": 1.0, "handletextpad": 0.5}
    axes.legend(handles=entries, ncols=_legend_columns(entries, 80), fontsize=8, **spacing, **place)


def _legend_columns(entries: Sequence, letters: float) -> int:
    """Columns of a legend, of which `letters` fit side by side; a handle takes the place of six."""
    longest = max(len(entry.get_label()) for entry in entries)
    return max(1, min(len(entries), int(letters / (longest + 6))))


def pareto(tables: Tables) -> "Figure":
    """Difference to full against stored bytes, with the Pareto front; beside all cells those that every method ran."""
    from matplotlib.figure import Figure

    parts = dict(list(tables.pareto.groupby("cells_of", sort=False)))
    width = max(6.4, 5.0 * len(parts))
    figure = Figure(figsize=(width, 6.2), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False, sharex=True, sharey=True)[0]
    known = tables.counts["methods"]
    methods = [name for name in known if name not in style.CONTROLS and name in set(tables.pareto["method"])]
    for axes, (name, points) in zip(panels, parts.items(), strict=True):
        _draw_points(axes, points, methods)
        cells = f"{points['cells'].max():.0f} cell{'' if points['cells'].max() == 1 else 's'}"
        axes.set_title(f"All {cells}" if name == "all" else f"The {cells} where every method has a score")
        axes.set_xlabel("stored file, % of the full model's (log scale)")
    panels[0].set_ylabel("weighted F1 minus full, points (log scale beyond ±1)")
    _bytes_axis(panels[0], tables.pareto)
    for axes, points in zip(panels, parts.values(), strict=True):
        _draw_front(axes, points[points["on_front"] == 1].sort_values("stored_share"))
    _legend(figure, methods, tables)
    return figure


def _draw_points(axes: "Axes", points: pd.DataFrame, methods: Sequence[str]) -> None:
    looks = style.looks(methods)
    axes.axhline(0, color=style.INK, linewidth=1.1, zorder=1)
    for method in reversed(methods):
        rows = points[points["method"] == method].sort_values("stored_share")
        look = _line(looks[method]) | {"linewidth": 0.8, "linestyle": "-"}
        axes.plot(rows["stored_share"], rows["difference_points"], **look, alpha=0.85)
    for row in points[points["method"].isin(style.CONTROLS)].itertuples():
        filled = style.INK if row.method == "full" else "white"
        axes.plot(row.stored_share, row.difference_points, "o", color=style.INK, markerfacecolor=filled, zorder=3)


def _bytes_axis(axes: "Axes", points: pd.DataFrame) -> None:
    """Both axes of the Pareto figure: logarithmic shares, and points that are logarithmic beyond one point."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    _share_axis(axes, points["stored_share"], BYTE_TICKS)
    low, high = points["difference_points"].min(), points["difference_points"].max()
    axes.set_yscale("symlog", linthresh=1, linscale=0.7)
    axes.set_ylim(min(-1.2, 1.2 * low), max(0.5, 1.5 * high))
    axes.yaxis.set_major_locator(
        FixedLocator([tick for tick in POINT_TICKS if 1.2 * low <= tick <= max(0, 1.5 * high)])
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_front(axes: "Axes", front: pd.DataFrame) -> None:
    """The front as a step line; names of its points above the panel, each joined with its point."""
    if front.empty:
        return
    low, high = axes.get_xlim()
    steps = [*front["stored_share"], high], [*front["difference_points"], front["difference_points"].iloc[-1]]
    axes.plot(*steps, drawstyle="steps-post", color=style.INK, linewidth=1.3, zorder=2.5)
    inches = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols - 0.7
    at = [math.log(share / low) / math.log(high / low) for share in front["stored_share"]]
    places = [low * (high / low) ** place for place in spread(at, 0.24 / inches)]
    top = axes.secondary_xaxis("top")
    names = [style.setting(row.method, row.budget, row.unit) for row in front.itertuples()]
    top.set_ticks(places, names, rotation=40, ha="left", rotation_mode="anchor", fontsize=8, color=style.INK)
    top.tick_params(which="both", length=0, pad=2)
    top.spines["top"].set_visible(False)
    end = axes.get_ylim()[1]
    for row, place in zip(front.itertuples(), places, strict=True):
        line = [row.stored_share, place], [row.difference_points, end]
        axes.plot(*line, color=style.MUTED, linewidth=0.6, zorder=1.5, clip_on=False)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places of 0 to 1 moved apart to at least `gap`, or as far as there is room."""
    gap = min(gap, 1 / max(1, len(places) - 1))
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


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


def _line(look: style.Look) -> dict:
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    if look.hollow:
        edge = {"markeredgecolor": look.colour, "markeredgewidth": 1.2, "markerfacecolor": "white"}
    shape = {"marker": look.marker, "markersize": look.size, "linestyle": look.line}
    return {"color": look.colour, "zorder": 2, **shape, **edge}


def _share_axis(axes: "Axes", shares: pd.Series, ticks: Sequence[float] = SHARE_TICKS) -> None:
    """Logarithmic axis over shares, with ticks in percent."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shares = shares[shares > 0]
    low, high = (shares.min(), shares.max()) if len(shares) else (0.01, 1.0)
    low, high = low / 1.15, high * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = [10.0**power for power in range(math.floor(math.log10(low)), -2)]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in (*decades, *ticks) if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(figure: "Figure", methods: Sequence[str], tables: Tables) -> None:
    """One legend for all panels, in the order of the study, controls last."""
    from matplotlib.lines import Line2D

    looks = style.looks(methods)
    entries = [Line2D([], [], **_line(looks[name]) | {"linestyle": ""}, label=style.label(name)) for name in methods]
    for control in ("full", "none"):
        if control in tables.counts["methods"]:
            filled = style.INK if control == "full" else "white"
            look = {"color": style.INK, "marker": "o", "linestyle": "", "markerfacecolor": filled}
            entries.append(Line2D([], [], **look, label=style.label(control)))
    entries.append(Line2D([], [], color=style.INK, linewidth=1.3, label="Pareto front"))
    columns = _legend_columns(entries, 13 * figure.get_figwidth())
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, handlelength=1.6)


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
        style.save(pareto(tables), folder / "pareto")
        if not tables.pretraining_gain.empty:
            style.save(pretraining_gain(tables), folder / "pretraining_gain")
        for model in models:
            style.save(curves(tables, model), folder / file_name(model), formats=("svg", "png"))
    print(f"figures of {len(models)} models in {folder}")


if __name__ == "__main__":
    run(main)
