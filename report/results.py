"""Reading the result files of a study, and writing whole files or none.

Everything is read as text and only the named columns become numbers: pandas would read the method "none" as missing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from report.errors import ReportError

STATUSES = ("ok", "declined", "failed")
FAMILIES = ("control", "reset", "rescaled", "other", "trained")
ROW = ("model", "task", "seed", "draw", "method", "budget")
F1_COLUMNS = ("weighted_f1", "macro_f1", "accuracy")


def read_table(path: Path, text: Sequence[str], numeric: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file: text columns as they are, numeric ones as float64 with empty cells as NaN.

    Args:
        path: the file.
        text: names of columns that must be there and stay text; so do columns that are not named.
        numeric: names of columns that must be there and hold finite numbers or nothing.
        optional: the same for columns that may be missing; they are then added, empty.

    Raises:
        ReportError: the file is missing, empty, no CSV or not as it was collected, lacks a column, or has a number
            that is none.
    """
    check_collected(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: run the step that writes it first.") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        problem = str(error).strip().splitlines()[0]
        raise ReportError(f"{path} is not a CSV table ({problem}): run the step that writes it again.") from None
    missing = [name for name in (*text, *numeric) if name not in table.columns]
    if missing:
        raise ReportError(
            f"{path} has no column {', '.join(map(repr, missing))}, expected {', '.join((*text, *numeric))}: "
            "run the step that writes it again."
        )
    for name in optional:
        if name not in table.columns:
            table[name] = ""
    for name in (*numeric, *optional):
        table[name] = _numbers(table[name], path)
    return table


def check_collected(path: Path) -> None:
    """Compare a table with its hash in collected.json beside it, if it is named there.

    Raises:
        ReportError: it was changed or damaged after it was collected.
    """
    collected = path.with_name("collected.json")
    expected = read_json(collected).get("sha256", {}).get(path.name) if path.exists() and collected.exists() else None
    if expected not in (None, sha256(path)):
        remedy = f"remove it with `rm {path}` and run the same snakemake command again"
        raise ReportError(f"{path} was changed or damaged after it was collected (its SHA-256 differs): {remedy}.")


def sha256(path: Path) -> str:
    """SHA-256 of a file, "" if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def read_if_run(path: Path, text: Sequence[str], numeric: Sequence[str]) -> pd.DataFrame:
    """As `read_table`, for a file that a study may lack: no rows if it is missing or empty."""
    if not path.exists() or not path.read_bytes().strip():
        return pd.DataFrame({name: pd.Series(dtype=str if name in text else float) for name in (*text, *numeric)})
    return read_table(path, text, numeric)


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = (column.str.strip() != "") & ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ReportError(
            f"{path} has {column.iloc[row]!r} in column {column.name!r}, row {row + 1}, expected a number or nothing: "
            "run the step that writes it again."
        )
    return numbers


def read_scores(results: Path) -> pd.DataFrame:
    """scores.csv of a study, one row a model, task, seed, draw, method and budget.

    Raises:
        ReportError: as `read_table`, or no rows, an unknown status, a score outside 0 to 1, a row twice, no `full`, an
            unknown family, a method of two families or with budgets of two units.
    """
    path = results / "scores.csv"
    numeric = ("seed", "draw", "budget", "kept", "kept_share", "stored_bytes", *F1_COLUMNS, "seconds", "peak_mib")
    text = ("model", "task", "method", "family", "unit", "status", "reason")
    scores = read_table(path, text, numeric, ("parameters", "learning_rate", "validation_weighted_f1"))
    if scores.empty:
        raise ReportError(f"{path} has no rows, expected at least one cell: run the study first.")
    unknown = sorted(set(scores["status"]) - set(STATUSES))
    if unknown:
        raise ReportError(f"{path} has the status {unknown[0]!r}, expected one of {', '.join(STATUSES)}.")
    _check_methods(scores, path)
    if not scores[["seed", "draw", "budget"]].notna().all(axis=None):
        raise ReportError(f"{path} has rows without a seed, draw or budget: run the step that writes it again.")
    ok = scores["status"] == "ok"
    for name in F1_COLUMNS:
        wrong = ok & ~scores[name].between(0, 1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ReportError(
                f"{path} has {name} {scores[name].iloc[row]} with status ok in row {row + 1}, expected 0 to 1: "
                "run the step that writes it again."
            )
    twice = scores.duplicated(list(ROW))
    if twice.any():
        row = ", ".join(str(scores.loc[twice.idxmax(), name]) for name in ROW)
        raise ReportError(f"{path} has the row {row} twice ({', '.join(ROW)}): run the step that writes it again.")
    if not (ok & (scores["method"] == "full")).any():
        raise ReportError(f"{path} has no score of the control 'full', which all others are compared with: run it too.")
    return scores


def _check_methods(scores: pd.DataFrame, path: Path) -> None:
    unknown = sorted(set(scores["family"]) - set(FAMILIES))
    if unknown:
        raise ReportError(f"{path} has the family {unknown[0]!r}, expected one of {', '.join(FAMILIES)}.")
    if (scores["unit"] == "").any():
        raise ReportError(f"{path} has rows without a unit: run the step that writes it again.")
    for name in ("family", "unit"):
        number = scores.groupby("method", sort=False)[name].nunique()
        if (number > 1).any():
            method = number.idxmax()
            found = " and ".join(dict.fromkeys(scores.loc[scores["method"] == method, name]))
            raise ReportError(f"{path} has {method!r} with {name} {found}, expected one: run the study again.")


def read_finetuning(results: Path) -> pd.DataFrame:
    """finetuning.csv of a study, one row a model, task, seed and arm (pretrained or random-init)."""
    numeric = ("seed", "learning_rate", "epochs", "best_epoch", "validation_weighted_f1", *F1_COLUMNS)
    return read_table(results / "finetuning.csv", ("model", "task", "arm"), (*numeric, "seconds", "peak_mib"))


def read_suggestions(results: Path) -> pd.DataFrame:
    """suggestions.csv of a study, one row a model, task, seed and method for which a kept share was looked for."""
    numeric = ("seed", "share", "margin", "confidence", "kept_share", "stored_bytes", *F1_COLUMNS, "full_weighted_f1")
    return read_table(results / "suggestions.csv", ("model", "task", "method"), numeric)


def read_inference(results: Path) -> pd.DataFrame:
    """inference.csv of a study, one row a model, task, seed, method, budget and form of the model; it may have no rows.

    Raises:
        ReportError: as `read_table`, or a relative time that is not above 0.
    """
    path = results / "inference.csv"
    numeric = ("seed", "budget", "parameters", "texts", "milliseconds_per_text", "relative_time", "peak_mib")
    times = read_table(path, ("model", "task", "method", "unit", "form"), numeric)
    if not (times["relative_time"] > 0).all():
        raise ReportError(f"{path} has a relative_time that is not above 0: run the step that writes it again.")
    return times


def read_tasks(results: Path) -> pd.DataFrame:
    """tasks.csv of a study, one row a task."""
    sizes = ("classes", "train", "validation", "test")
    references = ("majority_share", "majority_weighted_f1", "tfidf_weighted_f1")
    return read_table(results / "tasks.csv", ("task", "source", "class_counts", "sha256"), (*sizes, *references))


def read_models(results: Path) -> pd.DataFrame:
    """models.csv of a study, one row a model."""
    sizes = ("parameters", "body_parameters", "head_parameters")
    pretraining = ("pretraining_tokens", "pretraining_loss")
    return read_table(results / "models.csv", ("model", "architecture", "source", "sha256"), sizes, pretraining)


def read_claims(results: Path) -> pd.DataFrame:
    """claims.csv of a study, one row a claim and subject; no rows if claims were not judged."""
    text = ("claim", "source", "text", "subject", "rule", "unit", "verdict", "why")
    return read_if_run(results / "claims.csv", text, ("estimate", "low", "high", "n"))


def read_statistics(results: Path) -> dict[str, pd.DataFrame]:
    """The files of report.statistics by name, each without rows if it was not computed."""
    columns = {
        "comparisons": (
            ("model", "task", "method", "unit", "reference"),
            ("seed", "budget", "difference_points", "low", "high", "mcnemar_p", "mcnemar_p_holm"),
        ),
        "pairwise": (
            ("method", "other", "unit"),
            ("budget", "n", "difference_points", "low", "high", "wilcoxon_p", "wilcoxon_p_holm"),
        ),
        "ranks": (
            ("unit", "method"),
            ("budget", "n", "average_rank", "methods", "critical_difference", "friedman_p"),
        ),
    }
    folder = results / "statistics"
    return {name: read_if_run(folder / f"{name}.csv", *both) for name, both in columns.items()}


def read_checks(results: Path) -> pd.DataFrame:
    """checks.csv of a study, one row a cell, check, variant, method and kept share; it may have no rows.

    Raises:
        ReportError: as `read_table`, or a factor of the bandwidth that is no number.
    """
    scores = ("weighted_f1", "full_weighted_f1", "none_weighted_f1")
    numeric = ("seed", "kept_share", "stored_bytes", *scores, "parameters")
    path = results / "checks.csv"
    checks = read_if_run(path, ("model", "task", "check", "variant", "method"), numeric)
    _numbers(checks.loc[checks["check"] == "bandwidth", "variant"], path)
    return checks


def read_spread(results: Path) -> pd.DataFrame:
    """spread.csv of a study, one row a sub-network and matrix; no rows if that was not looked at."""
    ends = ("observed_{}", "{}_random", "{}_low", "{}_high")
    found = [end.format(name) for name in ("neighbours", "entropy", "moran") for end in ends]
    numeric = ("seed", "budget", "rows", "columns", "kept", *found)
    return read_if_run(results / "spread.csv", ("model", "task", "method", "matrix"), numeric)


def read_timing(results: Path) -> pd.DataFrame:
    """timing.csv of a study, one row a rule, size and k; no rows if that was not measured."""
    return read_if_run(results / "timing.csv", ("method",), ("size", "k", "seconds"))


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
        ReportError: the file is missing or holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: run the step that writes it first.") from None
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}): run the step that writes it again.") from None
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds a {type(value).__name__}, expected an object: run the step that writes it.")
    return value


def read_yaml(path: Path, holds: str) -> object:
    """What a YAML file says; `holds` tells a reader of the message what is in it.

    Raises:
        ReportError: the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: give the file with {holds}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it.") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, which then takes its place.

    The temporary name ends like `path`, for writers that look at the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))
