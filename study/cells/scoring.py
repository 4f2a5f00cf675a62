"""Scores of one method in a cell: store, load back, restore, evaluate, and keep a record of every row.

The stored file of a budget is written, read again and applied to the initial state, and the restored model is evaluated
on the test set. The record of a row lies beside its stored file. A row whose inputs, settings and code have not changed
is taken from its record, so a run that was stopped goes on where it was.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from baselines import Cell, Method
from ken.errors import UserError
from study.cells.finetuned_cell import FinetunedCell
from study.running import files, provenance
from study.training import metrics
from study.training.examples import predict


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
    keep = cell.keeps_files(method)
    for draw in range(cell.draws(method)):
        seen, prepared, reason = cell.for_method(method, draw), None, None
        start = time.monotonic()
        for budget in cell.budgets(method):
            path = folder / f"draw{draw}" / f"{budget}.safetensors"
            file, key = str(path.relative_to(folder.parent)), cell.key(method, budget, draw)
            if found := read_record(path, key, needed=keep):
                if not keep:
                    remove_stored(path)
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
                    if not keep:
                        remove_stored(path)
            except torch.OutOfMemoryError:  # of this moment or this GPU, so no result: the job ends with a sentence
                raise
            except (UserError, ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
                row.status, row.reason, row.key = "failed", f"{type(error).__name__}: {error}", ""
            yield row, predictions
            start = time.monotonic()


def read_record(path: Path, key: str, needed: bool = True) -> tuple[Score, list[int]] | None:
    """Row and predictions that lie beside a stored file, if they and the file are those of this key and whole.

    Args:
        needed: whether a row counts only with its stored file.
    """
    try:
        record = files.read_json(path.with_suffix(".json"))
        row = Score(**record["row"])
        if row.key != key or (needed and record.get("removed")):
            return None
        if (record.get("removed") and not path.exists()) or row.sha256 == files.sha256(path):
            return row, record["predictions"]
    except (UserError, OSError, TypeError, KeyError):
        pass
    return None


def remove_stored(path: Path) -> None:
    """Remove a stored file that was scored; its record says so first, so that nothing misses the file."""
    record = files.read_json(path.with_suffix(".json"))
    if not record.get("removed"):
        files.write_json(path.with_suffix(".json"), record | {"removed": True})
    path.unlink(missing_ok=True)
