"""What a study started from: tasks and models, their sizes and hashes."""

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd

from ken.errors import UserError
from report import style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import MODELS, TASKS
from report.table import Column, Table, TableCell

COLUMNS = {"tasks": TASKS, "models": MODELS}
SPLITS = {"test": "sha256", "validation": "validation_sha256", "train": "train_sha256"}  # split -> column of its hash


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """tasks.csv and models.csv."""
    return {"tasks": files.tasks, "models": files.models}


def page(tables: ResultTables) -> dict[str, Any]:
    """Tasks with their classes, models, and the hashes of all of them."""
    return {
        "tasks": _tasks_table(tables.tasks),
        "classes": {row.task: classes_table(row.class_counts) for row in tables.tasks.itertuples()},
        "models": _models_table(tables.models),
        "hashes": _hashes_table(tables),
    }


def _tasks_table(tasks: pd.DataFrame) -> Table:
    sizes = ("classes", "train", "validation", "test")
    return Table.of(
        [
            columns.name("Task", "task"),
            columns.name("Source", "source"),
            *(columns.number(name.capitalize(), name, style.integer) for name in sizes),
            columns.number("Majority class", "majority_share", style.share),
            columns.number("Its F1", "majority_weighted_f1", style.score),
            columns.number("TF-IDF F1", "tfidf_weighted_f1", style.score),
            _hash_column(12),
            columns.prose("Notes", lambda row: getattr(row, "notes", "")),
        ],
        tasks.itertuples(),
    )


def _hash_column(length: int | None = None) -> Column:
    return Column("SHA-256", lambda row: TableCell(row.sha256[:length], row.sha256), "code")


def _models_table(models: pd.DataFrame) -> Table:
    return Table.of(
        [
            columns.name("Model", "model"),
            columns.name("Architecture", "architecture"),
            columns.name("Source", "source"),
            columns.number("Parameters", "parameters", style.integer),
            columns.number("Body", "body_parameters", style.integer),
            columns.number("Head", "head_parameters", style.integer),
            columns.name("Pre-training", lambda row: getattr(row, "pretraining_objective", "")),
            columns.number("Its tokens", "pretraining_tokens", style.integer),
            columns.number("Its loss", "pretraining_loss", "{:.3f}".format),
            _hash_column(12),
        ],
        models.itertuples(),
    )


def classes_table(class_counts: str) -> Table:
    """Examples per class (rows) and split (columns) from the JSON of tasks.csv; one column if it has no splits."""
    try:
        counts = json.loads(class_counts)
        splits = counts if all(isinstance(split, dict) for split in counts.values()) else {"examples": counts}
        classes = dict.fromkeys(name for split in splits.values() for name in split)
        sizes = [
            columns.number(name.capitalize(), lambda row, own=own: own.get(row, 0), style.integer)
            for name, own in splits.items()
        ]
        return Table.of([columns.name("Class", lambda row: row), *sizes], classes)
    except (ValueError, AttributeError, TypeError):
        raise UserError(
            f"tasks.csv has class_counts {class_counts[:60]!r}, expected JSON with a count for every class: "
            "run the step that writes it again."
        ) from None


def _hashes_table(tables: ResultTables) -> Table:
    """Every split of the tasks, the weights of the models."""
    rows = [
        SimpleNamespace(kind="task", name=f"{row.task}, {split}", source=row.source, sha256=getattr(row, column))
        for row in tables.tasks.itertuples()
        for split, column in SPLITS.items()
        if hasattr(row, column)
    ]
    rows += [
        SimpleNamespace(kind="model", name=row.model, source=row.source, sha256=row.sha256)
        for row in tables.models.itertuples()
    ]
    names = {"Input": "kind", "Name": "name", "Source": "source"}
    return Table.of([*(columns.name(head, field) for head, field in names.items()), _hash_column()], rows)
