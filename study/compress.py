"""Run methods on one fine-tuned cell: store, load back, restore, evaluate.

Every number comes from a file: the stored file of a budget is written, read again and applied to the initial state, and
that restored model answers the test set. One process treats many methods of the cell, because starting Python with
torch costs more than evaluating a small model. The record of a row lies beside its stored file: rows whose inputs have
not changed are taken from there, and a run that was stopped goes on where it was.
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
from baselines.training import TrainedMethod
from study import files, metrics, provenance
from study.device import take
from study.errors import UserError, run
from study.examples import Examples, encode, load_task, predict
from study.models import empty_classifier, load_tokenizer
from study.suggest import suggest
from study.trainer import CellTraining
from study.training import CPU

RUN_SETTINGS = ("budgets", "draws", "rate_factors")  # of a method in the config; what else stands there is its own


@dataclass
class Score:
    """One row of scores.csv.

    `family` and `unit` are the method's, `kept_share` is the share of the body that the file holds, `parameters` are
    those of the restored model, `file` is the stored file and the name of the row's predictions, `sha256` the hash of
    that file, `key` one of everything the row depends on, `seconds` the time to choose, or train, and store, `peak_mib`
    the memory that the process had needed by then.
    """

    model: str
    task: str
    seed: int
    draw: int
    method: str
    family: str
    budget: float | int
    unit: str
    kept: int | None = None
    kept_share: float | None = None
    parameters: int | None = None
    stored_bytes: int | None = None
    weighted_f1: float | None = None
    macro_f1: float | None = None
    accuracy: float | None = None
    learning_rate: float | None = None
    validation_weighted_f1: float | None = None
    seconds: float | None = None
    peak_mib: int | None = None
    status: str = "ok"
    reason: str = ""
    file: str = ""
    sha256: str = ""
    key: str = ""


class FinetunedCell:
    """A fine-tuned cell on disk, ready to be compressed and evaluated.

    Args:
        folder: of the fine-tuned cell. task: task folder.
        settings: kept_shares, draws, batch_size, max_length, and methods: method -> budgets, draws, rate_factors and
            options of its own that are not those by default.
        device: on which models answer, are trained, and entries are ranked; tensors are kept on the CPU.
    """

    def __init__(self, folder: Path, task: Path, settings: dict, device: torch.device = CPU):
        self.folder, self.device = folder, device
        self.manifest = files.read_json(folder / "manifest.json")
        files.check(folder, self.manifest["sha256"])
        self.axes = {axis: self.manifest[axis] for axis in ("model", "task", "seed")}
        self.initial = load_file(folder / "initial.safetensors")
        self.pretrained = {name: tensor for name, tensor in self.initial.items() if name not in self.manifest["head"]}
        self.finetuned = load_file(folder / "model.safetensors")
        self.model = self.new_model()
        self.settings = settings
        tokenizer = load_tokenizer(folder, settings["max_length"])
        frames, classes = load_task(task)

        @functools.cache
        def split(name: str) -> Examples:
            return encode(frames[name], classes, tokenizer)

        self.split = split
        self.batch_size = settings["batch_size"]
        # A row asks for its method's hash, for which source files are parsed: once a method is enough.
        self.source_hash = functools.cache(lambda name: baselines.source_hash(baselines.METHODS[name]))
        evaluation = {key: settings[key] for key in ("batch_size", "max_length")}
        task_hashes = files.read_json(task / "manifest.json")["sha256"]
        self.inputs = {"finetuned": self.manifest["sha256"], "task": task_hashes, "evaluation": evaluation}

    def new_model(self) -> nn.Module:
        """The cell's architecture with values that mean nothing."""
        return empty_classifier(self.folder).to(self.device)

    def reset_model(self) -> None:
        """Put the initial state into the model, whatever a method has left there."""
        ken.Subnetwork.forget(self.model)
        self.model.load_state_dict(self.initial)

    def for_method(self, method: Method, draw: int) -> Cell:
        """The cell as a method sees it."""
        seed = provenance.seed_of("compress", *self.axes.values(), method.name, draw)
        training = None
        if method.needs_data:
            splits = {name: self.split(name) for name in ("train", "validation")}
            # What only looks at gradients compares them with tensors, which are on the CPU.
            device = self.device if isinstance(method, TrainedMethod) else CPU
            rates = self.rate_factors(method)
            training = CellTraining(self.folder, self.initial, self.manifest, splits, rates, device)
        return Cell(self.pretrained, self.finetuned, seed, self.model, training)

    def method(self, name: str) -> Method:
        """A registered method with the options that the config gives it."""
        return baselines.METHODS[name].configured(self._options(baselines.METHODS[name]))

    def budgets(self, method: Method) -> list:
        """What a method is asked for: what the config says of it, what it has of its own, or the kept shares."""
        return list(self._own(method).get("budgets") or method.budgets or self.settings["kept_shares"])

    def draws(self, method: Method) -> int:
        """How often a method is run."""
        return self._own(method).get("draws", self.settings["draws"]) if method.stochastic else 1

    def rate_factors(self, method: Method) -> tuple[float, ...]:
        """Learning rates that a method that trains tries, in units of the fine-tuning's; none where it does not."""
        if not isinstance(method, TrainedMethod):
            return ()
        return tuple(self._own(method).get("rate_factors") or method.rate_factors)

    def _own(self, method: Method) -> dict:
        return self.settings["methods"].get(method.name, {})

    def _options(self, method: Method) -> dict:
        return options_of(self._own(method))

    def key(self, method: Method, budget: float | int, draw: int) -> str:
        """Hash of everything a score depends on."""
        parts = [self.inputs, self.source_hash(method.name), budget, draw, torch.__version__.partition("+")[0]]
        if isinstance(method, TrainedMethod):
            parts.append([self.rate_factors(method), self.manifest["settings"]])
        if options := self._options(method):
            parts.append(options)
        return provenance.text_hash(json.dumps(parts, sort_keys=True))


