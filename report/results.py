"""Reading a study's result files and the numbers that tables, figures and page all draw on.

Spread is over seeds: the draws of a stochastic method are averaged first, so that every seed counts once.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

CONTROLS = ("full", "none")
CELL = ["model", "task"]
NUMERIC = ["kept", "kept_share", "stored_bytes", "weighted_f1", "macro_f1", "accuracy", "seconds", "peak_mib"]
REQUIRED = {
    "scores": [*CELL, "seed", "draw", "method", "budget", *NUMERIC, "status", "reason"],
    "finetuning": ["model", "task", "seed", "arm", "learning_rate", "epochs", "weighted_f1"],
    "tasks": ["task", "classes", "train", "validation", "test", "majority_weighted_f1", "tfidf_weighted_f1"],
    "models": ["model", "architecture", "source", "parameters", "body_parameters", "head_parameters"],
}
LABELS = {
    "ken": "KEN",
    "ken-rescaled": "KEN, rescaled",
    "random": "random",
    "magnitude": "magnitude",
    "delta-magnitude": "Δ-magnitude",
    "full": "full",
    "none": "none",
}


class ReportError(Exception):
    """Something wrong with the result files, in one sentence for a person."""


def run(main: Callable[[], None]) -> None:
    """Run a step; a ReportError ends it with its sentence and exit status 1."""
    try:
        main()
    except ReportError as error:
        sys.exit(f"error: {error}")


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """One result table; words such as "none" stay words.

    Raises:
        ReportError: the file is missing, empty or lacks a column.
    """
    path = folder / f"{name}.csv"
    try:
        table = pd.read_csv(path, keep_default_na=False)
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: run the study first.") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ReportError(f"{path} is not a table ({error}): delete it and run the study again.") from None
    if missing := [column for column in REQUIRED[name] if column not in table]:
        raise ReportError(f'{path} has no column "{missing[0]}": it needs {", ".join(REQUIRED[name])}.')
    if table.empty:
        raise ReportError(f"{path} has no rows: run the study first.")
    for column in set(NUMERIC).intersection(table):
        table[column] = pd.to_numeric(table[column].replace("", None))
    return table


@dataclass(frozen=True)
class Results:
    """The result files of one study, and where they lie."""

    folder: Path
    scores: pd.DataFrame
    finetuning: pd.DataFrame
    tasks: pd.DataFrame
    models: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read all tables of a results folder."""
        return cls(folder, *(read_table(folder, name) for name in ("scores", "finetuning", "tasks", "models")))

    @property
    def model_names(self) -> list[str]:
        """Models in the order of the study."""
        return list(dict.fromkeys(self.scores["model"]))

    @property
    def task_names(self) -> list[str]:
        """Tasks in the order of the study."""
        return list(dict.fromkeys(self.scores["task"]))

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the study, without the controls."""
        return [method for method in dict.fromkeys(self.scores["method"]) if method not in CONTROLS]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the study."""
        return sorted(set(self.scores["seed"]))

    def provenance(self) -> dict:
        """Contents of provenance.json."""
        path = self.folder / "provenance.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}): run the study again.") from None


def label(method: str) -> str:
    """Name of a method as a reader sees it."""
    return LABELS.get(method, method)


def percent(share: float) -> str:
    """0.25 -> "25 %"; an absolute k stays as it is."""
    return f"{100 * share:g} %" if share <= 1 and not isinstance(share, int) else f"k = {share:g}"


def per_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with draws averaged: one row per model, task, seed, method and budget, only what was computed."""
    done = scores[scores["status"] == "ok"]
    keys = [*CELL, "seed", "method", "budget"]
    return done.groupby(keys, sort=False)[NUMERIC].mean().reset_index()


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of every model, task, method and budget.

    Returns:
        Columns model, task, method, budget, weighted_f1, spread (sample standard deviation over seeds, missing for one
        seed), seeds, kept, kept_share, stored_bytes, macro_f1, accuracy, to_full (difference to the full model's mean).
    """
    seeds = per_seed(scores)
    groups = seeds.groupby([*CELL, "method", "budget"], sort=False)
    table = groups[["weighted_f1", "macro_f1", "accuracy", "kept", "kept_share", "stored_bytes"]].mean()
    table["spread"] = groups["weighted_f1"].std()
    table["seeds"] = groups["seed"].nunique()
    table = table.reset_index()
    full = table[table["method"] == "full"].set_index(CELL)["weighted_f1"].rename("full")
    table = table.merge(full, on=CELL, how="left")
    table["to_full"] = table["weighted_f1"] - table.pop("full")
    return table


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Every method and budget over all models and tasks of a `summary`.

    Returns:
        Columns method, budget, cells, weighted_f1, to_full (means), low and high (quartiles of to_full over cells),
        near_full (share of cells at most one point of weighted F1 below the full model), kept_share, stored_bytes.
    """
    groups = table.groupby(["method", "budget"], sort=False)
    found = groups[["weighted_f1", "to_full", "kept_share", "stored_bytes"]].mean()
    found["low"], found["high"] = groups["to_full"].quantile(0.25), groups["to_full"].quantile(0.75)
    found["near_full"] = groups["to_full"].agg(lambda values: (values >= -0.01).mean())
    found["cells"] = groups.size()
    return found.reset_index()


def pretraining_gain(finetuning: pd.DataFrame) -> pd.DataFrame:
    """Weighted F1 from random and from pre-trained weights per model and task, and their difference in points.

    Returns:
        Columns model, task, random_init, pretrained, gain; empty if the random-init arm was not run.
    """
    means = finetuning.groupby([*CELL, "arm"], sort=False)["weighted_f1"].mean().unstack()
    if "random-init" not in means:
        return pd.DataFrame(columns=[*CELL, "random_init", "pretrained", "gain"])
    means["gain"] = 100 * (means["pretrained"] - means["random-init"])
    return means.rename(columns={"random-init": "random_init"}).reset_index().rename_axis(columns=None)


def finetuned(table: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """What there was to compress: full model, none, and the task's reference scores, per model and task."""
    controls = table[table["method"].isin(CONTROLS)]
    wide = controls.pivot(index=CELL, columns="method", values="weighted_f1").reindex(columns=list(CONTROLS))
    order = controls[CELL].drop_duplicates()
    references = tasks[["task", "majority_weighted_f1", "tfidf_weighted_f1"]]
    return order.merge(wide.reset_index(), on=CELL).merge(references, on="task")


def smallest_share(over: pd.DataFrame, method: str, loss: float = 0.01) -> float | None:
    """Smallest budget at which a method's mean loss against the full model is at most `loss`, or None."""
    rows = over[(over["method"] == method) & (over["to_full"] >= -loss)]
    return rows["budget"].min() if len(rows) else None


def not_ok(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows that a method declined or failed, with the reason."""
    rows = scores[scores["status"] != "ok"]
    return rows[[*CELL, "seed", "method", "draw", "budget", "status", "reason"]]


def in_order(values: Iterable[str], order: list[str]) -> list[str]:
    """Values sorted as they stand in `order`."""
    return sorted(values, key=order.index)
