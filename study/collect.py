"""Bring the tables of all cells together, and compute every score again from the saved predictions.

Every score that a step wrote must follow from the predictions that lie beside it, and one row of each cell must be what
the study's `evaluate` metric says (it takes ten times as long), or the collection stops.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ken.errors import UserError
from study import checks, inference
from study.running import files, provenance
from study.running.workflow import run
from study.training import metrics
from study.training.examples import load_task

SCORES = ("weighted_f1", "macro_f1", "accuracy")


def cell_folder(results: Path, model: str, task: str, seed: int) -> Path:
    """Folder of one cell."""
    return results / "cells" / model / task / f"seed{seed}"


def read_scores(folder: Path, references: list[int], compute: Callable = metrics.scores) -> pd.DataFrame:
    """Scores of one (cell, method), checked against its predictions.

    Args:
        folder: of the method in the cell.
        references: true class indices.
        compute: scores of `references` and `predictions`, for the first row; all others have `metrics.scores`.

    Raises:
        UserError: a table was changed after it was written, or a score does not follow from the predictions.
    """
    written = files.read_json(folder / "manifest.json")["sha256"]
    tables = {name: written[name] for name in ("scores.csv", "predictions.parquet")}
    files.check(folder, tables, remove=folder / "scores.csv")
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False, na_values={"weighted_f1": [""]})
    predictions = pd.read_parquet(folder / "predictions.parquet")
    for place, row in enumerate(scores[scores["status"] == "ok"].itertuples()):
        of_row = metrics.scores if place else compute
        computed = of_row(references=references, predictions=predictions[row.file].tolist())
        for name in SCORES:
            if abs(computed[name] - float(getattr(row, name))) > 1e-9:
                raise UserError(
                    f"{folder}/scores.csv says {name} {getattr(row, name)} at budget {row.budget}, its predictions "
                    f"give {computed[name]}: delete the folder and run again."
                )
    return scores


def finetuning_table(results: Path, cells: list[tuple], random_init_seeds: list[int]) -> pd.DataFrame:
    """One row a cell and arm: settings, learning outcome, scores on test."""
    arms = [(cell, "finetuned") for cell in cells]
    arms += [(cell, "random-init") for cell in cells if cell[2] in random_init_seeds]
    rows = []
    for cell, folder in arms:
        manifest = files.read_json(cell_folder(results, *cell) / folder / "manifest.json")
        plain = ("model", "task", "seed", "arm", "best_epoch", "validation_weighted_f1", *SCORES, "seconds", "peak_mib")
        settings = {key: manifest["settings"][key] for key in ("learning_rate", "epochs")}
        rows.append({key: manifest[key] for key in plain} | settings)
    return pd.DataFrame(rows)


SUGGESTION_COLUMNS = (
    *("model", "task", "seed", "method", "share", "margin", "confidence", "resolution", "validation_full_weighted_f1"),
    *("looks", "kept_share", "stored_bytes", *SCORES, "full_weighted_f1"),
)


def cell_tables(results: Path, cells: list[tuple], name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table that every one of the cells has, one below the other; no rows where there are no cells."""
    if not cells:
        return pd.DataFrame(columns=list(columns))
    paths = [cell_folder(results, *cell) / name for cell in cells]
    for path in paths:
        manifest = path.with_suffix(".json") if path.stem == "inference" else path.with_name("manifest.json")
        files.check(path.parent, {path.name: files.read_json(manifest)["sha256"][path.name]}, remove=path)
    return pd.concat([pd.read_csv(path) for path in paths])[list(columns)]


def tasks_table(results: Path, tasks: list[str]) -> pd.DataFrame:
    """One row a task: sizes, classes, reference scores."""
    rows = []
    for task in tasks:
        manifest = files.read_json(results / "tasks" / task / "manifest.json")
        counts = manifest["counts"]
        sizes = {split: sum(counts[split].values()) for split in counts}
        rows.append(
            {
                "task": task,
                "source": manifest["spec"]["source"],
                "classes": len(manifest["classes"]),
                **sizes,
                "majority_share": max(counts["test"].values()) / sizes["test"],
                "majority_weighted_f1": manifest["reference"]["majority"]["weighted_f1"],
                "tfidf_weighted_f1": manifest["reference"]["tfidf"]["weighted_f1"],
                "class_counts": json.dumps(counts),
                "notes": "; ".join(manifest["notes"]),
                "sha256": manifest["sha256"]["test"],
                **{f"{split}_sha256": manifest["sha256"][split] for split in ("train", "validation")},
            }
        )
    return pd.DataFrame(rows)


