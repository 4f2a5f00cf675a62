"""Difference to full against the size of the stored file, and the Pareto front of settings."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from report import drawing, style
from report.measurements.contract import ResultFiles, ResultTables
from report.results import CELL, Columns
from report.scores import METHOD, aggregations

COLUMNS = {"pareto": Columns.of("cells_of method family unit", "budget cells difference_points stored_share on_front")}
SAME_COST = 1.01  # ratio of sizes up to which files count as equally large
BYTE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
POINT_TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means over cells per method and budget, and whether they are on the Pareto front.

    `cells_of` is "all" for settings with a score in every cell, and "common" for means over the cells in which every
    method has a score. The latter exist only if some methods were run on a part of the cells. Controls are never on
    the front.
    """
    seeds = files.seeds
    seeds = seeds[seeds["difference_points"].notna()]
    parts = {"all": seeds, "common": _common_cells(seeds)}
    tables = [_points(part).assign(cells_of=name) for name, part in parts.items() if len(part)]
    return {"pareto": pd.concat(tables, ignore_index=True)[COLUMNS["pareto"].names]}


def _common_cells(seeds: pd.DataFrame) -> pd.DataFrame:
    """Rows of the cells in which every method has a score; none if these are all cells."""
    present = seeds.drop_duplicates([*CELL, "method"])
    methods = present.groupby(CELL)["method"].transform("size")
    common = present.loc[methods == present["method"].nunique(), CELL].drop_duplicates()
    if len(common) == len(seeds[CELL].drop_duplicates()):
        return seeds.iloc[:0]
    return seeds.merge(common, on=CELL)


def _points(seeds: pd.DataFrame) -> pd.DataFrame:
    means = aggregations("difference_points stored_share")
    points = seeds.groupby(METHOD, sort=False).agg(cells=("seed", "size"), **means).reset_index()
    points = points[points["cells"] == len(seeds[CELL].drop_duplicates())]
    competing = points[~points["method"].isin(style.CONTROLS)]
    front = competing.index[on_front(competing["stored_share"], competing["difference_points"])]
    return points.assign(on_front=points.index.isin(front).astype(int))


def on_front(costs: pd.Series, gains: pd.Series) -> np.ndarray:
    """Whether no other point gains more at no higher cost, or as much at lower cost: (n,) bool.

    Costs up to 1 % higher count as equal, because files with equally many entries may differ by a few bytes.
    """
    costs, gains = costs.to_numpy(), gains.to_numpy()
    gains_more = (gains[None] > gains[:, None]) & (costs[None] <= SAME_COST * costs[:, None])
    costs_less = (gains[None] == gains[:, None]) & (costs[None] < costs[:, None])
    return ~(gains_more | costs_less).any(axis=1)


def sentences(tables: ResultTables) -> list[str]:
    """The settings on the Pareto front over all cells."""
    pareto = tables.pareto
    front = pareto[(pareto["cells_of"] == "all") & (pareto["on_front"] == 1)].sort_values("stored_share")
    parts = [
        f"{style.setting(row.method, row.budget, row.unit)} ({style.share(row.stored_share)}, "
        f"{style.points(row.difference_points)})"
        for row in front.itertuples()
    ]
    if not parts:
        return []
    cells = style.count(front["cells"].max(), "cell")
    return [f"Best for their size (share of the full file's bytes, points to full; {cells}): {', '.join(parts)}."]


def drawings(tables: ResultTables) -> dict[str, drawing.Drawing]:
    """The figure of points over bytes."""
    return {
        "pareto": drawing.Drawing(
            partial(draw_pareto, tables), "Difference to full against stored bytes, with the Pareto front"
        )
    }


def draw_pareto(tables: ResultTables) -> drawing.Figure:
    """Difference to full against stored bytes, with the Pareto front: a panel for all cells, one for common cells."""
    parts = dict(list(tables.pareto.groupby("cells_of", sort=False)))
    figure, panels = drawing.canvas(max(6.4, 5.0 * len(parts)), 6.2, 1, len(parts), sharex=True, sharey=True)
    known = tables.counts["methods"]
    methods = [name for name in known if name not in style.CONTROLS and name in set(tables.pareto["method"])]
    for axes, (name, points) in zip(panels[0], parts.items(), strict=True):
        _draw_points(axes, points, methods)
        cells = style.count(points["cells"].max(), "cell")
        axes.set_title(f"All {cells}" if name == "all" else f"The {cells} where every method has a score")
        axes.set_xlabel("stored file, % of the full model's (log scale)")
    panels[0, 0].set_ylabel("weighted F1 minus full, points (log scale beyond ±1)")
    _set_axes(panels[0, 0], tables.pareto)
    for axes, points in zip(panels[0], parts.values(), strict=True):
        _draw_front(axes, points[points["on_front"] == 1].sort_values("stored_share"))
    _draw_legend(figure, methods, known)
    return figure


