"""Whether kept entries are spread evenly: three statistics of every matrix compared with random choices."""

from typing import Any

import numpy as np
import pandas as pd

from report import style
from report import table as columns
from report.drawing import WIDE, Axes, Drawing, Figure, canvas, drawing_of, set_ticks, signed
from report.measurements.contract import ResultFiles, ResultTables
from report.results import Columns, read_if_run
from report.scores import aggregations
from report.table import Table

SIDES = ("below", "inside", "above")  # of the interval of random choices
COLUMNS = {
    "spread": Columns.of(
        "method statistic", "budget matrices below inside above difference difference_min difference_max"
    ),
    "spread_matrices": Columns.of("model task method matrix statistic place", "seed budget difference low high"),
}
STATISTICS = {"neighbours": "kept neighbours", "entropy": "entropy over columns", "moran": "Moran's I"}
SHOWN = ("neighbours", "moran")  # in figure and sentences
FILE = Columns.of(
    "model task method matrix",
    "seed budget rows columns kept " + " ".join(f"observed_{s} {s}_random {s}_low {s}_high" for s in STATISTICS),
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Observed minus the mean of random choices per matrix and statistic, and counts of matrices per method."""
    matrices = _matrices(read_if_run(files.results / "spread.csv", FILE))
    counted = matrices.assign(**{side: (matrices["place"] == side).astype(int) for side in SIDES})
    table = counted.groupby(["method", "statistic", "budget"], sort=False).agg(
        matrices=("matrix", "size"),
        **{side: (side, "sum") for side in SIDES},
        **aggregations("difference", ends="difference"),
    )
    return {"spread": table.reset_index()[COLUMNS["spread"].names], "spread_matrices": matrices}


def _matrices(spread: pd.DataFrame) -> pd.DataFrame:
    axes = ["model", "task", "seed", "method", "budget", "matrix"]
    tables = []
    for name in STATISTICS:
        observed, chance = spread[f"observed_{name}"], spread[f"{name}_random"]
        low, high = spread[f"{name}_low"], spread[f"{name}_high"]
        side = np.select([observed < low, observed > high], ["below", "above"], "inside")
        ends = {"difference": observed - chance, "low": low - chance, "high": high - chance}
        tables.append(spread[axes].assign(statistic=name, place=side, **ends))
    return pd.concat(tables, ignore_index=True)[COLUMNS["spread_matrices"].names]


def page(tables: ResultTables) -> dict[str, Any]:
    """Counts of matrices, one sentence per method, and the size of the figure's data."""
    table = Table.of(
        [
            columns.method(),
            columns.text("Statistic", lambda row: STATISTICS.get(row.statistic, row.statistic)),
            columns.number("Matrices", "matrices", style.integer),
            *columns.numbers({f"{side.capitalize()} the interval": side for side in SIDES}, style.integer),
            *columns.numbers({"Mean over random": "difference", "Largest": "difference_max"}, _difference),
        ],
        tables.spread.itertuples(),
    )
    return {"table": table, "sentences": method_sentences(tables.spread), "shown": _shown(tables.spread_matrices)}


def _difference(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _shown(matrices: pd.DataFrame) -> str:
    """Numbers of matrices, models and seeds in the figure."""
    shown = matrices[["method", "model", "task", "seed", "matrix"]].drop_duplicates()
    each = shown.groupby("method").size()
    if each.empty:
        return ""
    number = f"{each.min()}" if each.min() == each.max() else f"{each.min()} to {each.max()}"
    models, seeds = (style.count(shown[name].nunique(), name) for name in ("model", "seed"))
    return f"{number} matrices a method, {models}, {seeds}"


def method_sentences(spread: pd.DataFrame) -> list[str]:
    """For each method, how many matrices lie inside the interval of random choices, above it and below it."""
    lines = []
    for method, rows in spread.groupby("method", sort=False):
        by_statistic = {row.statistic: row for row in rows.itertuples()}
        parts = [
            f"By {STATISTICS[name]}, {style.label(method)} lies inside the interval of random choices in "
            f"{row.inside:.0f} of {style.count(row.matrices, 'matrix', 'matrices')}. It lies above it, which means "
            f"clusters, in {row.above:.0f}, and below it in {row.below:.0f}."
            for name in SHOWN
            if (row := by_statistic.get(name)) is not None
        ]
        lines.append(" ".join(parts))
    return lines


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of all matrices."""
    text = "Observed minus random places of kept entries, one dot per matrix"
    note = "The places of kept entries were not looked at in this study."
    models = tables.counts["models"]
    return {"spread": drawing_of(draw_spread, tables.spread_matrices, models, description=text, note=note)}


def draw_spread(matrices: pd.DataFrame, models: list[str]) -> Figure:
    """Observed minus random, one dot per matrix, over the interval of random choices; one row of panels per method."""
    methods = list(dict.fromkeys(matrices["method"]))
    matrices = matrices.assign(at=_places(matrices, models))
    names = 0.08 * max(map(len, matrices["model"]))  # inches of the upright names of models below
    figure, panels = canvas(WIDE, 1.7 * len(methods) + 0.4 + names, len(methods), len(SHOWN), sharex=True, sharey="col")
    styles = style.method_styles(methods)
    for column, statistic in zip(panels.T, SHOWN, strict=True):
        shown = matrices[matrices["statistic"] == statistic]
        for axes, method in zip(column, methods, strict=True):
            _draw_matrices(axes, shown[shown["method"] == method], styles[method].colour)
            axes.set_title(f"{style.label(method)} · {STATISTICS[statistic]}")
            axes.yaxis.set_tick_params(labelleft=True)
        _set_axis(column[0], shown)
    _name_models(panels, matrices)
    figure.supylabel("observed minus random", fontsize=9)
    return figure


def _places(matrices: pd.DataFrame, models: list[str]) -> pd.Series:
    """Where a matrix is drawn, the same for all methods and statistics: side by side, ordered by model."""
    keys = ["model", "task", "seed", "matrix"]
    order = {model: index for index, model in enumerate(models)}
    each = matrices[keys].drop_duplicates()
    each = each.sort_values("model", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)
    places = {tuple(row): place for place, row in enumerate(each.itertuples(index=False, name=None))}
    return matrices[keys].apply(tuple, axis=1).map(places)


def _name_models(panels: np.ndarray, matrices: pd.DataFrame) -> None:
    """Draw lines between the matrices of models, and write the names of the models below."""
    ends = matrices.groupby("model", sort=False)["at"].agg(["min", "max"])
    for axes in panels.ravel():
        for start in sorted(ends["min"])[1:]:
            axes.axvline(start - 0.5, color=style.GRID, linewidth=0.7, zorder=0)
        axes.set_xticks(ends.mean(axis=1), list(ends.index), rotation=90, fontsize=8)
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")


def _set_axis(axes: Axes, part: pd.DataFrame) -> None:
    """Make an axis linear over the widest interval of random choices and logarithmic beyond it."""
    widest = part[["low", "high"]].abs().max(axis=None)
    furthest = max(widest, part["difference"].abs().max())
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    bend = next((step for step in steps if step >= widest), steps[-1])
    ticks = [bend, *(step for step in steps if bend < step <= 1.05 * furthest)]
    axes.set_yscale("symlog", linthresh=bend, linscale=1)
    axes.set_ylim(min(-bend, 1.15 * part["difference"].min()), max(bend, 1.15 * part["difference"].max()))
    set_ticks(axes.yaxis, [0, -bend, *ticks, *(-tick for tick in ticks[1:])], signed)


def _draw_matrices(axes: Axes, part: pd.DataFrame, colour: str) -> None:
    """Draw matrices side by side; dots outside the interval are filled."""
    axes.vlines(part["at"], part["low"], part["high"], color=style.MUTED, linewidth=1.2, alpha=0.55, zorder=1)
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    for inside in (True, False):
        rows = part[(part["place"] == "inside") == inside]
        filled = {"markerfacecolor": "white" if inside else colour, "markeredgecolor": colour}
        axes.plot(rows["at"], rows["difference"], "o", markersize=2.8, markeredgewidth=0.8, **filled)
