"""Bounds for compression per model and task: `full`, `none`, majority class and TF-IDF; and what has not learned."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import PAIR, Columns
from report.scores import unlearned_cells
from report.table import Column, Table, TableCell

COLUMNS = {
    "finetuned": Columns.of("model task", "seeds full full_sd none none_sd majority tfidf over_tfidf_points learned")
}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means and standard deviations of the controls over seeds, and the references of the task.

    `learned` is the number of seeds whose fully fine-tuned model has learned (`report.scores.unlearned_cells`).
    """
    table = files.scores[PAIR].drop_duplicates().set_index(PAIR)
    for control in ("full", "none"):
        values = files.seeds[files.seeds["method"] == control].groupby(PAIR, sort=False)["weighted_f1"]
        table[control], table[f"{control}_sd"] = values.mean(), values.std()
        if control == "full":
            table["seeds"] = values.size()
    references = files.tasks.set_index("task")[["majority_weighted_f1", "tfidf_weighted_f1"]]
    table = table.join(references.set_axis(["majority", "tfidf"], axis=1), on="task").reset_index()
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    unlearned = unlearned_cells(files.scores, files.tasks).groupby(PAIR).size().rename("unlearned")
    table["learned"] = table["seeds"] - table[PAIR].join(unlearned, on=PAIR)["unlearned"].fillna(0).astype(int)
    table["over_tfidf_points"] = 100 * (table["full"] - table["tfidf"])
    return {"finetuned": table[COLUMNS["finetuned"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """The table of controls and references, and a warning about models that have not learned."""
    return {
        "warning": warning(tables.finetuned),
        "table": Table.of(
            [
                *columns.PAIR,
                columns.number("Majority class", "majority", style.score),
                columns.mean("None (body reset)", "none", "none_sd"),
                columns.number("TF-IDF", "tfidf", style.score),
                columns.mean("Full", "full", "full_sd"),
                Column("Learned", _learned),
                Column("Full to TF-IDF, points", _over_tfidf, "number"),
            ],
            tables.finetuned.itertuples(),
        ),
    }


def _over_tfidf(row: Any) -> TableCell:
    below = row.over_tfidf_points < 0
    return columns.number_cell(row.over_tfidf_points, style.points, behind="below TF-IDF" if below else "")


def _learned(row: Any) -> TableCell:
    if row.learned == row.seeds:
        return TableCell("yes" if row.seeds else "")
    return TableCell(f"NO, in {row.seeds - row.learned:.0f} of {style.count(row.seeds, 'seed')}", marks="missing")


def warning(table: pd.DataFrame) -> str:
    """A sentence about the cells whose fully fine-tuned model has not learned; "" if there are none."""
    table = table[table["learned"] < table["seeds"]]
    if table.empty:
        return ""
    cells = int((table["seeds"] - table["learned"]).sum())
    verb = "has" if cells == 1 else "have"
    lines = [
        f"{style.count(cells, 'cell')} {verb} not learned: the fully fine-tuned model is hardly better than the "
        "majority class or far below TF-IDF. Such a cell says nothing about pruning and counts for no verdict."
    ]
    for row in table.itertuples():
        seeds = f"{row.seeds - row.learned:.0f} of {style.count(row.seeds, 'seed')}"
        tfidf = "" if pd.isna(row.tfidf) else f" and TF-IDF {style.score(row.tfidf)}"
        lines.append(
            f"Not learned: {row.model} on {row.task}, in {seeds}. Its mean weighted F1 is {style.score(row.full)}; "
            f"the majority class has {style.score(row.majority)}{tfidf}."
        )
    return " ".join([*lines, "More training rows, more epochs or another learning rate may help."])
