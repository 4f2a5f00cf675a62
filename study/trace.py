"""Where one row of scores.csv comes from: `python -m study.trace results/mini bert library6 0 ken 0.25`.

Prints what the steps wrote down, from the row back to what the study started from: each with its settings, seed, the
hashes of its inputs, the code, the versions and the machine. Works on an unpacked archive too.
"""

import argparse
import json
from pathlib import Path

from ken.errors import UserError
from study.running import files
from study.running.workflow import run


def trace(results: Path, model: str, task: str, seed: int, method: str, budget: str, draw: int = 0) -> dict[str, dict]:
    """Records of a row, of its fine-tuned model, of its pre-trained model and of its task, and the study's config.

    Args:
        budget: as in the name of the stored file, such as "0.25".

    Raises:
        UserError: there is no such row, or a record was made from other files than those that lie there now.
    """
    cell = results / "cells" / model / task / f"seed{seed}"
    row = files.read_json(cell / "compressed" / method / f"draw{draw}" / f"{budget}.json")
    finetuned = files.read_json(cell / "finetuned" / "manifest.json")
    pretrained = files.read_json(results / "models" / model / "pretrained" / "manifest.json")
    data = files.read_json(results / "tasks" / task / "manifest.json")
    for what, made_from, there in (
        ("row", row["inputs"]["finetuned"], finetuned["sha256"]),
        ("row", row["inputs"]["task"], data["sha256"]),
        ("fine-tuned model", finetuned["inputs"]["pretrained"], pretrained["sha256"]),
        ("fine-tuned model", finetuned["inputs"]["task"], data["sha256"]),
    ):
        if made_from != there:
            raise UserError(
                f"the {what} of {cell} was made from other files than those now there: run snakemake again."
            )
    del row["predictions"]
    config = files.read_json(results / "provenance.json")["config"]
    return {"row": row, "finetuned": finetuned, "pretrained": pretrained, "task": data, "config": config}


def main() -> None:
    parser = argparse.ArgumentParser(description="Say where a row of the scores of a finished study comes from.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    for name in ("model", "task", "seed", "method", "budget"):
        parser.add_argument(name)
    parser.add_argument("--draw", type=int, default=0)
    a = parser.parse_args()
    print(json.dumps(trace(a.results, a.model, a.task, a.seed, a.method, a.budget, a.draw), indent=2))


if __name__ == "__main__":
    run(main)
