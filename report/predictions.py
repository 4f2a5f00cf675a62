"""Test predictions of a study: read from its cells, or from the one file of a committed study."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ken.errors import UserError
from ken.files import replacing
from report.results import CELL, damaged, read_json, read_parquet, read_scores, read_tasks

COMMITTED = "predictions.parquet"  # in the folder of a committed study, which has neither cells nor tasks
SCORED = "text"  # column of a file of predictions: rows of the test set that models are scored on
LABELS = "labels"  # in the column `file`, for the true classes of a task
COLUMNS = [*CELL, "file", "classes"]
_CODES = np.dtype("<i4")


@dataclass(frozen=True)
class Predictions:
    """Class indices of the test examples of a study.

    Attributes:
        results: folder of the study.
        committed: the rows of a committed file, (model, task, seed, file) -> class indices; None for a whole study.
    """

    results: Path
    committed: dict[tuple, np.ndarray] | None

    @classmethod
    def of(cls, results: Path) -> "Predictions":
        """Those of a results folder.

        Raises:
            UserError: there are none, or the file of a committed study is malformed.
        """
        path = results / COMMITTED
        if not path.exists():
            if (results / "cells").is_dir():
                return cls(results, None)
            raise UserError(
                f"{results} has neither {COMMITTED} nor cells: restore one of them, or run the study again."
            )
        table = read_parquet(path, COLUMNS)
        keys = table[[*CELL, "file"]].itertuples(index=False, name=None)
        try:
            codes = [np.frombuffer(stored, _CODES) for stored in table["classes"]]
        except (TypeError, ValueError):
            raise damaged(path, "has rows that are not class indices of four bytes each") from None
        return cls(results, dict(zip(keys, codes, strict=True)))

    def labels(self, row: pd.Series) -> tuple[np.ndarray, int]:
        """Class indices of the test examples that models are scored on, and the number of classes.

        Args:
            row: a row of scores.csv with status ok, of the task. All models of a task have the same examples.

        Raises:
            UserError: a file is missing or malformed.
        """
        task = row["task"]
        if self.committed is not None:
            numbers = read_tasks(self.results).set_index("task")["classes"]
            if task not in numbers:
                raise damaged(self.results / "tasks.csv", f"lacks the task {task}")
            labels, classes = self._committed("", task, -1, LABELS), int(numbers[task])
            if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
                raise damaged(
                    self.results / COMMITTED, f"has labels of {task} that are not among its {classes} classes"
                )
            return labels, classes
        folder = self.results / "tasks" / task
        classes = read_json(folder / "manifest.json").get("classes", [])
        labels = pd.Index(classes).get_indexer(read_parquet(folder / "test.parquet", ["label"])["label"])
        if len(labels) == 0 or (labels < 0).any():
            raise UserError(
                f"{folder / 'test.parquet'} has no rows, or labels that are not among the classes of manifest.json: "
                "run the step that writes the task again."
            )
        return labels[self._scored(row, len(labels))], len(classes)

    def _scored(self, row: pd.Series, examples: int) -> np.ndarray | slice:
        """Rows of the test set that models are scored on; all, if the predictions do not name them."""
        path = self._path(*row[CELL], row["method"])
        table = read_parquet(path, None)
        if SCORED not in table:
            return slice(None)
        rows = table[SCORED].to_numpy()
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= examples:
            raise damaged(path, f"is of test texts that are not among the {examples} of the task")
        return rows

    def _path(self, model: str, task: str, seed: int, method: str) -> Path:
        return self.results / "cells" / model / task / f"seed{seed}" / "compressed" / method / "predictions.parquet"

    def of_cell(self, rows: pd.DataFrame, examples: int, classes: int) -> np.ndarray:
        """Predicted class indices of the rows of one cell, (rows, examples).

        Args:
            rows: rows of scores.csv with the same model, task and seed.
            examples: number of test examples.
            classes: number of classes of the task.

        Raises:
            UserError: a file is missing or malformed.
        """
        model, task, seed = rows.iloc[0][CELL]
        if self.committed is not None:
            found = [self._committed(model, task, seed, file) for file in rows["file"]]
            for codes in found:
                self._check(self.results / COMMITTED, codes, examples, classes)
            return np.array(found)
        by_file = {}
        for method, method_rows in rows.groupby("method", sort=False):
            path = self._path(model, task, seed, method)
            table = read_parquet(path, list(method_rows["file"]))
            self._check(path, table.to_numpy(), examples, classes)
            by_file |= {name: table[name].to_numpy() for name in table}
        return np.array([by_file[name] for name in rows["file"]])

    def _committed(self, *key: object) -> np.ndarray:
        if key not in self.committed:
            raise damaged(self.results / COMMITTED, f"has no row {', '.join(map(str, key))}")
        return self.committed[key]

    @staticmethod
    def _check(path: Path, table: np.ndarray, examples: int, classes: int) -> None:
        if len(table) != examples or not ((table >= 0) & (table < classes)).all():
            expected = f"expected {examples} class indices below {classes}"
            raise damaged(path, f"has {len(table)} predictions a row, {expected}")


def commit(results: Path, path: Path) -> None:
    """Write the labels and all predictions of a finished study into one small file, for `Predictions.of`.

    Raises:
        UserError: a file of the study is missing or malformed.
    """
    predictions, scores = Predictions.of(results), read_scores(results)
    scores = scores[scores["status"] == "ok"].astype({"seed": int})
    rows = []
    for task, cells in scores.groupby("task", sort=False):
        labels, classes = predictions.labels(cells.iloc[0])
        rows.append(("", task, -1, LABELS, labels))
        for (model, _, seed), own in cells.groupby(CELL, sort=False):
            found = predictions.of_cell(own, len(labels), classes)
            rows += [(model, task, seed, file, codes) for file, codes in zip(own["file"], found, strict=True)]
    table = pd.DataFrame([(*key, codes.astype(_CODES).tobytes()) for *key, codes in rows], columns=COLUMNS)
    with replacing(path) as temporary:
        table.to_parquet(temporary, compression="zstd", compression_level=19, index=False)
