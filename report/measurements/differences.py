"""Significance of differences between methods: within each cell, and over models and tasks (`report.statistics`)."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import PAIR, STATISTICS, Columns, read_statistics
from report.table import Table, TableCell

COLUMNS = {
    "comparisons": Columns.of("model task method unit reference", "budget seeds difference_points better worse"),
    "pairwise": STATISTICS["pairwise"],
}
ALPHA = 0.05  # level of significance after Holm's correction


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Differences to the reference methods per model and task, and pairwise.csv unchanged.

    Means are over seeds. `better` and `worse` count seeds with a corrected McNemar p below `ALPHA`.
    """
    compared = read_statistics(files.results, "comparisons")
    significant = compared["mcnemar_p_holm"] < ALPHA
    ahead, behind = compared["difference_points"] > 0, compared["difference_points"] < 0
    table = (
        compared.assign(better=(significant & ahead).astype(int), worse=(significant & behind).astype(int))
        .groupby([*PAIR, "method", "unit", "budget", "reference"], sort=False)
        .agg(
            seeds=("seed", "nunique"),
            difference_points=("difference_points", "mean"),
            better=("better", "sum"),
            worse=("worse", "sum"),
        )
    )
    return {
        "comparisons": table.reset_index()[COLUMNS["comparisons"].names],
        "pairwise": read_statistics(files.results, "pairwise"),
    }


def page(tables: ResultTables) -> dict[str, Any]:
    """Tables of methods against methods, within each cell and over models and tasks."""
    references = [style.label(name) for name in dict.fromkeys(tables.comparisons["reference"])]
    return {
        "pairwise": pairwise_table(tables),
        "comparisons": comparisons_table(tables),
        "references": " or ".join(references),
        "alpha": ALPHA,
    }


def pairwise_table(tables: ResultTables) -> Table:
    """Every pair of methods at every budget."""
    return Table.of(
        [
            columns.budget_text(),
            columns.method(),
            columns.method("Against", "other"),
            columns.number("Points", "difference_points", style.points),
            columns.span("95\u00a0% interval", "low", "high", style.points),
            *columns.numbers({"p": "wilcoxon_p", "p, Holm": "wilcoxon_p_holm"}, style.p_value),
            columns.number("n", "n", style.integer),
        ],
        by_budget(tables.pairwise).itertuples(),
    )


def by_budget(table: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by budget, with kept shares before other units."""
    other = (table["unit"] != "share").astype(int)
    ordered = table.assign(other_unit=other).sort_values(["other_unit", "unit", "budget"], kind="stable")
    return ordered.drop(columns="other_unit")


def comparisons_table(tables: ResultTables) -> Table:
    """Differences to the reference methods per model, task and method (rows) at the study's kept shares (columns).

    Each is followed by the number of seeds with a significant difference in its direction, and the number of seeds.
    """
    budgets = tables.counts["budgets"]
    shown = tables.comparisons[(tables.comparisons["unit"] == "share") & tables.comparisons["budget"].isin(budgets)]

    def difference(_: Any, compared: Any) -> TableCell:
        count = compared.better if compared.difference_points > 0 else compared.worse
        return columns.number_cell(compared.difference_points, style.points, behind=f"{count:.0f}/{compared.seeds:.0f}")

    names = [columns.method("Against", "reference"), *columns.PAIR, columns.method()]
    rows = columns.groups(shown, ["reference", *PAIR, "method"], "budget")
    return Table.of([*names, *columns.over_budgets(budgets, difference)], rows)
