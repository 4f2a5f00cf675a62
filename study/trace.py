"""Trace one row of scores.csv to its origins: `python -m study.trace results/mini bert library6 0 ken 0.25`.

Prints a summary, then the records of all steps from the row back to the pre-trained model and the task, each with
settings, seed, hashes of the inputs, code, versions and machine. Also works on an unpacked archive.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path

from ken.errors import UserError
from study.definition.paths import Paths
from study.definition.step import check_value
from study.running import files
from study.running.workflow import run


def trace(
    results: Path, model: str, task: str, seed: int | str, method: str, budget: str, draw: int = 0
) -> dict[str, object]:
    """A summary, the records of a row, its fine-tuned and pre-trained models and its task, and the study's config.

    Args:
        budget: as in the file name of the stored file, such as "0.25".

    Raises:
        UserError: there is no such row, or it has no score, or an input has changed since a record was made.
    """
    paths, cell = Paths(results), (model, task, seed)
    check_row(paths, *cell, method, budget, draw)
    row = files.read_json(paths.stored(*cell, method, budget, draw).with_suffix(".json"))
    finetuned = files.read_json(paths.finetuned(*cell) / "manifest.json")
    pretrained = files.read_json(paths.pretrained(model) / "manifest.json")
    data = files.read_json(paths.task(task) / "manifest.json")
    for what, recorded, current in (
        ("row", row["inputs"]["finetuned"], finetuned["sha256"]),
        ("row", row["inputs"]["task"], data["sha256"]),
        ("fine-tuned model", finetuned["inputs"]["pretrained"], pretrained["sha256"]),
        ("fine-tuned model", finetuned["inputs"]["task"], data["sha256"]),
    ):
        if recorded != current:
            raise UserError(
                f"the {what} of {paths.cell(*cell)} was made from files that have changed: run snakemake again."
            )
    del row["predictions"]
    config = files.read_json(paths.provenance)["config"]
    records = {"row": row, "finetuned": finetuned, "pretrained": pretrained, "task": data, "config": config}
    return {"summary": summary(records)} | records


def check_row(paths: Paths, model: str, task: str, seed: int | str, method: str, budget: str, draw: int) -> None:
    """Refuse a row that a study does not have, with the values that it has, or that has no score, with the reason."""
    if not paths.results.is_dir():
        raise UserError(f"{paths.results} does not exist: name the results folder of a study, such as results/mini.")
    scores = paths.scores(model, task, seed, method)
    folders = {
        "model": paths.results / "cells", "task": paths.cell(model, task, seed).parents[1],
        "seed": paths.cell(model, task, seed).parent, "method": scores.parents[1],
    }  # fmt: skip
    for (what, folder), value in zip(folders.items(), (model, task, str(seed), method), strict=True):
        found = sorted(path.name.removeprefix("seed" if what == "seed" else "") for path in folder.glob("*"))
        check_value(what, value, found, f"one that has results in {folder}")
    if not scores.exists():
        raise UserError(f"{scores} does not exist: run snakemake again, which makes it.")
    with open(scores, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    draws = sorted({int(row["draw"]) for row in rows})
    check_value("draw", draw, draws, f"one that {method} was run with in {scores.parent}")
    rows = {Path(row["file"]).stem: row for row in rows if int(row["draw"]) == draw}
    if budget not in rows:
        raise UserError(f"{method} was not run at {budget} in {scores.parent}. Valid: {', '.join(rows)}.")
    if rows[budget]["status"] != "ok":
        status, reason = rows[budget]["status"], rows[budget]["reason"]
        raise UserError(f"{method} at {budget} in {paths.cell(model, task, seed)} has no score ({status}): {reason}")


def summary(records: Mapping[str, Mapping]) -> list[str]:
    """What a row is and what it was made from, a few short lines."""
    scores, finetuned, pretrained = records["row"]["row"], records["finetuned"], records["pretrained"]
    settings, made = finetuned["settings"], records["row"]["made"]
    return [
        f"{scores['method']} at {scores['budget']} {scores['unit']}, {finetuned['model']} on {finetuned['task']}, seed "
        f"{finetuned['seed']}, draw {scores['draw']}: weighted F1 {scores['weighted_f1']:.4f}",
        f"stored file: {scores['file']}, {scores['stored_bytes']:,} bytes",
        f"fine-tuned: {settings['epochs']} epochs, learning rate {settings['learning_rate']:g}, batches of "
        f"{settings['batch_size']}",
        f"pre-trained model: {pretrained['source']}",
        f"made by commit {(made['commit'] or 'unknown')[:12]} with torch {made['versions']['torch']} on "
        f"{made['machine']['cpu']}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Trace a row of the scores of a finished study to its origins.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    for name in ("model", "task", "seed", "method", "budget"):
        parser.add_argument(name)
    parser.add_argument("--draw", type=int, default=0)
    a = parser.parse_args()
    print(json.dumps(trace(a.results, a.model, a.task, a.seed, a.method, a.budget, a.draw), indent=2))


if __name__ == "__main__":
    run(main)
