"""Drawing: from the tables of a study to its figures, each as SVG, PNG and PDF.

`python -m report.figures --results results/mini` reads results/mini/tables and writes results/mini/figures. Nothing is
computed here, so a changed colour costs seconds.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from report import language, style
from report.errors import run
from report.tables import NEAR, Tables, not_told_apart, with_kept_shares, with_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
BYTE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
POINT_TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50)
KEPT_SHARE = "kept share of the body, % (log scale)"
CONTROL_LINES = {"full": ("-", "nothing"), "none": ((0, (1, 1.6)), "whole body")}  # control -> line, what is reset
PANELS = {"Kept values as they are": ("reset", "other"), "Kept updates rescaled": ("rescaled",)}
STATISTICS = {"neighbours": "kept neighbours", "moran": "Moran's I"}
SHARE_LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # of kept shares in the figure bandwidth
MODEL = "model_"  # names of the figures of single models begin so
REFERENCES = ("ken", "random")  # thin in every panel, so that panels can be compared


def file_name(model: str) -> str:
    """Stem of a model's figure: its name, with what a file name cannot hold replaced."""
    return MODEL + "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model)


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


def _note(text: str) -> "Figure":
    """A figure that only says why there is nothing to draw; the page leaves it out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.8))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=style.MUTED)
    return figure


def ranks(tables: Tables) -> "Figure":
    """Average ranks with critical differences, a panel a budget, as in Demšar 2006, figure 1: best on the left."""
    from matplotlib.figure import Figure

    found = with_picture(tables.ranks)
    if found.empty:
        return _note("No budget with at least 3 methods ranked on 5 pairs of model and task.")
    budgets = list(found.sort_values("budget", kind="stable").groupby(["unit", "budget"], sort=False))
    columns = min(2, len(budgets))
    rows = math.ceil(len(budgets) / columns)
    drawn = [part.sort_values("average_rank", kind="stable") for _, part in budgets]
    groups = [not_told_apart(list(part["average_rank"]), part["critical_difference"].iloc[0]) for part in drawn]
    depth = max(0.9 + 0.35 * len(bars) + math.ceil(len(part) / 2) for part, bars in zip(drawn, groups, strict=True))
    figure = Figure(figsize=(5.6 * columns, rows * (0.2 * depth + 0.85)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, ((unit, budget), _), part, bars in zip(panels, budgets, drawn, groups, strict=False):
        kept = f"{style.budget_label(budget, unit)}{' kept' if unit == 'share' else ''}"
        axes.set_title(f"{kept}, {part['n'].iloc[0]:.0f} pairs of model and task")
        _draw_ranks(axes, part, bars, depth)
    for axes in panels[len(budgets) :]:
        axes.remove()
    return figure


def _draw_ranks(axes: "Axes", part: pd.DataFrame, bars: list[tuple[int, int]], depth: float) -> None:
    """One panel: the axis of ranks at height 0, bars below it, then the names on both sides."""
    places, most, difference = list(part["average_rank"]), len(part), part["critical_difference"].iloc[0]
    axes.set_axis_off()
    margin = 0.75 * (most - 1)
    axes.set_xlim(1 - margin, most + margin)
    axes.set_ylim(depth, -2)
    axes.plot([1, most], [0, 0], color=style.INK, linewidth=1)
    for tick in range(1, most + 1):
        axes.plot([tick, tick], [0, -0.25], color=style.INK, linewidth=1)
        axes.text(tick, -0.4, str(tick), ha="center", va="bottom", fontsize=7.5)
    end = 1 + min(difference, most - 1 + margin)
    axes.plot([1, end], [-1.6, -1.6], color=style.INK, linewidth=1.6, marker="|", markersize=6)
    axes.text(end + 0.02 * most, -1.6, f" CD {difference:.2f}", va="center", fontsize=7.5)
    for level, (first, last) in enumerate(bars):
        height = 0.5 + 0.35 * level
        line = [places[first] - 0.006 * most, places[last] + 0.006 * most]
        axes.plot(line, [height] * 2, color=style.INK, linewidth=3, solid_capstyle="butt")
    looks, left = style.looks(part["method"]), math.ceil(most / 2)
    for place, row in enumerate(part.itertuples()):
        on_left = place < left
        height = 0.9 + 0.35 * len(bars) + (place if on_left else most - 1 - place)
        edge = 1 - 0.04 * most if on_left else most + 0.04 * most
        look = looks[row.method]
        axes.plot([row.average_rank, row.average_rank, edge], [0, height, height], color=look.colour, linewidth=0.9)
        axes.plot(row.average_rank, 0, **_line(look) | {"linestyle": "", "zorder": 3}, clip_on=False)
        name = f"{style.label(row.method)} {row.average_rank:.1f}"
        side = {"ha": "right"} if on_left else {"ha": "left"}
        axes.text(edge + (-0.015 if on_left else 0.015) * most, height, name, va="center", fontsize=8, **side)


def bandwidth(tables: Tables) -> "Figure":
    """Difference to full against the factor of Scott's bandwidth, a line a kept share, with the range over cells."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = tables.checks[tables.checks["check"] == "bandwidth"]
    if found.empty:
        return _note("The bandwidth was not varied in this study.")
    found = found.assign(factor=pd.to_numeric(found["variant"])).sort_values("factor")
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-NEAR, NEAR, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)
    look = style.FIXED["ken"]
    for place, (share, rows) in enumerate(found.groupby("kept_share")):
        low = rows["difference_points"] - rows["difference_points_min"]
        high = rows["difference_points_max"] - rows["difference_points"]
        dash = {"linestyle": SHARE_LINES[place % len(SHARE_LINES)]}
        line = _line(look) | dash | {"markerfacecolor": "white" if place % 2 else look.colour}
        factors = rows["factor"] * 1.03**place  # beside each other where ranges coincide
        line |= {"markeredgecolor": look.colour, "label": f"{style.percent(share)} kept"}
        axes.errorbar(factors, rows["difference_points"], yerr=[low, high], capsize=3, elinewidth=0.9, **line)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(found["factor"]))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bandwidth, in units of Scott's (log scale)")
    axes.set_ylabel("weighted F1 minus full, points")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def matrices(tables: Tables) -> "Figure":
    """Loss when one kind of matrix is pruned and all others are kept: mean and range over cells."""
    from matplotlib.figure import Figure

    found = tables.checks[tables.checks["check"] == "matrices"]
    found = found.sort_values("variant", key=lambda kinds: kinds == "others", kind="stable").iloc[::-1]
    if found.empty:
        return _note("Kinds of matrices were not pruned one at a time in this study.")
    figure = Figure(figsize=(6.4, 0.34 * len(found) + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-NEAR, NEAR, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)
    places, colour = range(len(found)), style.FIXED["ken"].colour
    axes.hlines(places, found["difference_points_min"], found["difference_points_max"], color=style.MUTED, linewidth=2)
    axes.plot(found["difference_points"], places, "o", color=colour, markersize=6)
    names = [f"{row.variant} ({style.percent(round(row.parameter_share, 3))})" for row in found.itertuples()]
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel("weighted F1 minus full, points")
    return figure


def spread_of_kept(tables: Tables) -> "Figure":
    """Observed minus random, a dot a matrix, over the interval of choices at random; a column a method."""
    from matplotlib.figure import Figure

    found = tables.spread_matrices
    if found.empty:
        return _note("The places of kept entries were not looked at in this study.")
    methods = list(dict.fromkeys(found["method"]))
    widest = found.drop_duplicates(["method", "model", "task", "seed", "matrix"]).groupby("method").size().max()
    width = max(6.4, min(12.0, 1.2 + len(methods) * max(2.4, 0.055 * widest)))
    height = 4.8 + 0.08 * max(map(len, found["model"]))  # names of models stand upright below
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(STATISTICS), len(methods), squeeze=False, sharex="col", sharey="row")
    looks = style.looks(methods)
    order = {model: place for place, model in enumerate(tables.counts["models"])}
    for row, (statistic, name) in zip(panels, STATISTICS.items(), strict=True):
        for axes, method in zip(row, methods, strict=True):
            part = found[(found["method"] == method) & (found["statistic"] == statistic)]
            _draw_spread(
                axes, part.sort_values("model", key=lambda names: names.map(order), kind="stable"), looks[method]
            )
        _difference_axis(row[0], found[found["statistic"] == statistic])
        row[0].set_ylabel(f"{name},\nobserved minus random")
    for axes, method in zip(panels[0], methods, strict=True):
        axes.set_title(style.label(method))
    return figure