def _draw_points(axes: drawing.Axes, points: pd.DataFrame, methods: Sequence[str]) -> None:
    styles = style.method_styles(methods)
    axes.axhline(0, color=style.INK, linewidth=1.1, zorder=1)
    for method in reversed(methods):
        rows = points[points["method"] == method].sort_values("stored_share")
        line = drawing.method_line(styles[method]) | {"linewidth": 0.8, "linestyle": "-"}
        axes.plot(rows["stored_share"], rows["difference_points"], **line, alpha=0.85)
    for row in points[points["method"].isin(style.CONTROLS)].itertuples():
        filled = style.INK if row.method == "full" else "white"
        axes.plot(row.stored_share, row.difference_points, "o", color=style.INK, markerfacecolor=filled, zorder=3)


def _set_axes(axes: drawing.Axes, points: pd.DataFrame) -> None:
    """Make the axis of shares logarithmic, and that of points logarithmic beyond one point."""
    drawing.share_axis(axes, points["stored_share"], BYTE_TICKS)
    low, high = points["difference_points"].min(), points["difference_points"].max()
    axes.set_yscale("symlog", linthresh=1, linscale=0.7)
    axes.set_ylim(min(-1.2, 1.2 * low), max(0.5, 1.5 * high))
    drawing.set_ticks(
        axes.yaxis, [tick for tick in POINT_TICKS if 1.2 * low <= tick <= max(0, 1.5 * high)], drawing.signed
    )


def _draw_front(axes: drawing.Axes, front: pd.DataFrame) -> None:
    """Draw the front as a step line, with the names of its points above the panel, connected by lines."""
    if front.empty:
        return
    low, high = axes.get_xlim()
    steps = [*front["stored_share"], high], [*front["difference_points"], front["difference_points"].iloc[-1]]
    axes.plot(*steps, drawstyle="steps-post", color=style.INK, linewidth=1.3, zorder=2.5)
    inches = axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols - 0.7
    at = [math.log(share / low) / math.log(high / low) for share in front["stored_share"]]
    positions = [low * (high / low) ** position for position in move_apart(at, 0.24 / inches)]
    top = axes.secondary_xaxis("top")
    names = [style.setting(row.method, row.budget, row.unit) for row in front.itertuples()]
    top.set_ticks(positions, names, rotation=40, ha="left", rotation_mode="anchor", fontsize=8, color=style.INK)
    top.tick_params(which="both", length=0, pad=2)
    top.spines["top"].set_visible(False)
    end = axes.get_ylim()[1]
    for row, position in zip(front.itertuples(), positions, strict=True):
        line = [row.stored_share, position], [row.difference_points, end]
        axes.plot(*line, color=style.MUTED, linewidth=0.6, zorder=1.5, clip_on=False)


def move_apart(positions: Sequence[float], gap: float) -> list[float]:
    """Move ascending positions between 0 and 1 apart by at least `gap`, or as far as there is room."""
    gap = min(gap, 1 / max(1, len(positions) - 1))
    moved: list[float] = []
    for position in positions:
        moved.append(max(position, moved[-1] + gap) if moved else position)
    limit = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def _draw_legend(figure: drawing.Figure, methods: Sequence[str], known: Sequence[str]) -> None:
    """Add one legend for all panels, in the order of the study, with controls last."""
    entries = drawing.method_entries(methods, linestyle="")
    for control in ("full", "none"):
        if control in known:
            filled = style.INK if control == "full" else "white"
            dot = {"color": style.INK, "marker": "o", "linestyle": "", "markerfacecolor": filled}
            entries.append(drawing.entry(style.label(control), **dot))
    entries.append(drawing.entry("Pareto front", color=style.INK, linewidth=1.3))
    columns = drawing.legend_columns(entries, 13 * figure.get_figwidth())
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, handlelength=1.6)
