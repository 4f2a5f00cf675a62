"""Readers of the result files of a study, and atomic writers.

CSV files are read as text, and only the named columns become numbers: pandas would read the method "none" as missing.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from ken.errors import UserError
from ken.files import replacing

STATUSES = ("ok", "declined", "failed")
FAMILIES = ("control", "reset", "rescaled", "other", "trained")
CELL = ["model", "task", "seed"]
PAIR = ["model", "task"]
ROW = (*CELL, "draw", "method", "budget")
ALL_MODELS = "all models"  # subject of the verdict on a claim as a whole, beside those on each model or kept share
CONTROL = "control: "  # start of the subject on which a rule of no loss must be able to pass
F1_COLUMNS = ("weighted_f1", "macro_f1", "accuracy")


class Columns(NamedTuple):
    """Columns of a CSV file: required text, required numbers, and optional numbers. Others may follow."""

    text: tuple[str, ...]
    numeric: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, numeric: str, optional: str = "") -> "Columns":
        """From names that are separated by spaces."""
        return cls(tuple(text.split()), tuple(numeric.split()), tuple(optional.split()))

    @property
    def names(self) -> list[str]:
        """The required columns, text first."""
        return [*self.text, *self.numeric]


SCORES = Columns.of(
    "model task method family unit status reason",
    "seed draw budget kept kept_share stored_bytes weighted_f1 macro_f1 accuracy seconds peak_mib",
    "parameters learning_rate validation_weighted_f1 factor worst_class_f1 agreement texts all_texts_weighted_f1 "
    "float32_weighted_f1 changed_share",
)
FINETUNING = Columns.of(
    "model task arm",
    "seed learning_rate epochs best_epoch validation_weighted_f1 weighted_f1 macro_f1 accuracy seconds peak_mib",
)
TASKS = Columns.of(
    "task source class_counts sha256",
    "classes train validation test majority_share majority_weighted_f1 tfidf_weighted_f1",
    "scored_texts",
)
MODELS = Columns.of(
    "model architecture source sha256",
    "parameters body_parameters head_parameters",
    "pretraining_tokens pretraining_loss",
)
HOLDS, FAILS, OPEN, NOT_TESTED = "holds", "does not hold", "open", "not tested here"  # verdicts in claims.csv
OPEN_LOSS = "open (loss shown, size open)"  # decided against 0, but not against the margin
VERDICTS = (HOLDS, FAILS, OPEN_LOSS, OPEN, NOT_TESTED)  # in the order of the report
CLAIMS = Columns.of(
    "claim source short text subject rule rules_since unit limits verdict scope why needs", "estimate low high n"
)
PERPLEXITY = Columns.of(
    "experiment model method structure status reason file",
    "seed draw shots budget kept_share parameters stored_bytes linear_layers smaller_layers tokens "
    "loss perplexity seconds",
    "stored_share",
)
STATISTICS = {
    "comparisons": Columns.of(
        "model task method unit reference", "seed budget difference_points low high mcnemar_p mcnemar_p_holm"
    ),
    "pairwise": Columns.of("method other unit", "budget n difference_points low high wilcoxon_p wilcoxon_p_holm"),
    "to_full": Columns.of("model cells_of method unit", "budget n difference_points low high"),
    "ranks": Columns.of("unit method", "budget n average_rank methods critical_difference friedman_p"),
}


def missing(path: Path) -> UserError:
    """The error of a file that its step has not written yet."""
    return UserError(f"{path} does not exist: run the step that writes it first.")


def damaged(path: Path, problem: str) -> UserError:
    """The error of a file that its step must write again; in the message, `problem` follows the path."""
    return UserError(f"{path} {problem}: run the step that writes it again.")


def read_table(path: Path, text: Sequence[str], numeric: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file: text columns as they are, numeric ones as float64 with empty cells as NaN.

    Args:
        path: the file.
        text: required columns that stay text, as do columns that are not named.
        numeric: required columns of finite numbers or empty cells.
        optional: further such columns, which are added empty if they are missing.

    Raises:
        UserError: the file is missing, empty, not CSV or changed since it was collected, lacks a column, or has a wrong
            number.
    """
    check_collected(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise missing(path) from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise damaged(path, f"is not a CSV table ({str(error).strip().splitlines()[0]})") from None
    required = [*text, *numeric]
    if lacking := [name for name in required if name not in table.columns]:
        raise damaged(path, f"has no column {', '.join(map(repr, lacking))}, expected {', '.join(required)}")
    for name in optional:
        if name not in table.columns:
            table[name] = ""
    for name in (*numeric, *optional):
        table[name] = to_numbers(table[name], path)
    return table


def has_content(path: Path) -> bool:
    """Whether a file exists and is not blank."""
    return path.exists() and bool(path.read_bytes().strip())


def read_if_run(path: Path, columns: Columns) -> pd.DataFrame:
    """Read a table that a study may lack; a missing or empty file gives no rows."""
    if not has_content(path):
        kinds = dict.fromkeys(columns.text, str) | dict.fromkeys(columns.numeric, float)
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    return read_table(path, *columns)


def check_collected(path: Path) -> None:
    """Compare a table with its hash, if collected.json in the same folder has one.

    Raises:
        UserError: the table was changed or damaged after it was collected.
    """
    collected = path.with_name("collected.json")
    expected = read_json(collected).get("sha256", {}).get(path.name) if path.exists() and collected.exists() else None
    if expected not in (None, sha256(path)):
        remedy = f"remove it with `rm {path}` and run the same snakemake command again"
        raise UserError(f"{path} was changed or damaged after it was collected (its SHA-256 differs): {remedy}.")


def sha256(path: Path) -> str:
    """SHA-256 of a file, "" if it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def to_numbers(column: pd.Series, path: Path) -> pd.Series:
    """A text column as float64, empty cells as NaN.

    Raises:
        UserError: a cell holds something else; the message names `path`.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = (column.str.strip() != "") & ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        where = f"in column {column.name!r}, row {row + 1}"
        raise damaged(path, f"has {column.iloc[row]!r} {where}, expected a number or nothing")
    return numbers


def read_parquet(path: Path, columns: list[str] | None) -> pd.DataFrame:
    """Named columns of a Parquet file; None for all.

    Raises:
        UserError: the file is missing, malformed, or lacks a column.
    """
    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        raise damaged(path, f"cannot be read ({str(error).strip().splitlines()[0]})") from None


def why_not_stored(path: Path) -> str:
    """The reason, in scores.csv, why a row has no stored file; "" if there is none.

    Args:
        path: where the file would be, ``.../compressed/<method>/draw<n>/<budget>.safetensors``.
    """
    scores = path.parent.with_name("scores.csv")
    if path.exists() or not scores.exists():
        return ""
    table = read_table(scores, ("file", "status", "reason"), ())
    rows = table[(table["file"] == "/".join(path.parts[-3:])) & (table["status"] != "ok")]
    return rows["reason"].iloc[0] if len(rows) else ""


def read_tasks(results: Path) -> pd.DataFrame:
    """tasks.csv of a study, one row per task.

    Raises:
        UserError: see `read_table`; or a task is there twice, or lacks its number of classes or test texts, or the
            share or the score of its most common class.
    """
    path = results / "tasks.csv"
    tasks = read_table(path, *TASKS)
    if (twice := tasks["task"].duplicated()).any():
        raise damaged(path, f"has the task {tasks.loc[twice, 'task'].iloc[0]} twice")
    for name, least in {"classes": 1, "test": 1, "majority_share": 0, "majority_weighted_f1": 0}.items():
        if (wrong := ~(tasks[name] >= least)).any():
            raise damaged(path, f"has no valid {name} for the task {tasks.loc[wrong, 'task'].iloc[0]}")
    return tasks


def check_statuses(table: pd.DataFrame, path: Path) -> None:
    """Raises `UserError` if a row has an unknown status."""
    unknown = sorted(set(table["status"]) - set(STATUSES))
    if unknown:
        raise UserError(f"{path} has the status {unknown[0]!r}, expected one of {', '.join(STATUSES)}.")


def read_scores(results: Path) -> pd.DataFrame:
    """scores.csv of a study, one row per model, task, seed, draw, method and budget.

    Raises:
        UserError: see `read_table`; or there are no rows, an unknown status, a score outside 0 to 1, a duplicate row,
            no `full`, an unknown family, or a method with two families or two units.
    """
    path = results / "scores.csv"
    scores = read_table(path, *SCORES)
    if scores.empty:
        raise UserError(f"{path} has no rows, expected at least one cell: run the study first.")
    check_statuses(scores, path)
    _check_methods(scores, path)
    if not scores[["seed", "draw", "budget"]].notna().all(axis=None):
        raise damaged(path, "has rows without a seed, draw or budget")
    if (scores[["seed", "draw"]] % 1 != 0).any(axis=None):
        raise damaged(path, "has seeds or draws that are not whole numbers")
    ok = scores["status"] == "ok"
    if (ok & ~(scores["stored_bytes"] > 0)).any():
        raise damaged(path, "has rows with status ok and no stored bytes")
    for name in F1_COLUMNS:
        wrong = ok & ~scores[name].between(0, 1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = scores[name].iloc[row]
            raise damaged(path, f"has {name} {value} with status ok in row {row + 1}, expected 0 to 1")
    twice = scores.duplicated(list(ROW))
    if twice.any():
        row = ", ".join(str(scores.loc[twice.idxmax(), name]) for name in ROW)
        raise damaged(path, f"has the row {row} twice ({', '.join(ROW)})")
    full = scores["method"] == "full"
    if not (ok & full).any():
        if reasons := [reason for reason in scores.loc[full, "reason"] if reason]:
            raise UserError(f"no cell has a fine-tuned model, so there is nothing to report: {reasons[0]}")
        raise UserError(f"{path} has no score of the control 'full', which all others are compared with: run it too.")
    return scores


def _check_methods(scores: pd.DataFrame, path: Path) -> None:
    unknown = sorted(set(scores["family"]) - set(FAMILIES))
    if unknown:
        raise UserError(f"{path} has the family {unknown[0]!r}, expected one of {', '.join(FAMILIES)}.")
    if (scores["unit"] == "").any():
        raise damaged(path, "has rows without a unit")
    for name in ("family", "unit"):
        number = scores.groupby("method", sort=False)[name].nunique()
        if (number > 1).any():
            method = number.idxmax()
            values = " and ".join(dict.fromkeys(scores.loc[scores["method"] == method, name]))
            raise UserError(f"{path} has {method!r} with {name} {values}, expected one: run the study again.")


def read_claims(results: Path) -> pd.DataFrame:
    """claims.csv of a study, one row per claim and subject; no rows if the claims were not judged.

    Raises:
        UserError: see `read_table`; or an unknown verdict, a claim that is there twice for a subject, or an interval
            with one end.
    """
    path = results / "claims.csv"
    claims = read_if_run(path, CLAIMS)
    if unknown := sorted(set(claims["verdict"]) - set(VERDICTS)):
        raise damaged(path, f"has the verdict {unknown[0]!r}, expected one of {', '.join(VERDICTS)}")
    if (twice := claims.duplicated(["claim", "subject"])).any():
        row = claims[twice].iloc[0]
        raise damaged(path, f"has the claim {row['claim']} twice for {row['subject']}")
    if (claims["low"].isna() != claims["high"].isna()).any():
        raise damaged(path, "has an interval with one end")
    return claims


def shared_checkpoints(models: pd.DataFrame) -> dict[str, str]:
    """Model -> the first model with the same pre-trained weights, for those that are not the first.

    Args:
        models: rows of models.csv.
    """
    first = models.groupby("sha256", sort=False)["model"].transform("first")
    return {model: name for model, name in zip(models["model"], first, strict=True) if model != name}


def read_statistics(results: Path, name: str) -> pd.DataFrame:
    """A table of report.statistics (comparisons, pairwise, to_full or ranks); no rows if it was not computed."""
    return read_if_run(results / "statistics" / f"{name}.csv", STATISTICS[name])


def read_perplexity(results: Path) -> pd.DataFrame:
    """perplexity.csv of a study, one row per stored file; no rows if the study has no language models.

    Raises:
        UserError: see `read_table`; or an unknown status, or a row with status ok and no loss.
    """
    path = results / "perplexity.csv"
    if not path.exists():
        return read_if_run(path, PERPLEXITY)
    table = read_table(path, *PERPLEXITY)
    check_statuses(table, path)
    if table.loc[table["status"] == "ok", "loss"].isna().any():
        raise damaged(path, "has rows that are ok and have no loss")
    pruned = table["experiment"] == "pruning"  # older files lack stored_share, which differs by kept zeros only
    return table.assign(stored_share=table["stored_share"].fillna(table["kept_share"].where(pruned)))


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError as error:
        raise damaged(path, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object: run the step that writes it.")
    return value


def read_yaml(path: Path, content: str) -> object:
    """The content of a YAML file; the error message calls it `content`.

    Raises:
        UserError: the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the file with {content}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give the file with {content}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it.") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, table: pd.DataFrame, number: str | None = None) -> None:
    """Write a table as CSV; `number` is the format of its floats, e.g. "%.6g"."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format=number, lineterminator="\n")
