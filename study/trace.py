"""Trace one row of scores.csv to its origins: `python -m study.trace results/mini bert library6 0 ken 0.25`.

Prints the records of all steps from the row back to the pre-trained model and the task, each with settings, seed,
hashes of the inputs, code, versions and machine. Also works on an unpacked archive.
"""

import argparse
import json
from pathlib import Path

from ken.errors import UserError
from study.definition.paths import Paths
from study.running import files
from study.running.workflow import run


def trace(results: Path, model: str, task: str, seed: int, method: str, budget: str, draw: int = 0) -> dict[str, dict]:
    """Records of a row, its fine-tuned model, its pre-trained model and its task, and the study's config.

    Args:
        budget: as in the file name of the stored file, such as "0.25".

    Raises:
        UserError: there is no such row, or an input has changed since a record was made.
    """
    paths, cell = Paths(results), (model, task, seed)
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
    return {"row": row, "finetuned": finetuned, "pretrained": pretrained, "task": data, "config": config}


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