def _difference_axis(axes: "Axes", part: pd.DataFrame) -> None:
    """Linear over the widest interval of choices at random, logarithmic beyond, so that both can be seen."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    widest = part[["low", "high"]].abs().max(axis=None)
    furthest = max(widest, part["difference"].abs().max())
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    bend = next((step for step in steps if step >= widest), steps[-1])
    ticks = [bend, *(step for step in steps if bend < step <= 1.05 * furthest)]
    axes.set_yscale("symlog", linthresh=bend, linscale=1)
    axes.set_ylim(min(-bend, 1.15 * part["difference"].min()), max(bend, 1.15 * part["difference"].max()))
    axes.yaxis.set_major_locator(FixedLocator([*(-tick for tick in ticks), 0, *ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_spread(axes: "Axes", part: pd.DataFrame, look: style.Look) -> None:
    """Matrices side by side, models set apart by lines and named below."""
    places = list(range(len(part)))
    axes.vlines(places, part["low"], part["high"], color=style.MUTED, linewidth=1.4, alpha=0.55, zorder=1)
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    for inside in (True, False):
        chosen = (part["place"] == "inside").to_numpy() == inside
        filled = {"markerfacecolor": "white" if inside else look.colour, "markeredgecolor": look.colour}
        dots = [place for place, own in zip(places, chosen, strict=True) if own]
        axes.plot(dots, part["difference"][chosen], "o", markersize=2.8, markeredgewidth=0.8, **filled)
    starts = [place for place in places if place == 0 or part["model"].iloc[place] != part["model"].iloc[place - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=style.GRID, linewidth=0.7, zorder=0)
    ends = [*starts[1:], len(part)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks(middles, [part["model"].iloc[start] for start in starts], rotation=90)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")


def timing(tables: Tables) -> "Figure":
    """Seconds of one selection against size and against k, both logarithmic, with a line of slope 1."""
    from matplotlib.figure import Figure

    found = tables.timing
    if found.empty:
        return _note("The time of pruning was not measured in this study.")
    largest = found["size"].max()
    middle = found.groupby("k")["size"].nunique().idxmax()
    parts = {
        "size": (found[found["k"] == middle], f"entries pruned (k = {middle:g})"),
        "k": (found[found["size"] == largest], f"k, entries kept of each row ({largest:,.0f} entries)"),
    }
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    looks = style.looks(found["method"])
    for axes, (column, (rows, name)) in zip(panels, parts.items(), strict=True):
        for method, own in rows.sort_values(column).groupby("method", sort=False):
            axes.plot(own[column], own["seconds"], **_line(looks[method]), label=style.label(method))
        ends = [rows[column].min(), rows[column].max()]
        start = rows.loc[rows[column] == ends[0], "seconds"].min()
        line = {"color": style.INK, "linewidth": 0.9, "linestyle": (0, (4, 2)), "label": "linear (slope 1)"}
        axes.plot(ends, [start, start * ends[1] / ends[0]], **line)
        axes.set_xlabel(name)
        _log_axis(axes.xaxis, sorted(set(rows[column])))
    _log_axis(panels[0].yaxis)
    panels[0].set_ylabel("seconds of one selection")
    figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside upper center", ncols=4)
    return figure


def _log_axis(axis, ticks: Sequence[float] | None = None) -> None:
    """Logarithmic axis with plain numbers, at `ticks` or at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _compact(value)))
    axis.set_minor_locator(NullLocator())