def options_of(own: dict) -> dict:
    """The options of a method's own in what the config says of it."""
    return {key: value for key, value in own.items() if key not in RUN_SETTINGS}


def score(
    cell: FinetunedCell, method: Method, seen: Cell, prepared: object, row: Score, path: Path, start: float
) -> list[int]:
    """Store one budget, load it back, evaluate the restored model; fills `row` and returns the predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = method.store(seen, prepared, row.budget, path)
    row.seconds = round(time.monotonic() - start, 3)
    restored = method.restore_into(cell.model, cell.pretrained, path)
    test = cell.split("test")
    predictions = predict(restored, test, cell.batch_size)
    head_size = sum(cell.finetuned[name].numel() for name in cell.manifest["head"])
    row.kept, row.kept_share = stored.kept + head_size, stored.kept / seen.body_size
    row.parameters = stored.parameters or seen.body_size + head_size
    if stored.fitted:
        row.learning_rate = stored.fitted.learning_rate
        row.validation_weighted_f1 = stored.fitted.validation_weighted_f1
    row.stored_bytes, row.sha256 = path.stat().st_size, files.sha256(path)
    for name, value in metrics.scores(test.labels, predictions).items():
        setattr(row, name, value)
    row.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return predictions.tolist()


def rows_of(cell: FinetunedCell, method: Method, folder: Path) -> Iterator[tuple[Score, list[int]]]:
    """Scores and predictions of one method at all its budgets; what is recorded under the same key is not run again.

    A method that declines or fails gives rows that say so; failures have no key and are tried again next time.
    """
    for draw in range(cell.draws(method)):
        seen, prepared, reason = cell.for_method(method, draw), None, None
        start = time.monotonic()
        for budget in cell.budgets(method):
            path = folder / f"draw{draw}" / f"{budget}.safetensors"
            file, key = str(path.relative_to(folder.parent)), cell.key(method, budget, draw)
            if found := read_record(path, key):
                yield found
                continue
            row = Score(
                **cell.axes, draw=draw, method=method.name, family=method.family, budget=budget, unit=method.unit,
                file=file, key=key,
            )  # fmt: skip
            predictions: list[int] = []
            try:
                if reason is None:
                    reason = method.decline(seen) or ""
                if reason:
                    row.status, row.reason, row.key = "declined", reason, ""
                else:
                    if prepared is None:
                        prepared = method.prepare(seen)
                    predictions = score(cell, method, seen, prepared, row, path, start)
                    record = {"row": asdict(row), "predictions": predictions, "random_seed": seen.seed}
                    record |= {"inputs": cell.inputs, "made": provenance.made()}
                    files.write_json(path.with_suffix(".json"), record)
            except (UserError, ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
                row.status, row.reason, row.key = "failed", f"{type(error).__name__}: {error}", ""
            yield row, predictions
            start = time.monotonic()


def read_record(path: Path, key: str) -> tuple[Score, list[int]] | None:
    """Row and predictions that lie beside a stored file, if they and the file are those of this key and whole."""
    try:
        record = files.read_json(path.with_suffix(".json"))
        row = Score(**record["row"])
        if row.key == key and row.sha256 == files.sha256(path):
            return row, record["predictions"]
    except (UserError, OSError, TypeError, KeyError):
        pass
    return None


def compress(cell: FinetunedCell, methods: list[str], out: Path) -> None:
    """Write ``<out>/<method>/scores.csv`` and ``predictions.parquet`` for every method; prints progress."""
    start = time.monotonic()
    for done, name in enumerate(methods, 1):
        cell.reset_model()
        method, folder = cell.method(name), out / name
        files.remove_leftovers(folder)
        results = []
        for row, found in rows_of(cell, method, folder):
            results.append((row, found))
            if isinstance(method, TrainedMethod):
                count = len(cell.budgets(method))
                print(f"{name}: budget {row.budget} {row.status}, {len(results)} of {count} done", flush=True)
        predictions = {row.file: found for row, found in results if found}
        files.write_parquet(folder / "predictions.parquet", pd.DataFrame(predictions, dtype="int16"))
        files.write_csv(folder / "scores.csv", pd.DataFrame([asdict(row) for row, _ in results]))
        write_manifest(folder, [row for row, _ in results])
        seconds = time.monotonic() - start
        left = seconds / done * (len(methods) - done)
        print(f"{name}: {len(results)} rows, {seconds:.0f} s, about {left:.0f} s left", flush=True)


def write_manifest(folder: Path, rows: list[Score]) -> None:
    """manifest.json of a method: the hashes of its tables and of its stored files."""
    tables = {name: files.sha256(folder / name) for name in ("predictions.parquet", "scores.csv")}
    stored = {row.file.partition("/")[2]: row.sha256 for row in rows if row.sha256}
    files.write_json(folder / "manifest.json", {"sha256": tables | stored})


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress one fine-tuned cell.")
    parser.add_argument("--finetuned", required=True, type=Path, help="folder of study.finetune")
    parser.add_argument("--task-folder", required=True, type=Path)
    parser.add_argument("--methods", required=True, nargs="+", choices=sorted(baselines.METHODS))
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: see FinetunedCell")
    parser.add_argument("--suggest", type=json.loads, help="JSON: methods, margin, confidence, resolution of a search")
    parser.add_argument("--out", required=True, type=Path, help="folder of the cell")
    a = parser.parse_args()
    on = take()
    provenance.deterministic(0)
    cell = FinetunedCell(a.finetuned, a.task_folder, a.settings, on)
    compress(cell, a.methods, a.out / "compressed")
    if a.suggest:
        suggest(cell, a.suggest.pop("methods"), a.suggest, a.out / "suggested")


if __name__ == "__main__":
    run(main)
