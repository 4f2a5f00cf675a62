"""Scoring one method in a cell: store, load back, restore, evaluate, and record every row.

The stored file of a budget is written, read again and applied to the initial state, and the restored model is evaluated
on the scored texts of the test set, controls on all of it. The record of a row lies beside its stored file, which is in
memory if only its scores are kept. A row whose inputs, settings and code have not changed is taken from its record,
so a stopped run resumes where it was.
"""

import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from baselines import Cell, Method
from ken.errors import UserError
from study.cells.finetuned_cell import FinetunedCell
from study.definition.study import CONTROLS
from study.running import files, provenance, scratch
from study.training import metrics

COMPARED = (*CONTROLS, "ken")  # evaluated in float32 too, where that is not the precision: at the ends of their budgets


@dataclass
class Score:
    """One row of scores.csv.

    Attributes:
        family, unit: of the method.
        kept: entries of body and head in the stored file. kept_share: share of the body in it.
        parameters: of the restored model.
        texts: number of test texts that the scores are of.
        all_texts_weighted_f1: of a control on the whole test set, if others are scored on a part of it.
        precision: of the evaluation.
        float32_weighted_f1, changed_share: weighted F1 in float32, and the share of the predictions that differ from
            it, where the precision is another one and the row is one of `COMPARED`.
        factor: on the scales of the file, for methods that choose one on validation.
        seconds: to choose, or train, and store.
        reason: why there is no score; or, with status ok, a note on the training of the method.
        peak_mib: largest memory of the process so far.
        file: stored file, and the column of the row's predictions. sha256: its hash.
        key: hash of everything the row depends on.
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
    factor: float | None = None
    validation_weighted_f1: float | None = None
    seconds: float | None = None
    peak_mib: int | None = None
    texts: int | None = None
    all_texts_weighted_f1: float | None = None
    precision: str = ""
    float32_weighted_f1: float | None = None
    changed_share: float | None = None
    status: str = "ok"
    reason: str = ""
    file: str = ""
    sha256: str = ""
    key: str = ""


def score_method(cell: FinetunedCell, method: Method, folder: Path) -> Iterator[tuple[Score, list[int]]]:
    """Score one method at all its budgets; a row is read from its record if that has the same key.

    If the method declines or fails, its rows hold the reason. Such rows have no key and are tried again next time.

    Args:
        folder: of the method in the cell.

    Yields:
        Row and predicted class indices, of a control on the whole test set, of others on the scored texts.
    """
    budgets = cell.budgets(method)
    all_stay = all(cell.keeps_file(method, budget) for budget in budgets)
    with contextlib.nullcontext() if all_stay else scratch.folder(cell.dense_bytes, folder) as memory:
        for draw in range(cell.draws(method)):
            run = _Run(cell, method, cell.for_method(method, draw))
            for budget in budgets:
                keep = cell.keeps_file(method, budget)
                path = folder / f"draw{draw}" / f"{budget}.safetensors"
                key = cell.key(method, budget, draw)
                if (recorded := read_record(path, key, needs_file=keep)) is None:
                    row = Score(
                        **cell.axes, draw=draw, method=method.name, family=method.family, budget=budget,
                        unit=method.unit, file=str(path.relative_to(folder.parent)), key=key,
                    )  # fmt: skip
                    recorded = row, run.score(row, path, path if keep else memory / path.name)
                if not keep and recorded[0].status == "ok":
                    remove_stored(path)
                yield recorded


class _Run:
    """One draw of one method in a cell.

    Attributes:
        view: the cell in the form that methods take. start: when the work on the current budget began.
    """

    def __init__(self, cell: FinetunedCell, method: Method, view: Cell):
        self.cell, self.method, self.view = cell, method, view
        self.prepared, self.reason, self.start = None, None, time.monotonic()

    def score(self, row: Score, path: Path, stored: Path) -> list[int]:
        """Complete a row and write its record; returns the predictions, none where the row is not ok.

        Args:
            path: where the file of the row belongs, beside which its record is written.
            stored: where it is written: `path`, or a file that is removed.
        """
        predictions: list[int] = []
        try:
            if self.reason is None and not self.cell.failure:
                self.reason = self.method.decline(self.view) or ""
            if self.cell.failure:
                row.status, row.reason, row.key = "failed", self.cell.failure, ""
            elif self.reason:
                row.status, row.reason, row.key = "declined", self.reason, ""
            else:
                predictions = self._store_and_evaluate(row, stored)
                record = {"row": asdict(row), "predictions": predictions, "random_seed": self.view.seed}
                record |= {"inputs": self.cell.inputs, "made": provenance.describe_process()}
                record |= {"removed": True} if stored != path else {}
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path.with_suffix(".json"), record)
        except torch.OutOfMemoryError:  # depends on the GPU and is not a result: end the job
            raise
        except (UserError, ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
            row.status, row.reason, row.key = "failed", describe(error), ""
        if stored != path:
            stored.unlink(missing_ok=True)
        if row.status != "ok":  # of an earlier run, in which the row had a score
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
        self.start = time.monotonic()
        return predictions

    def _store_and_evaluate(self, row: Score, path: Path) -> list[int]:
        """Store one budget, load it back and evaluate the restored model."""
        cell, view = self.cell, self.view
        if self.prepared is None:
            self.prepared = self.method.prepare(view)
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = self.method.store(view, self.prepared, row.budget, path)
        row.seconds = round(time.monotonic() - self.start, 3)
        restored = self.method.restore_into(cell.model, cell.pretrained, path)
        predictions = self._evaluate(row, restored)
        head_size = sum(cell.finetuned[name].numel() for name in cell.manifest["head"])
        row.kept, row.kept_share = stored.kept + head_size, stored.kept / view.body_size
        row.parameters = stored.parameters or view.body_size + head_size
        if stored.fitted:
            row.learning_rate = stored.fitted.learning_rate
            row.validation_weighted_f1 = stored.fitted.validation_weighted_f1
            row.reason = stored.fitted.note
        if stored.factor:
            row.factor, row.validation_weighted_f1 = stored.factor.value, stored.factor.validation_weighted_f1
        row.stored_bytes, row.sha256 = path.stat().st_size, files.sha256(path)
        row.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return predictions.tolist()

    def _evaluate(self, row: Score, model: nn.Module) -> np.ndarray:
        """Predictions of a restored model, and the scores that follow from them."""
        cell, labels = self.cell, self.cell.split("scored").labels
        predictions = cell.predict(model, "test" if row.method in CONTROLS else "scored")
        scored = scored_part(predictions, cell.scored_rows)
        row.texts, row.precision = len(labels), cell.precision
        for name, value in metrics.scores(labels, scored).items():
            setattr(row, name, value)
        if len(predictions) > len(scored):
            row.all_texts_weighted_f1 = metrics.scores(cell.split("test").labels, predictions)["weighted_f1"]
        budgets = cell.budgets(self.method)
        if cell.precision != "float32" and row.method in COMPARED and row.budget in (budgets[0], budgets[-1]):
            exact = cell.predict(model, precision="float32")
            row.float32_weighted_f1 = metrics.scores(labels, exact)["weighted_f1"]
            row.changed_share = float((exact != scored).mean())
        return predictions


def scored_part(predictions: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """The predictions on the scored rows of the test set, from those on all or on the scored ones."""
    return predictions if rows is None or len(predictions) == len(rows) else predictions[rows]


def describe(error: Exception) -> str:
    """The reason of a failed row; a `UserError` is a sentence already."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def read_record(path: Path, key: str, needs_file: bool = True) -> tuple[Score, list[int]] | None:
    """Read row and predictions from the record beside a stored file; None if one is damaged or the key differs.

    Args:
        needs_file: whether the record is valid only while its stored file exists.
    """
    try:
        record = files.read_json(path.with_suffix(".json"))
        row, removed = Score(**record["row"]), record.get("removed", False)
        if row.key != key or (needs_file and removed):
            return None
        if (removed and not path.exists()) or row.sha256 == files.sha256(path):
            return row, record["predictions"]
    except (UserError, OSError, TypeError, KeyError):
        pass
    return None


def remove_stored(path: Path) -> None:
    """Remove a stored file that has been scored. This is recorded first, so that the file is no longer expected."""
    record = files.read_json(path.with_suffix(".json"))
    if not record.get("removed"):
        files.write_json(path.with_suffix(".json"), record | {"removed": True})
    path.unlink(missing_ok=True)
