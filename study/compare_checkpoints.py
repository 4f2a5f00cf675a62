"""Do checkpoints pre-trained here equal those that come with the suite?"""

import argparse
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from study.running import files
from study.running.workflow import run


def compare(made: Path, committed: Path) -> dict[str, object]:
    """One row: hashes of both weight files, whether they are equal, and the largest difference of a weight."""
    own = made / "model.safetensors"
    row = {"model": made.name, "made_sha256": files.sha256(own), "committed_sha256": "", "identical": False}
    other = committed / "model.safetensors"
    if not other.exists():
        return row | {"largest_difference": None}
    mine, theirs = load_file(own), load_file(other)
    same_shapes = {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    largest = max(abs(mine[n].astype("float32") - theirs[n]).max() for n in mine) if same_shapes else None
    sha256 = files.sha256(other)
    return row | {
        "committed_sha256": sha256,
        "identical": sha256 == row["made_sha256"],
        "largest_difference": None if largest is None else float(largest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare pre-trained checkpoints with the committed ones.")
    parser.add_argument("--made", required=True, type=Path, nargs="+", help="folders of study.pretrain")
    parser.add_argument("--committed", required=True, type=Path, nargs="+", help='as many folders, "-" for none')
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    pairs = zip(arguments.made, arguments.committed, strict=True)
    table = pd.DataFrame([compare(made, committed) for made, committed in pairs])
    files.write_csv(arguments.out, table)
    print(table.drop(columns=["made_sha256", "committed_sha256"]).to_string(index=False))


if __name__ == "__main__":
    run(main)
