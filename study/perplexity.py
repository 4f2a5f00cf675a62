"""Collect the perplexities of all language models of a study."""

import itertools

import numpy as np
import pandas as pd

from ken.errors import UserError
from study.definition.paths import Paths
from study.definition.step import parse_step
from study.running import files
from study.running.workflow import run


def collect(paths: Paths, experiments: list[str], models: list[str], seeds: list[int]) -> pd.DataFrame:
    """Read the tables of all models and check every loss against the losses of the documents.

    Raises:
        UserError: a table was changed after it was written, or does not follow from the losses beside it.
    """
    tables = []
    for axes in itertools.product(experiments, models, seeds):
        folder = paths.experiment(*axes)
        files.check(folder, files.read_json(folder / "manifest.json")["sha256"], remove=folder / "perplexity.csv")
        table = pd.read_csv(folder / "perplexity.csv", keep_default_na=False)
        losses = files.read_parquet(folder / "losses.parquet")
        for row in table[table["status"] == "ok"].itertuples():
            computed = losses[row.file].sum() / losses["tokens"].sum()
            if not np.isclose(computed, float(row.loss), rtol=1e-9):
                raise UserError(
                    f"{folder}/perplexity.csv says loss {row.loss} of {row.file}, its documents give {computed}: "
                    "delete the folder and run again."
                )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    _, study, paths = parse_step("Collect the perplexities of all language models of a study.")
    table = collect(paths, study.experiments, *study.language_axes.values())
    files.write_csv(paths.table("perplexity"), table)
    print(f"{len(table)} rows of {table['model'].nunique()} models")


if __name__ == "__main__":
    run(main)
