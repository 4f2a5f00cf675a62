"""Compare the checkpoints that a study has pre-trained with the committed ones."""

from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from study.definition.step import parse_step
from study.running import files
from study.running.workflow import run


def compare(made: Path, committed: Path | None) -> dict[str, object]:
    """One row: hashes of both weight files, whether they are equal, and the largest difference of a weight."""
    weights = made / "model.safetensors"
    row = {"model": made.name, "made_sha256": files.sha256(weights), "committed_sha256": "", "identical": False}
    other = committed / "model.safetensors" if committed else None
    if other is None or not other.exists():
        return row | {"largest_difference": None}
    state, expected = load_file(weights), load_file(other)
    same_shapes = {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in expected.items()}
    largest = max(abs(state[n].astype("float32") - expected[n]).max() for n in state) if same_shapes else None
    sha256 = files.sha256(other)
    return row | {
        "committed_sha256": sha256,
        "identical": sha256 == row["made_sha256"],
        "largest_difference": None if largest is None else float(largest),
    }


def main() -> None:
    _, study, paths = parse_step("Compare pre-trained checkpoints with the committed ones.")
    committed = {model: study.config["models"][model].get("checkpoint") for model in study.pretrained_models}
    rows = [compare(paths.pretraining(model), folder and Path(folder)) for model, folder in committed.items()]
    table = pd.DataFrame(rows)
    files.write_csv(paths.pretraining("comparison.csv"), table)
    print(table.drop(columns=["made_sha256", "committed_sha256"]).to_string(index=False))


if __name__ == "__main__":
    run(main)
