"""Make a finished study the committed reference: its tables, main figures and provenance.

`python -m report.reference results/mini` replaces results/reference/mini and updates the numbers in README and docs.
predictions.parquet has its test labels and predictions, from which `python -m report.claims --results
results/reference/mini --out verdicts.csv` judges the claims again. manifest.json lists the kept files with their
hashes; `python -m study.verify results/reference/mini` checks them.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from ken.errors import UserError, run
from report import documents, predictions
from report.results import read_json, sha256, write_text

MANIFEST = "manifest.json"  # of a finished study: path -> hash and bytes
KEPT = ("*.csv", "provenance.json", "collected.json", "tables/*", "statistics/pairwise.csv", "statistics/ranks.csv")
KEPT += ("statistics/to_full.csv", "figures/*.png", "tuning/*.csv", "language/*/seed*/pruning/losses.parquet")
LEFT_OUT = ("figures/model_*.png", "tables/spread_matrices.md", "tables/comparisons.md", "tables/scores_summary.md")


def files_of(results: Path) -> list[Path]:
    """Paths of the files to keep, relative to the folder of a study."""
    left_out = {path for pattern in LEFT_OUT for path in results.glob(pattern)}
    kept = {path for pattern in KEPT for path in results.glob(pattern)} - left_out
    return sorted(path.relative_to(results) for path in kept)


def keep(results: Path, folder: Path = documents.REFERENCES) -> Path:
    """Replace the reference of a study by a finished run; its learning-rate search stays if the run has none.

    Args:
        results: results folder of the run.
        folder: folder of all references.

    Returns:
        The folder written.

    Raises:
        UserError: the study is not finished, or a file was changed after its end. The reference stays as it was.
    """
    if not (results / MANIFEST).exists():
        raise UserError(f"{results} holds no finished study (no {MANIFEST}): run it to its end first.")
    listed = read_json(results / MANIFEST)
    kept, reference = files_of(results), folder / results.resolve().name
    if missing := [path for path in kept if path.as_posix() not in listed["files"]]:
        raise UserError(f"{results / missing[0]} is not in {MANIFEST}: run the study to its end again.")
    files = {name: listed["files"][name] for name in map(Path.as_posix, kept)}
    if changed := [name for name in files if sha256(results / name) != files[name]["sha256"]]:
        raise UserError(f"{results / changed[0]} was changed after the study ended: run the study to its end again.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{reference.name}.") as around:
        new = Path(around, "new")
        new.mkdir()
        if (reference / "tuning").exists():
            shutil.copytree(reference / "tuning", new / "tuning")
        for path in kept:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / path, new / path)
        predicted = new / predictions.COMMITTED
        predictions.commit(results, predicted)
        files[predicted.name] = {"bytes": predicted.stat().st_size, "sha256": sha256(predicted)}
        write_text(new / MANIFEST, json.dumps({"study": listed["study"], "files": files}, indent=2) + "\n")
        if reference.exists():  # a rename cannot replace a folder that is not empty
            os.replace(reference, Path(around, "old"))
        os.replace(new, reference)
    return reference


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep a finished study as a committed reference.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    reference = keep(parser.parse_args().results)
    documents.update()
    print(f"{len(files_of(reference))} files in {reference}")


if __name__ == "__main__":
    run(main)
