"""Compute the tables of the report from the collected scores, as CSV and Markdown."""

import argparse
import os
from pathlib import Path

import pandas as pd

from report import results
from report.results import Results


def markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown; numbers with four digits, bars in text escaped."""
    if table.empty:
        return "(no rows)\n"

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.4f}".rstrip("0").rstrip(".")
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def tables(found: Results) -> dict[str, pd.DataFrame]:
    """Name -> table of everything the report shows."""
    summary = results.summary(found.scores)
    return {
        "scores_summary": summary,
        "overview": results.overview(summary),
        "finetuned": results.finetuned(summary, found.tasks),
        "pretraining_gain": results.pretraining_gain(found.finetuning),
        "tasks": found.tasks,
        "models": found.models,
        "not_ok": results.not_ok(found.scores),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the tables of a study's report.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study")
    parser.add_argument("--out", required=True, type=Path, help="folder for the tables")
    arguments = parser.parse_args()
    for name, table in tables(Results.read(arguments.results)).items():
        write(arguments.out / f"{name}.csv", table.to_csv(index=False))
        write(arguments.out / f"{name}.md", markdown(table))
        print(f"{name}: {len(table)} rows")


if __name__ == "__main__":
    results.run(main)
