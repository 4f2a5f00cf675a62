"""Run the post-hoc methods on one fine-tuned cell: store, load back, restore, evaluate.

Every number comes from a file: the stored file of a budget is written, read again and applied to the initial state, and
that restored model answers the test set. One process treats all methods of the cell, because starting Python with torch
costs more than evaluating a small model. Rows whose inputs have not changed are taken from the last run.
"""

import argparse
import functools
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

import baselines
import ken
from baselines import Cell, Method
from study import files, metrics, provenance
from study.errors import run
from study.examples import encode, load_task, predict
from study.models import empty_classifier, load_tokenizer
from study.suggest import suggest

NO_SCORE = {"weighted_f1": None, "macro_f1": None, "accuracy": None}


@dataclass
class Score:
    """One row of scores.csv.

    `file` is the stored file and the name of the row's predictions, `key` a hash of everything the row depends on,
    `seconds` the time to choose and store, `peak_mib` the memory that the process had needed by then.
    """

    model: str
    task: str
    seed: int
    draw: int
    method: str
    budget: float | int
    kept: int | None
    kept_share: float | None
    stored_bytes: int | None
    weighted_f1: float | None
    macro_f1: float | None
    accuracy: float | None
    seconds: float | None
    peak_mib: int | None
    status: str
    reason: str
    file: str
    key: str


class FinetunedCell:
    """A fine-tuned cell on disk, ready to be compressed and evaluated."""

    def __init__(self, folder: Path, task: Path, settings: dict):
        self.manifest = files.read_json(folder / "manifest.json")
        self.axes = {axis: self.manifest[axis] for axis in ("model", "task", "seed")}
        initial = load_file(folder / "initial.safetensors")
        self.pretrained = {name: tensor for name, tensor in initial.items() if name not in self.manifest["head"]}
        self.finetuned = load_file(folder / "model.safetensors")
        self.initial = initial
        self.model: nn.Module = empty_classifier(folder)
        tokenizer = load_tokenizer(folder, settings["max_length"])
        splits, classes = load_task(task)
        self.splits = {split: encode(splits[split], classes, tokenizer) for split in ("validation", "test")}
        self.batch_size = settings["batch_size"]
        # A row asks for its method's hash, for which source files are parsed: once a method is enough.
        self.source_hash = functools.cache(lambda name: baselines.source_hash(baselines.METHODS[name]))
        self.inputs = [self.manifest["sha256"], files.read_json(task / "manifest.json")["sha256"], settings]

    def reset_model(self) -> None:
        """Put the initial state into the model, whatever a method has left there."""
        ken.Subnetwork.forget(self.model)
        self.model.load_state_dict(self.initial)

    def for_method(self, method: Method, draw: int) -> Cell:
        """The cell as a method sees it."""
        seed = provenance.seed_of("compress", *self.axes.values(), method.name, draw)
        return Cell(self.pretrained, self.finetuned, seed)

    def key(self, method: Method, budget: float | int, draw: int) -> str:
        """Hash of everything a score depends on."""
        parts = [self.inputs, self.source_hash(method.name), budget, draw, torch.__version__.partition("+")[0]]
        return provenance.text_hash(json.dumps(parts, sort_keys=True))


