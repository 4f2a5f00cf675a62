"""Weighted F1 against the size of the stored file: the frontier of settings, losses at fixed sizes, smallest files."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from report import drawing, labels, named, style
from report import table as columns
from report.intervals import LEAST_SEEDS, scope
from report.measurements.contract import ResultFiles, ResultTables
from report.measurements.matched import interpolated
from report.results import CELL, Columns, read_statistics, shared_checkpoints
from report.scores import METHOD, aggregations, cell_sets, same_budgets
from report.table import Column, Table, TableCell

SET = ["model", "cells_of"]
NAME = ["method", "family", "unit"]
COLUMNS = {
    "pareto": Columns.of("cells_of method family unit", "budget cells difference_points stored_share on_front"),
    "frontier": Columns.of("model cells_of method family unit", "size cells difference_points nearest_factor"),
    "frontier_points": Columns.of(
        "model cells_of method family unit scope", "budget cells stored_share stored_bytes difference_points low high"
    ),
    "smallest_files": Columns.of(
        "model cells_of method family unit", "within budget cells stored_share stored_bytes difference_points low"
    ),
}
SAME_COST = 1.01  # ratio of sizes up to which files count as equally large
SIZES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.1)  # shares of the dense file at which losses are tabulated
WITHIN = (0.5, 1.0, 1.5)  # losses in points for which the smallest files are listed
BYTE_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
SMALLEST_NOTE = (
    "The smallest file of each method whose mean loss is at most that of the column, in % of the full model's. Behind "
    "it: its budget, its points to full and the low end of their 95 % interval. Shaded: that end is within the loss "
    "too. The smallest of several tried files was lucky more often than not, so a file chosen here needs a test of its "
    "own."
)
NAMED_BY_MODEL = 4  # methods with a name in the small panels of models
XLABEL = "stored file, % of the full model's (log scale)"
_ROUNDING = 1e-9


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means over cells, over the sets of cells of `scores.cell_sets`.

    `pareto` and `frontier_points` have a row per setting, `frontier` one per method and size, and `smallest_files` one
    per method and permitted loss, without numbers if no file is that near to full. Controls are only in the first two.
    """
    seeds = files.seeds[files.seeds["difference_points"].notna()]
    points = settings(files)
    smallest = _smallest_files(points)
    pooled = points[points["model"] == ""]
    pareto = pd.concat([_with_front(rows) for _, rows in pooled.groupby("cells_of", sort=False)], ignore_index=True)
    frontier = _by_smallest_file(_at_sizes(seeds), smallest)
    tables = {"pareto": pareto, "frontier": frontier, "frontier_points": points, "smallest_files": smallest}
    return {name: table[COLUMNS[name].names] for name, table in tables.items()}


def settings(files: ResultFiles) -> pd.DataFrame:
    """Mean size and score of every setting over each of `scores.cell_sets`, with intervals: `frontier_points`."""
    seeds, checkpoints = files.seeds[files.seeds["difference_points"].notna()], shared_checkpoints(files.models)
    points = pd.concat(
        [
            _points(rows).assign(model=model, cells_of=name, scope=_scope(rows, checkpoints, model))
            for model, name, rows in cell_sets(seeds)
        ],
        ignore_index=True,
    )
    keys = [*SET, "method", "unit", "budget"]
    intervals = same_budgets(read_statistics(files.results, "to_full"))[[*keys, "low", "high"]]
    ends = same_budgets(points)[keys].merge(intervals, on=keys, how="left")
    return points.assign(low=ends["low"], high=ends["high"])[COLUMNS["frontier_points"].names]


def _scope(rows: pd.DataFrame, checkpoints: dict[str, str], model: str) -> str:
    """What the mean over some cells, of one model or several, is limited to: "on these two tasks with one seed"."""
    one_seed = "with one seed" if rows["seed"].nunique() < LEAST_SEEDS else ""
    return " ".join(filter(None, (scope(rows, not model, checkpoints=checkpoints), one_seed)))


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    means = aggregations("difference_points stored_share stored_bytes")
    return rows.groupby(METHOD, sort=False).agg(cells=("seed", "size"), **means).reset_index()


