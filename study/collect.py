"""Collect the tables of all cells, and compute every score again from the saved predictions, and two more of them.

The step fails if a score does not follow from its predictions. In each cell, one row is computed by the study's
`evaluate` metric, which takes ten times as long.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from baselines import METHODS
from ken.errors import UserError
from study import checks, inference
from study.cells import suggest
from study.compress import ALL_TEXTS
from study.data.samples import sampled_rows
from study.definition import method_settings
from study.definition.paths import Paths
from study.definition.step import parse_step
from study.definition.study import Study
from study.running import files, provenance
from study.running.workflow import run
from study.training import metrics
from study.training.evaluate_metric import WeightedF1
from study.training.examples import load_task

SCORES = ("weighted_f1", "macro_f1", "accuracy")
FULL = "full/draw0/1.0.safetensors"  # column of the full model's predictions


@dataclass(frozen=True)
class References:
    """True class indices of the test texts of a task, (texts,), and the rows on which models are scored; None for all.

    A control is scored on all texts as well.
    """

    labels: np.ndarray
    rows: np.ndarray | None = None

    @property
    def scored(self) -> list[int]:
        """True class indices of the scored texts."""
        return (self.labels if self.rows is None else self.labels[self.rows]).tolist()


def read_scores(folder: Path, references: References, compute: Callable = metrics.scores) -> pd.DataFrame:
    """Read the scores of one method in a cell and check them against its predictions.

    Args:
        folder: of the method in the cell.
        compute: function of `references` and `predictions` for the first row; `metrics.scores` is used for the others.

    Raises:
        UserError: a table was changed after it was written, or a score does not follow from the predictions.
    """
    written = files.read_json(folder / "manifest.json")["sha256"]
    tables = {name: written[name] for name in ("scores.csv", "predictions.parquet", ALL_TEXTS) if name in written}
    files.check(folder, tables, remove=folder / "scores.csv")
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False, na_values={"weighted_f1": [""]})
    predictions = files.read_parquet(folder / "predictions.parquet")
    on_all = files.read_parquet(folder / ALL_TEXTS) if ALL_TEXTS in written else {}
    if "text" in predictions and not np.array_equal(predictions["text"], references.rows):
        raise UserError(f"{folder}/predictions.parquet is of other test texts: delete the folder and run again.")
    true = references.scored
    for index, row in enumerate(scores[scores["status"] == "ok"].itertuples()):
        of_row = metrics.scores if index else compute
        computed = of_row(references=true, predictions=predictions[row.file].tolist())
        wanted = SCORES
        if row.file in on_all:
            whole = metrics.scores(references.labels, on_all[row.file].to_numpy())["weighted_f1"]
            computed, wanted = computed | {"all_texts_weighted_f1": whole}, (*SCORES, "all_texts_weighted_f1")
        for name in wanted:
            if abs(computed[name] - float(getattr(row, name))) > 1e-9:
                raise UserError(
                    f"{folder}/scores.csv says {name} {getattr(row, name)} at budget {row.budget}, its predictions "
                    f"give {computed[name]}: delete the folder and run again."
                )
    return with_further_scores(scores, predictions, true, full_predictions(folder.parent))


def full_predictions(compressed: Path) -> list[int] | None:
    """Predictions of the full model in a cell, from the folder of its stored files; None if it has no score."""
    path = compressed / "full" / "predictions.parquet"
    columns = files.read_parquet(path) if path.exists() else pd.DataFrame()
    return columns[FULL].tolist() if FULL in columns else None


def with_further_scores(
    scores: pd.DataFrame, predictions: pd.DataFrame, references: list[int], full: list[int] | None
) -> pd.DataFrame:
    """The rows of a method with two scores that only the predictions give; empty for rows without a score.

    Args:
        scores: rows of scores.csv. predictions: file of a row -> predicted class indices, (texts,).
        references: true class indices, (texts,).
        full: predictions of the full model, (texts,); None if it has none, and then there is no agreement.

    Returns:
        With `worst_class_f1`, and `agreement`: the share of texts for which the full model predicts the same class.
    """
    predicted = [predictions[file].tolist() if file in predictions else None for file in scores["file"]]
    worst = [None if of_row is None else metrics.worst_class_f1(references, of_row) for of_row in predicted]
    agreement = [
        None if of_row is None or full is None else float(np.mean(np.equal(of_row, full))) for of_row in predicted
    ]
    position = list(scores.columns).index("accuracy") + 1
    scores.insert(position, "worst_class_f1", worst)
    scores.insert(position + 1, "agreement", agreement)
    return scores


def finetuning_table(folders: list[Path]) -> pd.DataFrame:
    """One row per folder of a fine-tuned model or control: settings, best epoch, scores on test.

    A training that diverged before its first evaluation has no scores. The column `note`, on trainings that diverged,
    is there only if one did.
    """
    rows = []
    for folder in folders:
        manifest = files.read_json(folder / "manifest.json")
        plain = ("model", "task", "seed", "arm", "best_epoch", "validation_weighted_f1", *SCORES, "seconds", "peak_mib")
        settings = {key: manifest["settings"][key] for key in ("learning_rate", "epochs")}
        note = {"note": manifest.get("reason") or manifest.get("diverged", "")}
        rows.append({key: manifest.get(key) for key in plain} | settings | note)
    table = pd.DataFrame(rows).astype({"best_epoch": "Int64"})
    return table if table["note"].any() else table.drop(columns="note")


def read_tables(paths: list[Path], columns: tuple[str, ...]) -> pd.DataFrame:
    """Read, check against their manifests and concatenate tables of cells; an empty table if there are no paths."""
    for path in paths:
        manifest = path.with_suffix(".json") if path.stem == "inference" else path.with_name("manifest.json")
        files.check(path.parent, {path.name: files.read_json(manifest)["sha256"][path.name]}, remove=path)
    tables = [table for path in paths if len(table := pd.read_csv(path))]  # of a failed cell: empty
    return pd.concat(tables)[list(columns)] if tables else pd.DataFrame(columns=list(columns))


def tasks_table(paths: Paths, tasks: dict[str, int | None]) -> pd.DataFrame:
    """One row per task: sizes, classes, reference scores.

    Args:
        tasks: name -> largest number of test texts on which compressed models are scored; None for all.
    """
    rows = []
    for task, scored_texts in tasks.items():
        manifest = files.read_json(paths.task(task) / "manifest.json")
        counts = manifest["counts"]
        sizes = {split: sum(counts[split].values()) for split in counts}
        rows.append(
            {
                "task": task,
                "source": manifest["spec"]["source"],
                "classes": len(manifest["classes"]),
                **sizes,
                "scored_texts": min(sizes["test"], scored_texts or sizes["test"]),
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


def models_table(paths: Paths, models: list[str], task: str, seed: int) -> pd.DataFrame:
    """One row per model: architecture, sizes of body and head (on the first task), how it was pre-trained."""
    from safetensors import safe_open

    rows = []
    for model in models:
        imported = files.read_json(paths.pretrained(model) / "manifest.json")
        finetuned = paths.finetuned(model, task, seed)
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


def read_references(folder: Path, task: str, scored_texts: int | None = None) -> References:
    """The references of a task, from its folder."""
    splits, classes = load_task(folder)
    labels = pd.Index(classes).get_indexer(splits["test"]["label"])
    return References(labels, sampled_rows(labels, scored_texts, task, "test"))


def scores_table(study: Study, paths: Paths) -> pd.DataFrame:
    """Read the scores of every method in each of its cells and check them against the saved predictions."""
    metric, tables = WeightedF1(keep_in_memory=True), []
    post_hoc, trained = method_settings.by_training(study.methods)
    tasks = study.axes["task"]
    true = {task: read_references(paths.task(task), task, study.scored_texts(task)) for task in tasks}
    for cell in study.cells:
        references = true[cell[1]]
        for index, method in enumerate([*post_hoc, *(trained if cell in study.trained_cells else [])]):
            folder = paths.compressed(*cell, method)
            tables.append(read_scores(folder, references, metrics.scores if index else metric.compute))
    return pd.concat(tables, ignore_index=True)


def searched_constants(study: Study) -> dict[str, dict[str, list[float]]]:
    """Method -> the constants that it chooses on validation, with the values that it tries."""
    sections = study.config["method_settings"]
    constants = {name: method_settings.searched(METHODS[name], sections.get(name, {})) for name in study.methods}
    return {name: values for name, values in constants.items() if values}


def main() -> None:
    _, study, paths = parse_step("Collect the results of all cells of a study.")
    first_task, first_seed = study.axes["task"][0], study.axes["seed"][0]
    folders = [paths.finetuned(*cell) for cell in study.cells]
    folders += [paths.random_init(*cell) for cell in study.random_init_cells]
    searched = study.cells if study.suggests else []
    measured = study.trained_cells if study.config["inference"]["methods"] else []
    ablated = study.trained_cells if study.has_ablations else []
    tables = {
        "scores": scores_table(study, paths),
        "finetuning": finetuning_table(folders),
        "suggestions": read_tables([paths.suggested(*cell) / "suggestions.csv" for cell in searched], suggest.COLUMNS),
        "inference": read_tables([paths.inference(*cell) for cell in measured], inference.COLUMNS),
        "checks": read_tables([paths.checks(*cell) / "checks.csv" for cell in ablated], checks.COLUMNS),
        "tasks": tasks_table(paths, {task: study.scored_texts(task) for task in study.axes["task"]}),
        "models": models_table(paths, study.axes["model"], first_task, first_seed),
    }
    for name, table in tables.items():
        files.write_csv(paths.table(name), table)
    sha256 = {f"{name}.csv": files.sha256(paths.table(name)) for name in tables}
    made = provenance.describe_process()
    files.write_json(paths.collected, {"sha256": sha256, "searched": searched_constants(study), "made": made})
    print(f"{len(tables['scores'])} rows from {len(study.cells)} cells")


if __name__ == "__main__":
    run(main)