def score(
    cell: FinetunedCell, method: Method, seen: Cell, prepared: object, row: Score, path: Path, start: float
) -> list:
    """Store one budget, load it back, evaluate the restored model; fills `row` and returns the predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = method.store(seen, prepared, row.budget, path)
    row.seconds = round(time.monotonic() - start, 3)
    method.restore_into(cell.model, cell.pretrained, path)
    predictions = predict(cell.model, cell.splits["test"], cell.batch_size)
    head_size = sum(cell.finetuned[name].numel() for name in cell.manifest["head"])
    row.kept, row.kept_share = kept + head_size, kept / seen.body_size
    row.stored_bytes = path.stat().st_size
    for name, value in metrics.scores(cell.splits["test"].labels, predictions).items():
        setattr(row, name, value)
    row.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return predictions.tolist()


def rows_of(
    cell: FinetunedCell, method: Method, budgets: list, draws: int, folder: Path, known: dict[str, tuple[Score, list]]
) -> Iterator[tuple[Score, list]]:
    """Scores and predictions of one method at all its budgets; what `known` holds under the same key is not run again.

    A method that declines or fails gives rows that say so; failures have no key and are tried again next time.
    """
    for draw in range(draws if method.stochastic else 1):
        seen, prepared, reason = cell.for_method(method, draw), None, None
        start = time.monotonic()
        for budget in method.budgets or budgets:
            path = folder / f"draw{draw}" / f"{budget}.safetensors"
            file = str(path.relative_to(folder.parent))
            key = cell.key(method, budget, draw)
            if key in known and path.is_file() and path.stat().st_size == known[key][0].stored_bytes:
                yield known[key]
                continue
            row = Score(
                **cell.axes, draw=draw, method=method.name, budget=budget, kept=None, kept_share=None,
                stored_bytes=None, **NO_SCORE, seconds=None, peak_mib=None, status="ok", reason="", file=file, key=key,
            )  # fmt: skip
            predictions: list = []
            try:
                if reason is None:
                    reason = method.decline(seen) or ""
                if reason:
                    row.status, row.reason, row.key = "declined", reason, ""
                else:
                    if prepared is None:
                        prepared = method.prepare(seen)
                    predictions = score(cell, method, seen, prepared, row, path, start)
            except (ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
                row.status, row.reason, row.key = "failed", f"{type(error).__name__}: {error}", ""
            yield row, predictions
            start = time.monotonic()


def read_known(folder: Path) -> dict[str, tuple[Score, list]]:
    """Key -> row and predictions of the last run of a method, empty if there is none or its files are damaged."""
    try:
        scores = pd.read_csv(folder / "scores.csv", keep_default_na=False, dtype={"key": str})
        predictions = pd.read_parquet(folder / "predictions.parquet")
        scores = scores[scores["status"] == "ok"]
        kinds = {name: int if "int" in str(kind) else float for name, kind in Score.__annotations__.items()}
        for name in ("kept", "kept_share", "stored_bytes", *NO_SCORE, "seconds", "peak_mib"):
            # Beside rows without a score all of these were written as text or fractions.
            scores[name] = scores[name].astype(float).astype(kinds[name])
        return {row["key"]: (Score(**row), predictions[row["file"]].tolist()) for row in scores.to_dict("records")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def compress(cell: FinetunedCell, methods: list[str], budgets: list, draws: int, out: Path) -> None:
    """Write ``<out>/<method>/scores.csv`` and ``predictions.parquet`` for every method; prints progress."""
    start = time.monotonic()
    for done, name in enumerate(methods, 1):
        folder = out / name
        cell.reset_model()
        results = list(rows_of(cell, baselines.METHODS[name], budgets, draws, folder, read_known(folder)))
        predictions = {row.file: found for row, found in results if found}
        files.write_parquet(folder / "predictions.parquet", pd.DataFrame(predictions, dtype="int16"))
        files.write_csv(folder / "scores.csv", pd.DataFrame([asdict(row) for row, _ in results]))
        seconds = time.monotonic() - start
        left = seconds / done * (len(methods) - done)
        print(f"{name}: {len(results)} rows, {seconds:.0f} s, about {left:.0f} s left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress one fine-tuned cell with the post-hoc methods.")
    parser.add_argument("--finetuned", required=True, type=Path, help="folder of study.finetune")
    parser.add_argument("--task-folder", required=True, type=Path)
    parser.add_argument("--methods", required=True, nargs="+", choices=sorted(baselines.METHODS))
    parser.add_argument("--kept-shares", required=True, type=json.loads, help="JSON list: shares, or absolute k")
    parser.add_argument("--draws", required=True, type=int, help="draws of stochastic methods")
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: batch_size, max_length")
    parser.add_argument("--suggest", type=json.loads, help="JSON: methods, margin, confidence, resolution of a search")
    parser.add_argument("--out", required=True, type=Path, help="folder of the cell")
    a = parser.parse_args()
    provenance.deterministic(0)
    cell = FinetunedCell(a.finetuned, a.task_folder, a.settings)
    compress(cell, a.methods, a.kept_shares, a.draws, a.out / "compressed")
    if a.suggest:
        suggest(cell, a.suggest.pop("methods"), a.suggest, a.out / "suggested")


if __name__ == "__main__":
    run(main)
