"""Constants of methods that are chosen on validation: what was tried, and how often each value was chosen."""

from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.measurements.contract import PageSection, ResultFiles, ResultTables
from report.results import CELL, Columns
from report.table import Table

RATE, FACTOR = "learning rate", "factor"
KEYS = ["method", "family", "unit", "budget", "constant"]
COLUMNS = {"searched": Columns.of("method family unit constant tried split", "budget value times cells")}
CONSTANTS = {
    RATE: "learning rate, in units of the fine-tuning's",
    FACTOR: "factor on the scales",
}
HOW = {"validation": "chosen on validation in each cell", "": "fixed for all cells"}  # split -> clause
NOTE = (
    "Chosen: each value, and in how many trainings or files it was the best on validation. The test split "
    "has no part in it. Searches for the fine-tuning: tuning/."
)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """One row per method, budget and chosen value of a constant: `times` it was chosen, over `cells`.

    `tried` holds the values that the method tries, separated by spaces, "" if they are not known. `split` is the one
    that the choice was made on, "" if there was none.
    """
    ok = files.scores[(files.scores["status"] == "ok") & files.scores["validation_weighted_f1"].notna()]
    chosen = pd.concat([_rates(ok, files.finetuning), ok.assign(constant=FACTOR, value=ok["factor"])])
    chosen = chosen[chosen["value"].notna()]
    table = chosen.groupby([*KEYS, "value"], sort=False).agg(times=("seed", "size")).reset_index()
    cells = chosen.drop_duplicates([*KEYS, *CELL]).groupby(KEYS, sort=False).agg(cells=("seed", "size"))
    table = table.merge(cells.reset_index(), on=KEYS).sort_values([*KEYS, "value"], ignore_index=True)
    tried = [files.searched.get(row.method, {}).get(row.constant, []) for row in table.itertuples()]
    table["tried"] = [" ".join(f"{value:g}" for value in values) for values in tried]
    different = table.groupby(KEYS)["value"].transform("size")
    was_chosen = [len(values) > 1 or number > 1 for values, number in zip(tried, different, strict=True)]
    table["split"] = ["validation" if chose else "" for chose in was_chosen]
    return {"searched": table[COLUMNS["searched"].names]}


def _rates(scores: pd.DataFrame, finetuning: pd.DataFrame) -> pd.DataFrame:
    """Rows of methods that train, with their learning rates in units of those of the cells' fine-tuning."""
    of_cells = finetuning.loc[finetuning["arm"] == "pretrained", [*CELL, "learning_rate"]]
    rows = scores.merge(of_cells.rename(columns={"learning_rate": "finetuned"}), on=CELL)
    return rows.assign(constant=RATE, value=(rows["learning_rate"] / rows["finetuned"]).round(6))


def page(tables: ResultTables) -> dict[str, Any]:
    """A section with the table of constants and the methods that have one."""
    table = Table.of(
        [
            columns.method(),
            columns.budget(),
            columns.text("Constant", lambda row: CONSTANTS[row.constant]),
            columns.text("Tried", lambda row: _tried(row.rows["tried"].iloc[0])),
            columns.text("Chosen on", lambda row: _where(row.rows.iloc[0])),
            columns.text("Chosen", lambda row: ", ".join(_times(one) for one in row.rows.itertuples())),
            columns.number("Cells", lambda row: row.rows["cells"].iloc[0], style.integer),
        ],
        columns.groups(tables.searched, KEYS, "value"),
    )
    text = " ".join(_text(tables))
    absent = "No method of this study has a constant that could be chosen on validation."
    title = "Which constants were chosen on validation?"
    return {"section": PageSection("searched", title, text, table, NOTE, absent, filters=False)}


def _tried(values: str) -> str:
    return ", ".join(values.split()) or "not recorded"


def _where(row: pd.Series) -> str:
    return row["split"] or ("not chosen" if row["tried"] else "not recorded")


def _times(row: Any) -> str:
    """A value and how often it was chosen: "1.5 (4 times)"."""
    return f"{row.value:g} ({style.count(row.times, 'time')})"


def _text(tables: ResultTables) -> list[str]:
    """The methods whose constants were chosen on validation in each cell, and those with a fixed learning rate."""
    lines = []
    for constant, name in {FACTOR: "factor on the scales", RATE: "learning rate"}.items():
        rows = tables.searched[tables.searched["constant"] == constant]
        rows = rows[(rows["split"] != "") | (rows["tried"] != "")]  # else it is not known whether it was searched
        for split, how in HOW.items():
            if names := list(dict.fromkeys(map(style.label, rows.loc[rows["split"] == split, "method"]))):
                lines.append(f"The {name} of {style.listed(names)} was {how}.")
    return lines
