"""Inputs of a study: tasks and models, with their sizes and hashes."""

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
    """Tables of tasks, their classes, models, and the hashes of all of them."""
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
            *columns.texts({"Task": "task", "Source": "source"}),
            *columns.numbers({name.capitalize(): name for name in sizes}, style.integer),
            columns.number("Majority class", "majority_share", style.share),
            *columns.numbers({"Its F1": "majority_weighted_f1", "TF-IDF F1": "tfidf_weighted_f1"}, style.score),
            _hash_column(12),
            columns.text("Notes", lambda row: getattr(row, "notes", ""), "prose"),
        ],
        tasks.itertuples(),
    )


def _hash_column(length: int | None = None) -> Column:
    return Column("SHA-256", lambda row: TableCell(row.sha256[:length], row.sha256), "code")


def _models_table(models: pd.DataFrame) -> Table:
    sizes = {"Parameters": "parameters", "Body": "body_parameters", "Head": "head_parameters"}
    return Table.of(
        [
            *columns.texts({"Model": "model", "Architecture": "architecture", "Source": "source"}),
            *columns.numbers(sizes, style.integer),
            columns.text("Pre-training", lambda row: getattr(row, "pretraining_objective", "")),
            columns.number("Its tokens", "pretraining_tokens", style.integer),
            columns.number("Its loss", "pretraining_loss", "{:.3f}".format),
            _hash_column(12),
        ],
        models.itertuples(),
    )


def classes_table(class_counts: str) -> Table:
    """Examples per class (rows) and split (columns), from the JSON in tasks.csv; one column if it has no splits."""
    try:
        counts = json.loads(class_counts)
        splits = counts if all(isinstance(split, dict) for split in counts.values()) else {"examples": counts}
        classes = dict.fromkeys(name for split in splits.values() for name in split)
        sizes = {name.capitalize(): lambda row, sizes=sizes: sizes.get(row, 0) for name, sizes in splits.items()}
        return Table.of([columns.text("Class", str), *columns.numbers(sizes, style.integer)], classes)
    except (ValueError, AttributeError, TypeError):
        raise UserError(
            f"tasks.csv has class_counts {class_counts[:60]!r}, expected JSON with a count for every class: "
            "run the step that writes it again."
        ) from None


def _hashes_table(tables: ResultTables) -> Table:
    """Hashes of every split of the tasks and of the weights of the models."""
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
    return Table.of([*columns.texts({"Input": "kind", "Name": "name", "Source": "source"}), _hash_column()], rows)
