"""What evaluation in another precision than float32 changes: predictions and weighted F1 of the same models."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import Columns
from report.scores import aggregations
from report.table import Table

COLUMNS = {
    "precision": Columns.of(
        "model precision",
        "models texts changed_share changed_share_max change_points change_points_min change_points_max",
    )
}
TEXT = (
    "Models of every cell (full, none, and KEN at its smallest and largest budget) were evaluated in float32 as well, "
    "on the same texts."
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Share of changed predictions, and weighted F1 minus that in float32, for each model and precision.

    No rows if all models were evaluated in float32, or by an older version of the suite.
    """
    both = files.scores[files.scores["changed_share"].notna()]
    if both.empty:
        return {"precision": pd.DataFrame(columns=COLUMNS["precision"].names)}
    both = both.assign(change_points=100 * (both["weighted_f1"] - both["float32_weighted_f1"]))
    table = both.groupby(["model", "precision"], sort=False).agg(
        models=("method", "size"),
        **aggregations("texts changed_share change_points", ends="changed_share change_points"),
    )
    return {"precision": table.reset_index()[COLUMNS["precision"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Section with the table, where another precision was used."""
    if tables.precision.empty:
        return {}
    table = Table.of(
        [
            columns.text("Model", "model"),
            columns.text("Precision", "precision"),
            columns.number("Models compared", "models", style.integer),
            columns.number("Texts", "texts", style.integer),
            columns.number("Changed predictions", "changed_share", style.percent),
            columns.number("Most", "changed_share_max", style.percent),
            columns.number("Change, points", "change_points", style.points),
            columns.span("Over models", "change_points_min", "change_points_max", style.points),
        ],
        tables.precision.itertuples(),
    )
    return {"section": PageSection("precision", "Does the precision of the evaluation matter?", TEXT, table)}