def _with_front(points: pd.DataFrame) -> pd.DataFrame:
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


def _smallest_files(points: pd.DataFrame) -> pd.DataFrame:
    """The smallest measured file of every method whose mean loss is at most that of `WITHIN`."""
    points = points[~points["method"].isin(style.CONTROLS)]
    asked = points[[*SET, *NAME]].drop_duplicates()
    tables = []
    for loss in WITHIN:
        near = points[points["difference_points"] >= -loss - _ROUNDING].sort_values("stored_share", kind="stable")
        tables.append(
            asked.merge(near.drop_duplicates([*SET, *NAME]), on=[*SET, *NAME], how="left").assign(within=loss)
        )
    smallest = pd.concat(tables, ignore_index=True)
    return _by_smallest_file(smallest, smallest)


def _by_smallest_file(table: pd.DataFrame, smallest: pd.DataFrame) -> pd.DataFrame:
    """The table sorted, within sets of cells, by the smallest file of each method: within half a point, then one."""
    sizes = smallest.pivot(index=[*SET, "method"], columns="within", values="stored_share").fillna(math.inf)
    ranks = {key: rank for rank, key in enumerate(sizes.sort_values(list(sizes.columns), kind="stable").index)}
    sets = {key: rank for rank, key in enumerate(dict.fromkeys(columns.tuples(table, SET)))}
    keys = [(sets[key[:2]], ranks[key]) for key in columns.tuples(table, [*SET, "method"])]
    return table.iloc[sorted(range(len(table)), key=keys.__getitem__)].reset_index(drop=True)


