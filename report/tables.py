"""Compute the summary tables of a study from its result files, each as CSV (numbers) and Markdown (for people).

`python -m report.tables --results results/mini` writes them to results/mini/tables. Draws of a random method are
averaged within a seed first, so that a spread is always one over seeds. Differences to `full` are paired by model, task
and seed. Budgets of different units are never compared: methods with kept shares are compared at equal budgets, all
others at equal numbers kept or equal bytes stored. The modules of `report.measurements` describe the tables.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from ken.errors import run
from report.measurements.contract import ResultFiles, ResultTables
from report.outputs import MEASUREMENTS
from report.results import CELL, read_if_run, read_json, read_table, write_csv, write_text
from report.scores import of_finetuned_cells, with_kept_shares
from report.table import markdown_frame


class Tables(ResultTables):
    """The computed tables of a study, with their files."""

    @classmethod
    def compute(cls, results: Path) -> "Tables":
        """Compute all tables from the result files of a study.

        Raises:
            UserError: a file is missing or malformed.
        """
        files = ResultFiles(results)
        counts = count(files.scores)
        frames = {}
        for measurement in MEASUREMENTS:
            frames |= measurement.call("compute", files)
        return cls(frames, counts)

    @classmethod
    def read(cls, results: Path) -> "Tables":
        """Read all tables from the folder `tables` of a study, which `write` has filled.

        Raises:
            UserError: a file is missing or malformed.
        """
        folder, frames = results / "tables", {}
        for measurement in MEASUREMENTS:
            for name, columns in measurement.module.COLUMNS.items():
                if measurement.tables[name]:  # not every study has it
                    frames[name] = read_if_run(folder / f"{name}.csv", columns)
                else:
                    frames[name] = read_table(folder / f"{name}.csv", *columns)
        return cls(frames, read_json(folder / "counts.json"))

    def write(self, folder: Path) -> None:
        """Write counts.json, and every table as CSV and Markdown, except empty ones that only some studies have."""
        needs = {name: needs for measurement in MEASUREMENTS for name, needs in measurement.tables.items()}
        for name, table in self.frames.items():
            if len(table) or not needs[name]:
                write_csv(folder / f"{name}.csv", table.round(6))
                write_text(folder / f"{name}.md", markdown_frame(table))
        write_text(folder / "counts.json", json.dumps(self.counts, indent=2, ensure_ascii=False) + "\n")


def count(scores: pd.DataFrame) -> dict:
    """Size of the study: names in the order of the scores, its kept shares, and numbers of cells and rows.

    Cells whose training failed are not counted; `measurements.without_score` names them.
    """

    def names(column: str) -> list:
        return list(dict.fromkeys(scores[column]))

    return {
        "models": names("model"),
        "tasks": names("task"),
        "methods": names("method"),
        "seeds": [int(seed) for seed in sorted(names("seed"))],
        "budgets": sorted(set(with_kept_shares(scores)["budget"])),
        "cells": len(of_finetuned_cells(scores)[CELL].drop_duplicates()),
        "rows": len(scores),
        "draws": int(scores["draw"].nunique()),
        **{status: int((scores["status"] == status).sum()) for status in ("ok", "declined", "failed")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the summary tables of a study from its result files.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--out", type=Path, help="folder to write to (default: tables in the results folder)")
    arguments = parser.parse_args()
    tables = Tables.compute(arguments.results)
    tables.write(arguments.out or arguments.results / "tables")
    print(f"tables of {tables.counts['rows']} rows from {tables.counts['cells']} cells")


if __name__ == "__main__":
    run(main)
