"""Bounds for compression per model and task: `full`, `none`, majority class and TF-IDF."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import PAIR, Columns
from report.table import Table

COLUMNS = {"finetuned": Columns.of("model task", "seeds full full_sd none none_sd majority tfidf over_tfidf_points")}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means and standard deviations of the controls over seeds, and the references of the task."""
    table = files.scores[PAIR].drop_duplicates().set_index(PAIR)
    for control in ("full", "none"):
        values = files.seeds[files.seeds["method"] == control].groupby(PAIR, sort=False)["weighted_f1"]
        table[control], table[f"{control}_sd"] = values.mean(), values.std()
        if control == "full":
            table["seeds"] = values.size()
    references = files.tasks.set_index("task")[["majority_weighted_f1", "tfidf_weighted_f1"]]
    table = table.join(references.set_axis(["majority", "tfidf"], axis=1), on="task").reset_index()
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["over_tfidf_points"] = 100 * (table["full"] - table["tfidf"])
    return {"finetuned": table[COLUMNS["finetuned"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """The table of controls and references."""
    return {
        "table": Table.of(
            [
                *columns.PAIR,
                columns.number("Majority class", "majority", style.score),
                columns.mean("None (body reset)", "none", "none_sd"),
                columns.number("TF-IDF", "tfidf", style.score),
                columns.mean("Full", "full", "full_sd"),
                columns.number("Full to TF-IDF, points", "over_tfidf_points", style.points),
            ],
            tables.finetuned.itertuples(),
        )
    }