def models_table(results: Path, models: list[str], task: str, seed: int) -> pd.DataFrame:
    """One row a model: architecture, sizes of body and head (on the first task), how it was pre-trained."""
    from safetensors import safe_open

    rows = []
    for model in models:
        imported = files.read_json(results / "models" / model / "pretrained" / "manifest.json")
        finetuned = cell_folder(results, model, task, seed) / "finetuned"
        head = set(files.read_json(finetuned / "manifest.json")["head"])
        with safe_open(finetuned / "initial.safetensors", framework="numpy") as file:
            sizes = {name: file.get_tensor(name).size for name in file.keys()}  # noqa: SIM118
        head_size = sum(size for name, size in sizes.items() if name in head)
        made = imported["pretraining"] or {}
        rows.append(
            {
                "model": model,
                "architecture": imported["architecture"],
                "source": imported["source"],
                "parameters": sum(sizes.values()),
                "body_parameters": sum(sizes.values()) - head_size,
                "head_parameters": head_size,
                "tokenizer": imported["tokenizer"],
                "pretraining_objective": made.get("objective"),
                "pretraining_tokens": made.get("tokens"),
                "pretraining_loss": made.get("validation_loss"),
                "sha256": " ".join(hash for name, hash in imported["sha256"].items() if name.endswith(".safetensors")),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect the scores of all cells of a study.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("--models", required=True, nargs="+")
    parser.add_argument("--tasks", required=True, nargs="+")
    parser.add_argument("--seeds", required=True, nargs="+", type=int)
    parser.add_argument("--methods", required=True, nargs="+")
    parser.add_argument("--trained", type=json.loads, help="JSON: model, task, seed and methods of those that train")
    parser.add_argument("--measured", action="store_true", help="inference was measured on the cells of --trained")
    parser.add_argument("--checked", action="store_true", help="checks were made on the cells of --trained")
    parser.add_argument("--random-init-seeds", nargs="*", type=int, default=[], help="seeds with a random-init arm")
    parser.add_argument("--suggested", action="store_true", help="kept shares were suggested too")
    a = parser.parse_args()
    metric = metrics.evaluate_metric()
    cells = list(itertools.product(a.models, a.tasks, a.seeds))
    trained = a.trained or {"model": [], "task": [], "seed": [], "methods": []}
    trained_cells = list(itertools.product(*(trained[axis] for axis in ("model", "task", "seed"))))
    tasks = {task: load_task(a.results / "tasks" / task) for task in a.tasks}
    tables = []
    for cell in cells:
        splits, classes = tasks[cell[1]]
        references = [classes.index(label) for label in splits["test"]["label"]]
        for place, method in enumerate([*a.methods, *(trained["methods"] if cell in trained_cells else [])]):
            folder = cell_folder(a.results, *cell) / "compressed" / method
            tables.append(read_scores(folder, references, metrics.scores if place else metric.compute))
    files.write_csv(a.results / "scores.csv", pd.concat(tables, ignore_index=True))
    files.write_csv(a.results / "finetuning.csv", finetuning_table(a.results, cells, a.random_init_seeds))
    own_tables = {
        "suggestions": (cells if a.suggested else [], "suggested/suggestions.csv", SUGGESTION_COLUMNS),
        "inference": (trained_cells if a.measured else [], "inference.csv", inference.COLUMNS),
        "checks": (trained_cells if a.checked else [], "checks/checks.csv", checks.COLUMNS),
    }
    for name, (where, file, columns) in own_tables.items():
        files.write_csv(a.results / f"{name}.csv", cell_tables(a.results, where, file, columns))
    files.write_csv(a.results / "tasks.csv", tasks_table(a.results, a.tasks))
    files.write_csv(a.results / "models.csv", models_table(a.results, a.models, a.tasks[0], a.seeds[0]))
    names = [f"{name}.csv" for name in ("scores", "finetuning", *own_tables, "tasks", "models")]
    sha256 = {name: files.sha256(a.results / name) for name in names}
    files.write_json(a.results / "collected.json", {"sha256": sha256, "made": provenance.made()})
    print(f"{sum(map(len, tables))} rows from {len(cells)} cells")


if __name__ == "__main__":
    run(main)
