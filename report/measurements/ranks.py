"""Average ranks of methods over models and tasks, with critical differences (Demšar 2006)."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.drawing import WIDTH, Axes, Drawing, Figure, canvas, drawing_of, method_line
from report.measurements.contract import ResultFiles, ResultTables
from report.measurements.differences import by_budget
from report.results import STATISTICS, read_statistics
from report.table import Table, TableCell

COLUMNS = {"ranks": STATISTICS["ranks"]}
KEYS = ["unit", "budget"]
NAMED = 3  # most methods that a sentence names


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """statistics/ranks.csv."""
    return {"ranks": read_statistics(files.results, "ranks")}


def page(tables: ResultTables) -> dict[str, Any]:
    """Ranks per method and budget, the tests of each budget, and a sentence for each budget in the figure."""
    return {
        "table": ranks_table(tables),
        "tests": tests_table(tables),
        "sentences": budget_sentences(tables.ranks),
    }


def _ranked(ranks: pd.DataFrame) -> pd.DataFrame:
    return ranks[ranks["average_rank"].notna() & (ranks["methods"] > 1)]


def ranks_table(tables: ResultTables) -> Table:
    """Average rank per method (rows) and budget (columns)."""
    ranked = _ranked(tables.ranks)

    def rank(_: Any, row: Any) -> TableCell:
        return columns.number_cell(row.average_rank, "{:.2f}".format)

    budgets = columns.tuples(by_budget(ranked[KEYS].drop_duplicates()), KEYS)
    heads = {(unit, budget): style.budget_label(budget, unit) for unit, budget in budgets}
    return Table.of([columns.method(), *columns.wide(heads, rank)], columns.groups(ranked, ["method"], KEYS))


def tests_table(tables: ResultTables) -> Table:
    """Friedman's test and the critical difference per budget."""
    return Table.of(
        [
            columns.budget_text(),
            *columns.numbers({"Methods": "methods", "Pairs of model and task": "n"}, style.integer),
            columns.number("Friedman's p", "friedman_p", style.p_value),
            columns.number("Critical difference", "critical_difference", "{:.2f}".format),
        ],
        by_budget(_ranked(tables.ranks).drop_duplicates(KEYS)).itertuples(),
    )


def with_picture(ranks: pd.DataFrame) -> pd.DataFrame:
    """Ranked rows of the budgets with at least 3 methods on at least 5 pairs of model and task."""
    ranked = ranks[ranks["average_rank"].notna()]
    return ranked[(ranked["methods"] >= 3) & (ranked["n"] >= 5)]


def budget_sentences(ranks: pd.DataFrame) -> list[str]:
    """The method with the best average rank at every budget in the figure, and how many are not significantly worse."""
    lines = []
    for (unit, budget), rows in with_picture(ranks).sort_values("budget", kind="stable").groupby(KEYS):
        rows = rows.sort_values("average_rank", kind="stable")
        best = rows.iloc[0]
        near = rows[rows["average_rank"] - best["average_rank"] < best["critical_difference"]]["method"][1:]
        lines.append(
            f"With {_kept(budget, unit)}, {style.label(best['method'])} has the best average rank of "
            f"{best['methods']:.0f} methods: {best['average_rank']:.1f}. {_not_worse(list(near))}"
        )
    return lines


def _not_worse(methods: Sequence[str]) -> str:
    """The methods that are not significantly worse than the best: their names if they are few, or their number."""
    if not methods:
        return "All others are significantly worse."
    named = len(methods) <= NAMED
    names = style.listed([style.label(name) for name in methods]) if named else f"{len(methods)} others"
    return f"{names} {'is' if len(methods) == 1 else 'are'} not significantly worse."


def _kept(budget: float, unit: str) -> str:
    return f"{style.budget_label(budget, unit)}{' kept' if unit == 'share' else ''}"