def _compact(value: float) -> str:
    """1536000 -> "1.54 M", 98304 -> "98.3 k", 0.002 -> "0.002"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{style.NO_BREAK_SPACE}{letter}"
    return f"{value:g}"


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


EVIDENCE = {"ranks": ranks, "bandwidth": bandwidth, "matrices": matrices, "spread": spread_of_kept, "timing": timing}


def drawings(results: Path) -> dict[str, Callable[[], "Figure"]]:
    """Name -> what draws it, of the figures that a study has; to be called within `style.applied`."""
    tables = Tables.read(results)
    found: dict[str, Callable[[], Figure]] = {"summary": partial(summary, tables), "pareto": partial(pareto, tables)}
    if not tables.pretraining_gain.empty:
        found["pretraining_gain"] = partial(pretraining_gain, tables)
    found |= {name: partial(draw, tables) for name, draw in EVIDENCE.items()}
    found |= language.drawings(results)
    return found | {file_name(model): partial(curves, tables, model) for model in tables.counts["models"]}


def draw(name: str, drawing: Callable[[], "Figure"], folder: Path) -> None:
    """Draw one figure and write it; the many of single models, which only the page shows, not as PDF."""
    with style.applied():
        style.save(drawing(), folder / name, ("svg", "png") if name.startswith(MODEL) else style.FORMATS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of a study from its tables.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with tables/")
    parser.add_argument("--out", type=Path, help="folder to write to (default: figures in the results folder)")
    parser.add_argument("--processes", type=int, default=1, help="figures drawn at once (default: 1)")
    arguments = parser.parse_args()
    folder = arguments.out or arguments.results / "figures"
    found = drawings(arguments.results)
    with ProcessPoolExecutor(arguments.processes) as pool:
        done = [pool.submit(draw, name, drawing, folder) for name, drawing in found.items()]
        for figure in done:
            figure.result()
    print(f"{len(found)} figures in {folder}")


if __name__ == "__main__":
    run(main)
