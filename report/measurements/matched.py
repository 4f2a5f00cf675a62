"""Methods with budgets of their own: their scores, and comparisons at equal numbers kept and equal bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.measurements.scores import score_cell
from report.results import CELL, Columns
from report.scores import METHOD, with_kept_shares, with_own_budgets
from report.table import Column, Table, TableCell

COLUMNS = {
    "matched": Columns.of("method family unit against equal", "budget cells difference_points difference_points_sd")
}
MEASURES = ("kept", "stored_bytes")  # sizes at which methods with different units are compared


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Methods with budgets of their own against those with kept shares, at equal numbers kept and equal stored bytes.

    In each cell, the weighted F1 of the other method is interpolated between its budgets, linearly in the logarithm of
    the size. There is no comparison outside its range. Numbers kept are not compared for budgets in bits, since
    entries stored as bits do not count as kept.
    """
    others = dict(list(with_own_budgets(files.seeds).groupby(CELL, sort=False)))
    rows = []
    for (*cell, against), curve in with_kept_shares(files.seeds).groupby([*CELL, "method"], sort=False):
        for measure in MEASURES if tuple(cell) in others else ():
            points = others[tuple(cell)]
            points = points[(points["unit"] != "bits") | (measure != "kept")]
            difference = 100 * (points["weighted_f1"] - interpolated(curve, measure, points[measure]))
            rows.append(points[METHOD].assign(against=against, equal=measure, difference_points=difference))
    keys = [*COLUMNS["matched"].text, "budget"]
    compared = pd.concat(rows) if rows else pd.DataFrame(columns=[*keys, "difference_points"], dtype=float)
    difference = compared.groupby(keys, sort=False)["difference_points"]
    table = difference.agg(cells="count", difference_points="mean", difference_points_sd="std")
    return {"matched": table.reset_index()[COLUMNS["matched"].names]}


def interpolated(
    curve: pd.DataFrame, measure: str, sizes: Sequence[float] | pd.Series, value: str = "weighted_f1"
) -> np.ndarray:
    """Weighted F1 of one method in one cell at other sizes, linear in log size; NaN outside the range of its budgets.

    Args:
        curve: rows of the method with columns `measure` and `value`; equal sizes are averaged.
        sizes: (n,) at which to interpolate.
        value: the column to interpolate.
    """
    known = curve.groupby(measure)[value].mean()
    return np.interp(np.log(sizes), np.log(known.index), known, left=np.nan, right=np.nan)


def page(tables: ResultTables) -> dict[str, Any]:
    """Scores of these methods, and a table per measure that has comparisons."""
    return {"own_budgets": own_budgets_table(tables), "at_equal": matched_tables(tables)}


def own_budgets_table(tables: ResultTables) -> Table:
    """Scores of the methods with budgets of their own: a row per model, task, method and budget."""

    def rate(row: Any) -> TableCell:
        return columns.number_cell(
            row.learning_rate_min,
            lambda low: style.span(low, row.learning_rate_max, lambda value: f"{value:g}", merged=True),
        )

    def file(row: Any) -> TableCell:
        return columns.number_cell(row.stored_bytes, style.size, behind=style.share(row.stored_share))

    return Table.of(
        [
            *columns.PAIR,
            columns.method(),
            columns.budget(),
            Column("Weighted F1", score_cell, "number"),
            columns.number("To full", "difference_points", style.points),
            *columns.numbers({"Numbers kept": "kept", "Parameters": "parameters"}, style.integer),
            Column("Stored file, of full", file, "number"),
            Column("Learning rate", rate, "number"),
            columns.number("F1 on validation", "validation_weighted_f1", style.score),
            columns.number("Seeds", "seeds", style.integer),
        ],
        with_own_budgets(tables.scores_summary).itertuples(),
    )


def matched_tables(tables: ResultTables) -> dict[str, Table]:
    """Measure -> table of methods with kept shares (rows) against settings of the others (columns), in points.

    Rows, columns and measures without any comparison are left out.
    """
    setting = ["method", "budget", "unit"]
    order = list(dict.fromkeys(columns.tuples(tables.matched, setting)))
    compared = tables.matched[tables.matched["cells"] > 0]

    def difference(_: Any, other: Any) -> TableCell:
        return columns.number_cell(other.difference_points, style.points, behind=f"n={other.cells:.0f}")

    result = {}
    for measure in MEASURES:
        shown = compared[compared["equal"] == measure]
        present = set(columns.tuples(shown, setting))
        heads = {
            key: f"{style.label(key[0])} {style.budget_label(*key[1:])}".replace("-", "\u2011")
            for key in order
            if key in present
        }
        if heads:
            rows = columns.groups(shown, ["against"], setting)
            result[measure] = Table.of([columns.method("Against", "against"), *columns.wide(heads, difference)], rows)
    return result


def sentences(tables: ResultTables) -> list[str]:
    """Methods with budgets of their own against KEN (rescaled, if that was run) at equal stored bytes."""
    matched = tables.matched
    rows = matched[(matched["equal"] == "stored_bytes") & (matched["cells"] > 0)]
    against = next((name for name in ("ken-rescaled", "ken") if name in set(rows["against"])), None)
    rows = rows[rows["against"] == against]
    if rows.empty:
        return []
    name, (best, *others) = style.label(against), rows.sort_values("difference_points", ascending=False).itertuples()
    if not others:
        return [f"At equal stored bytes, {_beside(best)} {name}, in {style.count(best.cells, 'cell')}."]
    ahead = (rows["difference_points"] > 0).sum()
    score = f"{ahead or 'none'} of {len(rows)} settings of other methods score{'' if ahead > 1 else 's'} higher"
    return [
        f"At equal stored bytes, {score} than {name}. "
        f"{style.capitalised(_beside(best))} it, in {style.count(best.cells, 'cell')}. "
        f"{style.capitalised(_beside(others[-1]))} it, in {style.count(others[-1].cells, 'cell')}."
    ]


def _beside(row: Any) -> str:
    """How far a setting is above or below another method: "LoRA with rank 4 is 2.0 points above"."""
    where = "above" if row.difference_points > 0 else "below"
    named = style.with_budget(row.method, row.budget, row.unit)
    return f"{named} is {abs(row.difference_points):.1f} points {where}"