def _at_sizes(seeds: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of every method at `SIZES`, interpolated within each cell; NaN if a size is out of range in some cell.

    `nearest_factor` is how far the nearest measured file is: the ratio of sizes in the cell where it is largest.
    """
    keys = [*CELL, *NAME]
    curves = seeds[~seeds["method"].isin(style.CONTROLS)].groupby(keys, sort=False)
    if not len(curves):
        return pd.DataFrame(columns=COLUMNS["frontier"].names)
    losses = pd.concat([_in_one_cell(curve).assign(**dict(zip(keys, key, strict=True))) for key, curve in curves])
    tables = []
    for model, name, rows in cell_sets(seeds):
        grouped = losses.merge(rows[keys].drop_duplicates(), on=keys).groupby([*NAME, "size"], sort=False)
        table = grouped.agg(cells=("seed", "size"), nearest_factor=("nearest_factor", "max"))
        table["difference_points"] = (
            grouped["difference_points"].sum(min_count=1) / grouped["difference_points"].count()
        )
        complete = grouped["difference_points"].count() == table["cells"]
        table.loc[~complete, ["difference_points", "nearest_factor"]] = math.nan
        tables.append(table.reset_index().assign(model=model, cells_of=name))
    return pd.concat(tables, ignore_index=True)


def _in_one_cell(curve: pd.DataFrame) -> pd.DataFrame:
    """Loss of a method in one cell at `SIZES`, and the ratio of each size to the nearest measured one."""
    losses = interpolated(curve, "stored_share", SIZES, "difference_points")
    ratios = np.log(np.array(SIZES)[:, None] / curve["stored_share"].to_numpy())
    nearest = np.exp(np.abs(ratios).min(axis=1))
    return pd.DataFrame({"size": SIZES, "difference_points": losses, "nearest_factor": nearest})


def sentences(tables: ResultTables) -> list[str]:
    """The smallest files within half a point and more, and the ends of the Pareto front, over all cells."""
    return [*_smallest_of_all(judged_points(tables)), *_best_for_their_size(tables.pareto)]


def over_all_cells(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frontier_points` or `smallest_files` that are means over all cells of all models."""
    return points[(points["model"] == "") & (points["cells_of"] == "all")]


def judged_points(tables: ResultTables) -> pd.DataFrame:
    """Rows of `over_all_cells`; without intervals if there is one seed, or a cell that has not learned."""
    points, trained = over_all_cells(tables.frontier_points), tables.finetuned
    shown = len(tables.counts["seeds"]) >= LEAST_SEEDS and (trained["learned"] == trained["seeds"]).all()
    return points if shown else points.assign(low=math.nan, high=math.nan)


def smallest_file(points: pd.DataFrame, within: float) -> pd.Series | None:
    """The smallest file of all methods that is shown to lose at most so many points; None without one.

    Of many files that are near full on average, the smallest was lucky. Therefore the interval must not reach further
    than the loss; a file without an interval counts by its mean.

    Args:
        points: see `judged_points`.
    """
    files = points[points["family"] != "control"]
    near = files[files["low"].fillna(files["difference_points"]) >= -within - _ROUNDING]
    return None if near.empty else near.loc[near["stored_share"].idxmin()]


def smallest_method(points: pd.DataFrame) -> str:
    """The method of the smallest file within the least of `WITHIN` that any file is shown to keep; "" if none is."""
    found = (smallest_file(points, loss) for loss in WITHIN)
    return next((row["method"] for row in found if row is not None), "")


def that_loses(row: pd.Series, loss: str) -> str:
    """The part of a sentence behind "the smallest file", e.g. "shown to lose at most half a point"."""
    return f"that loses at most {loss} on average" if math.isnan(row["low"]) else f"shown to lose at most {loss}"


def _smallest_of_all(points: pd.DataFrame) -> list[str]:
    """For each permitted loss that some file keeps, the smallest file of all methods, if it is another than before."""
    lines: list[str] = []
    size = math.inf
    for loss in WITHIN:
        row = smallest_file(points, loss)
        if row is None or row["stored_share"] >= size:
            continue
        size = row["stored_share"]
        named = style.with_budget(row["method"], row["budget"], row["unit"])
        words = f"{loss:g} point{'' if loss == 1 else 's'}"
        if lines:
            lines.append(f"With up to {words} lost, it is {style.small_share(size)}: {named}.")
        else:
            of_full = f"has {style.small_share(size)} of the full model's bytes"
            loses = f"{that_loses(row, words)} {row['scope']}".rstrip()
            lines.append(f"The smallest file {loses} {of_full}: {named}.")
    return [" ".join(lines)] if lines else []


def _best_for_their_size(pareto: pd.DataFrame) -> list[str]:
    """How many settings are on the Pareto front, and its two ends."""
    front = pareto[(pareto["cells_of"] == "all") & (pareto["on_front"] == 1)].sort_values("stored_share")
    if front.empty:
        return []
    ends = [
        f"has {style.small_share(row.stored_share)} of the full model's bytes and "
        f"{style.loses(row.difference_points)} points ({style.with_budget(row.method, row.budget, row.unit)})."
        for row in front.iloc[[0, -1]].itertuples()
    ]
    if len(front) == 1:
        return [f"One setting is the best for its size: no file as small scores as high. It {ends[0]}"]
    return [
        f"{len(front)} settings are best for their size: no file as small scores as high. The smallest of them "
        f"{ends[0]} The largest {ends[1]}"
    ]


def _with_low(row: Any) -> str:
    """A mean difference in points with the low end of its interval, if it has one."""
    low = "" if math.isnan(row.low) else f", low end {style.points(row.low, 2)}"
    return f"{style.points(row.difference_points, 2)}{low}"


def page(tables: ResultTables) -> dict[str, Any]:
    """Losses at fixed sizes and smallest files, over the sets of several models and for each model."""
    shown: dict[str, Any] = {}
    for name, build in {"frontier": _sizes_table, "smallest_files": _smallest_table}.items():
        table = tables.frames[name]
        shown[name] = build(table[table["model"] == ""])
        shown[f"{name}_models"] = build(table[table["model"] != ""])
    return shown | {"sentences": sentences(tables), "caption": _caption(tables), "smallest_note": SMALLEST_NOTE}


def _caption(tables: ResultTables) -> str:
    return (
        f"Weighted F1 minus that of the full model against the size of the stored file, means over {tables.extent}. "
        "With a name: the methods with the smallest files and those they are compared with, with 95 % intervals. Broad "
        "line: the best at each size."
    )


def _cells() -> Column:
    """Column of the cells behind a row: those of a model, or of a set."""

    def text(row: Any) -> str:
        cells = style.count(row.rows["cells"].max(), "cell")
        return row.model or (f"all {cells}" if row.cells_of == "all" else f"{cells} with every method")

    return columns.text("Cells", text)


def _sizes_table(frontier: pd.DataFrame) -> Table:
    """Methods (rows) at fixed sizes (columns): points to full, and how far the nearest measured file is."""

    def cell(_: Any, row: Any) -> TableCell:
        near = "near" if row.difference_points >= -WITHIN[0] - _ROUNDING else ""
        factor = "" if math.isnan(row.nearest_factor) else f"×{row.nearest_factor:.2g}"
        return columns.number_cell(row.difference_points, partial(style.points, decimals=2), near, factor)

    heads = {size: style.percent(size) for size in SIZES}
    rows = columns.groups(_measured(frontier), [*SET, "method"], "size")
    return Table.of([_cells(), columns.stored_method(), *columns.wide(heads, cell)], rows)


def _smallest_table(smallest: pd.DataFrame) -> Table:
    """Methods (rows) and permitted losses (columns): size, setting, and points to full of the smallest file."""

    def cell(_: Any, row: Any) -> TableCell:
        if math.isnan(row.stored_share):
            return TableCell()
        near = "near" if row.low >= -row.within - _ROUNDING else ""
        behind = f"{style.budget_label(row.budget, row.unit)}; {_with_low(row)}"
        return columns.number_cell(row.stored_share, style.small_share, near, behind)

    heads = {loss: f"At most {loss:g} below full" for loss in WITHIN}
    rows = columns.groups(_measured(smallest, "stored_share"), [*SET, "method"], "within")
    return Table.of([_cells(), columns.stored_method(), *columns.wide(heads, cell)], rows)


def _measured(table: pd.DataFrame, column: str = "difference_points") -> pd.DataFrame:
    """Rows of the methods that have some value in a column."""
    return table[table.groupby([*SET, "method"])[column].transform("count") > 0]


def labelled(tables: ResultTables, most: int = named.MOST) -> list[str]:
    """Methods with a name in the figures."""
    return named.chosen(named.methods(tables), tables.frontier_points["method"], most)


def drawings(tables: ResultTables) -> dict[str, drawing.Drawing]:
    """The figures of points over bytes: over all models, and for each model."""
    points = tables.frontier_points
    note = "This study has one model, which the figure of all cells shows."
    return {
        "frontier": drawing.drawing_of(
            draw_frontier, points, labelled(tables), description="Difference to full against stored bytes",
            note="No sizes of stored files.",
        ),
        "frontier_models": drawing.drawing_of(
            draw_models, points[points["model"] != ""], labelled(tables, NAMED_BY_MODEL),
            description="Difference to full against stored bytes, one panel per model", note=note,
        ),
    }  # fmt: skip


def draw_frontier(points: pd.DataFrame, chosen: Sequence[str]) -> drawing.Figure:
    """Difference to full against stored bytes: a panel for all cells, one for common cells if there are such."""
    parts = dict(list(points[points["model"] == ""].groupby("cells_of", sort=False)))
    figure, panels = drawing.canvas(drawing.WIDTH, 4.3 * len(parts) + 0.2, len(parts), 1, sharex=True, sharey=True)
    for axes, (name, rows) in zip(panels[:, 0], parts.items(), strict=True):
        cells = style.count(rows["cells"].max(), "cell")
        axes.set_title(f"All {cells}" if name == "all" else f"{cells} with every method")
        axes.set_ylabel(f"{drawing.POINTS_LABEL} (log scale beyond ±1)")
        axes.tick_params(labelbottom=True)
        drawing.note_others(axes, _draw_panel(axes, rows, chosen))
    panels[-1, 0].set_xlabel(XLABEL)
    _set_axes(panels[0, 0], points, BYTE_TICKS)
    labels.write(figure)
    return figure


def draw_models(points: pd.DataFrame, chosen: Sequence[str]) -> drawing.Figure:
    """Difference to full against stored bytes, one panel per model."""
    parts = dict(list(points.groupby("model", sort=False)))
    wide = min(2, len(parts))
    high = math.ceil(len(parts) / wide)
    figure, panels = drawing.canvas(drawing.WIDE, drawing.height(high), high, wide, sharex=True, sharey=True)
    others = 0
    for axes, (model, rows) in zip(panels.ravel(), parts.items(), strict=False):
        axes.set_title(f"{model}, {style.count(rows['cells'].max(), 'cell')}")
        others = max(others, _draw_panel(axes, rows, chosen))
    drawing.remove_rest(panels, len(parts))
    _set_axes(panels[0, 0], points, BYTE_TICKS[::3])
    figure.supxlabel(XLABEL, fontsize=9)
    figure.supylabel(drawing.POINTS_LABEL, fontsize=9)
    drawing.note_above(figure, drawing.others_note(others))
    labels.write(figure, wrap=16)
    return figure


def _draw_panel(axes: drawing.Axes, points: pd.DataFrame, chosen: Sequence[str]) -> int:
    """Draw the front as a broad line, named methods with intervals, all others grey; returns how many these are."""
    axes.axhline(0, color=style.INK, linewidth=1.1, zorder=1)
    front = _with_front(points)
    front = front[front["on_front"] == 1].sort_values("stored_share")
    if len(front):
        steps = [*front["stored_share"], 1], [*front["difference_points"], front["difference_points"].iloc[-1]]
        axes.plot(*steps, drawstyle="steps-post", color=style.GRID, linewidth=5, solid_capstyle="butt", zorder=1.2)
    styles = style.method_styles(chosen)
    lines = {method: rows.sort_values("stored_share") for method, rows in points.groupby("method", sort=False)}
    others = [method for method in lines if method not in (*chosen, *style.CONTROLS)]
    for method in others:
        axes.plot(lines[method]["stored_share"], lines[method]["difference_points"], **drawing.OTHER)
    for method in [name for name in (*style.CONTROLS, *reversed(chosen)) if name in lines]:
        rows = lines[method]
        if method in style.CONTROLS:
            filled = style.INK if method == "full" else "white"
            look = {"color": style.INK, "marker": "o", "markersize": 5, "markerfacecolor": filled, "zorder": 3}
        else:
            look = drawing.method_line(styles[method]) | {"zorder": 2.5, "linewidth": 1.4}
            axes.vlines(
                rows["stored_share"], rows["low"], rows["high"], color=look["color"], linewidth=0.8, alpha=0.6, zorder=2
            )
        axes.plot(rows["stored_share"], rows["difference_points"], label=style.label(method), **look)
    return len(others)


def _set_axes(axes: drawing.Axes, points: pd.DataFrame, ticks: Sequence[float]) -> None:
    """Shares from 0.1 to 100 % on a log axis, and points on one that is logarithmic beyond one point."""
    files = points.loc[~points["method"].isin(style.CONTROLS), "stored_share"]
    axes.set_xscale("log")
    axes.set_xlim(min(BYTE_TICKS[0], files.min()) / 1.1, max(BYTE_TICKS[-1], files.max()) * 1.3)
    drawing.set_ticks(axes.xaxis, ticks, lambda value: f"{100 * value:g}")
    drawing.points_axis(axes, points["difference_points"], linear=1.2)