def not_told_apart(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """Groups of methods without a significant difference in Nemenyi's test (Demšar 2006, figure 1).

    Args:
        ranks: average ranks, ascending.
        critical_difference: smallest significant difference.

    Returns:
        First and last index of every group of two or more that is not part of a larger one.
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(index for index, other in enumerate(ranks) if other - rank < critical_difference or index == first)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure, for the budgets with enough methods and pairs."""
    text = "Average ranks of methods with critical differences"
    note = "No budget with at least 3 methods ranked on 5 pairs of model and task."
    return {"ranks": drawing_of(draw_ranks, with_picture(tables.ranks), description=text, note=note)}


def draw_ranks(ranks: pd.DataFrame) -> Figure:
    """Average ranks with critical differences, one panel per budget (Demšar 2006, figure 1), best on the left."""
    budgets = list(ranks.sort_values("budget", kind="stable").groupby(KEYS, sort=False))
    parts = [part.sort_values("average_rank", kind="stable") for _, part in budgets]
    groups = [not_told_apart(list(part["average_rank"]), part["critical_difference"].iloc[0]) for part in parts]
    depths = [0.9 + 0.35 * len(bars) + math.ceil(len(part) / 2) for part, bars in zip(parts, groups, strict=True)]
    margins = tuple(max(sides) for sides in zip(*map(_name_lengths, parts), strict=True))
    heights = [0.19 * (depth + 2) + 0.35 for depth in depths]
    figure, panels = canvas(WIDTH, sum(heights), len(budgets), 1, gridspec_kw={"height_ratios": heights})
    for axes, ((unit, budget), _), part, bars, depth in zip(panels[:, 0], budgets, parts, groups, depths, strict=True):
        axes.set_title(f"{_kept(budget, unit)}, {part['n'].iloc[0]:.0f} pairs of model and task")
        _draw_axis(axes, part, depth, margins)
        _draw_bars(axes, part, bars)
        _draw_names(axes, part, 0.9 + 0.35 * len(bars))
    return figure


def _name_lengths(part: pd.DataFrame) -> tuple[float, float]:
    """About the inches that the names left and right of the axis need."""
    lengths = [0.06 * len(_name(row)) + 0.2 for row in part.itertuples()]
    middle = math.ceil(len(lengths) / 2)
    return max(lengths[:middle]), max(lengths[middle:])


def _name(row: Any) -> str:
    return f"{style.label(row.method)} {row.average_rank:.1f}"


def _draw_axis(axes: Axes, part: pd.DataFrame, depth: float, margins: tuple[float, ...]) -> None:
    """Draw the axis of ranks at height 0, and the length of the critical difference above it.

    Args:
        margins: inches for the names left and right of it.
    """
    most, difference = len(part), part["critical_difference"].iloc[0]
    axes.set_axis_off()
    length = max(1.0, WIDTH - sum(margins) - 0.1)  # of the axis in inches
    left, right = (margin / length * (most - 1) for margin in margins)
    axes.set_xlim(1 - left, most + right)
    axes.set_ylim(depth, -2)
    axes.plot([1, most], [0, 0], color=style.INK, linewidth=1)
    numbered = range(1, most + 1, math.ceil(0.2 * (most - 1) / length))
    for tick in range(1, most + 1):
        axes.plot([tick, tick], [0, -0.25], color=style.INK, linewidth=1)
        if tick in numbered:
            axes.text(tick, -0.4, str(tick), ha="center", va="bottom", fontsize=8)
    end = 1 + min(difference, most - 1 + right)
    axes.plot([1, end], [-1.6, -1.6], color=style.INK, linewidth=1.6, marker="|", markersize=6)
    axes.text(end + 0.02 * most, -1.6, f" CD {difference:.2f}", va="center", fontsize=8)


def _draw_bars(axes: Axes, part: pd.DataFrame, bars: list[tuple[int, int]]) -> None:
    """Draw thick bars below the axis, each joining methods without a significant difference."""
    ranks, most = list(part["average_rank"]), len(part)
    for level, (first, last) in enumerate(bars):
        ends = [ranks[first] - 0.006 * most, ranks[last] + 0.006 * most]
        axes.plot(ends, [0.5 + 0.35 * level] * 2, color=style.INK, linewidth=3, solid_capstyle="butt")


def _draw_names(axes: Axes, part: pd.DataFrame, top: float) -> None:
    """Draw names on both sides, each connected with its rank on the axis; the first is at the height `top`."""
    most = len(part)
    styles, left = style.method_styles(part["method"]), math.ceil(most / 2)
    for index, row in enumerate(part.itertuples()):
        on_left = index < left
        height = top + (index if on_left else most - 1 - index)
        edge = 1 - 0.04 * most if on_left else most + 0.04 * most
        look = styles[row.method]
        axes.plot([row.average_rank, row.average_rank, edge], [0, height, height], color=look.colour, linewidth=0.9)
        axes.plot(row.average_rank, 0, **method_line(look) | {"linestyle": "", "zorder": 3}, clip_on=False)
        side = {"ha": "right"} if on_left else {"ha": "left"}
        axes.text(edge + (-0.015 if on_left else 0.015) * most, height, _name(row), va="center", fontsize=8, **side)
