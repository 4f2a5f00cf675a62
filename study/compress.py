"""Run methods on one fine-tuned cell and write their scores.

One process runs many methods of the cell, because starting Python with torch costs more than evaluating a small model.
Stored files of methods in `scores_only` are removed once they have been scored; their hash and size stay in the record.
"""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from baselines import METHODS
from baselines.training import TrainedMethod
from study.cells.finetuned_cell import FinetunedCell
from study.cells.scoring import Score, score_method, scored_part
from study.cells.suggest import suggest
from study.definition import method_settings
from study.definition.kept_files import kept_files
from study.definition.step import check_value, parse_step
from study.running import files, provenance
from study.running.device import COMPRESSION, MASKED_TRAINING, Needs, acquire_device
from study.running.workflow import run

ALL_TEXTS = "all_texts.parquet"


def compress(cell: FinetunedCell, methods: list[str], out: Path) -> None:
    """Write scores.csv, predictions.parquet and manifest.json of every method into ``<out>/<method>``.

    If compressed models are scored on a sample of the test set, the column `text` of predictions.parquet has its rows,
    and all_texts.parquet has the predictions of a control on the whole test set.
    """
    start = time.monotonic()
    if cell.failure:
        print(f"nothing to compress: {cell.failure}", flush=True)
    for done, name in enumerate(methods, 1):
        cell.reset_model()
        method, folder = cell.method(name), out / name
        files.remove_leftovers(folder)
        rows, predictions, on_all = [], {}, {}
        for row, predicted in score_method(cell, method, folder):
            rows.append(row)
            if predicted:
                predictions[row.file] = scored_part(np.array(predicted), cell.scored_rows)
                on_all |= {row.file: predicted} if len(predicted) > len(predictions[row.file]) else {}
            if isinstance(method, TrainedMethod):
                count = len(cell.budgets(method))
                print(f"{name}: budget {row.budget} {row.status}, {len(rows)} of {count} done", flush=True)
        write_predictions(folder, cell, predictions, on_all)
        files.write_csv(folder / "scores.csv", pd.DataFrame(map(asdict, rows)))
        write_manifest(folder, [row for row in rows if cell.keeps_file(method, row.budget)])
        seconds = time.monotonic() - start
        left = seconds / done * (len(methods) - done)
        print(f"{name}: {len(rows)} rows, {seconds:.0f} s, about {left:.0f} s left", flush=True)


def write_predictions(folder: Path, cell: FinetunedCell, predictions: dict, on_all: dict) -> None:
    """Write predictions.parquet, and all_texts.parquet if there are predictions on more than the scored texts."""
    kind = "int16" if cell.model.config.num_labels <= 2**15 else "int32"
    table = pd.DataFrame(predictions, dtype=kind)
    if predictions and cell.scored_rows is not None:
        table = table.assign(text=cell.scored_rows.astype("int32"))
    files.write_parquet(folder / "predictions.parquet", table)
    if on_all:
        files.write_parquet(folder / ALL_TEXTS, pd.DataFrame(on_all, dtype=kind))
    else:
        (folder / ALL_TEXTS).unlink(missing_ok=True)


def write_manifest(folder: Path, rows: list[Score]) -> None:
    """Write manifest.json of a method: the hashes of its tables and of the stored files of these rows."""
    names = [name for name in ("predictions.parquet", "scores.csv", ALL_TEXTS) if (folder / name).exists()]
    tables = {name: files.sha256(folder / name) for name in names}
    stored = {row.file.partition("/")[2]: row.sha256 for row in rows if row.sha256}
    files.write_json(folder / "manifest.json", {"sha256": tables | stored})


def main() -> None:
    method = {"help": "one method of the study; by default all that do not train"}
    a, study, paths = parse_step("Compress one fine-tuned cell.", "model", "task", "seed", method=method)
    check_value("--method", a.method, [None, *study.methods], f"a method of {study.name}")
    axes = (a.model, a.task, a.seed)
    methods = [a.method] if a.method else method_settings.by_training(study.methods)[0]
    trains = any(isinstance(METHODS[name], TrainedMethod) for name in methods)
    held = MASKED_TRAINING if trains else COMPRESSION
    on = acquire_device(Needs.of_checkpoint(paths.finetuned(*axes) / "initial.safetensors", held))
    provenance.make_deterministic(0)
    settings = study.compression_settings(methods, a.task) | {"kept_files": kept_files(study, axes)}
    cell = FinetunedCell(paths.finetuned(*axes), paths.task(a.task), settings, on)
    compress(cell, methods, paths.cell(*axes) / "compressed")
    if study.suggests and not a.method:
        suggest(cell, study.config["suggestion"], paths.suggested(*axes))


if __name__ == "__main__":
    run(main)
