"""Tasks from a user's data: files or saved `datasets` folders become train, validation and test tables.

How special rows are treated (the notes of the task's manifest count them):

- a missing label, a label that is not in train, or one label in two spellings ("1" and "1.0") is refused;
- a missing or blank text is dropped from train and validation; in test it is kept as an empty text, because a
  classifier must label it;
- exact repetitions within train are dropped, and so are rows of train or validation whose text is also in a later
  split (train, validation, test);
- equal texts with different labels are kept, and texts of any length and script (the tokenizer truncates them).
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ken.errors import UserError
from study.data.table_files import read_columns
from study.definition.paths import SPLITS, without_split
from study.running import files

NAMED = 5  # largest number of row numbers in a message


def load_split(
    path: str | Path, text: str, label: str, split: str | None = None, advice: str = "fill them in or remove them"
) -> pd.DataFrame:
    """Read one split.

    Args:
        path: see `table_files.read_columns`.
        text: name of the column with the text.
        label: name of the column with the label: text, whole numbers or a `ClassLabel`, whose names are used.
        split: the split to read from a folder of several if `path` names none.
        advice: remedy to name if labels are missing.

    Returns:
        Columns text and label, both str, in the file's order. A missing or blank text is "".

    Raises:
        UserError: the file is missing, damaged, of another kind or encoding, or lacks a column or a label.
    """
    columns = read_columns(path, (text, label), split)
    labels = [_label(value, row, path) for row, value in enumerate(columns[label], start=1)]
    if missing := [row for row, value in enumerate(labels, start=1) if value == ""]:
        raise UserError(f'{path} has no label in column "{label}" at {_listed(missing, "row")}: {advice}.')
    texts = [_text(value, row, path) for row, value in enumerate(columns[text], start=1)]
    return pd.DataFrame({"text": texts, "label": labels}, dtype=str)


def prepare(spec: dict) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Read and clean the splits of a task. Without a validation file, a stratified part of train is used.

    Args:
        spec: the task's section of the config: train, test, text, label, and optionally validation, validation_share
            (default 0.1), seed (default 0) and limits.

    Returns:
        train, validation, test (columns text and label, str) and notes on dropped and moved rows.

    Raises:
        UserError: see `load_split`; or a label occurs in no training row, a split has no rows left, or a class is too
            small to be divided.
    """
    paths = {split: spec[split] for split in SPLITS if spec.get(split)}
    frames = {name: load_split(path, spec["text"], spec["label"], name) for name, path in paths.items()}
    return clean(frames, paths, spec)


def sha256(path: str | Path) -> str | dict[str, str]:
    """SHA-256 of a file that `load_split` reads, or name -> SHA-256 of the files in a saved folder."""
    path, _ = without_split(path)
    if not path.is_dir():
        return files.sha256(path)
    return {str(file.relative_to(path)): files.sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


def clean(
    frames: dict[str, pd.DataFrame], paths: dict[str, str | Path], spec: dict
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Clean the splits of a task; returns and raises as `prepare`.

    Args:
        frames: train, validation (if there is one) and test, in this order, as `load_split` returns them.
        paths: name of each split in messages.
        spec: optionally validation_share, seed and limits.
    """
    frames = dict(frames)
    _check_spellings(frames, paths)
    notes: list[str] = []
    later_texts: set[str] = set()
    for split in reversed(list(frames)):  # a text in test is removed from validation, one in either from train
        frames[split] = _cleaned(frames[split], split, later_texts, notes)
        later_texts |= set(frames[split]["text"])
        if frames[split].empty:
            reason = "; ".join(notes) or "it is empty"
            raise UserError(f"{paths[split]} has no usable rows for {split}: {reason}.")
    train = frames["train"]
    if (conflicting := int((train.groupby("text")["label"].nunique() > 1).sum())) > 0:
        notes.append(f"train: {_counted(conflicting, 'text')} with more than one label, kept")
    if "validation" not in frames:
        share, seed = spec.get("validation_share", 0.1), spec.get("seed", 0)
        frames["train"], frames["validation"] = _divided(train, share, seed, paths["train"])
        notes.append(f"validation: {_counted(len(frames['validation']), 'row')} taken from train")
    for split, limit in spec.get("limits", {}).items():
        if (rows := len(frames[split])) > limit:
            frames[split] = frames[split].sample(limit, random_state=spec.get("seed", 0)).sort_index(ignore_index=True)
            notes.append(f"{split}: {limit:,} of {rows:,} rows drawn")
    notes += _differ_in_case(frames["train"])
    for split in ("validation", "test"):
        _check_labels(frames["train"], frames[split], split, str(paths.get(split, paths["train"])))
    return frames["train"], frames["validation"], frames["test"], notes


def _cleaned(frame: pd.DataFrame, split: str, later_texts: set[str], notes: list[str]) -> pd.DataFrame:
    """A split without its unusable rows; adds their numbers to `notes`."""

    def drop(rows: pd.Series, what: str) -> None:
        nonlocal frame
        if rows.any():
            notes.append(f"{split}: {_counted(int(rows.sum()), 'row')} {what} dropped")
            frame = frame[~rows]

    blank = frame["text"] == ""
    if split == "test":
        if blank.any():
            notes.append(f"test: {_counted(int(blank.sum()), 'row')} without text, kept as empty text")
    else:
        drop(blank, "without text")
        drop(frame["text"].isin(later_texts), "whose text is also in a later split")
    if split == "train":
        drop(frame.duplicated(), "repeating an earlier one")
    return frame.reset_index(drop=True)


def _divided(train: pd.DataFrame, share: float, seed: int, path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train and validation, stratified by label; rows with equal text stay together."""
    from sklearn.model_selection import train_test_split

    texts = train.drop_duplicates("text")
    counts = texts["label"].value_counts()
    advice = "add rows or name a validation file"
    if (counts < 2).any():
        rare = sorted(counts[counts < 2].index)[0]
        raise UserError(f'label "{rare}" of {path} has only one training row, too few for a validation part: {advice}.')
    # scikit-learn needs at least one row of each class on both sides.
    size = max(len(counts), min(round(share * len(texts)), len(texts) - len(counts)))
    _, chosen = train_test_split(texts["text"], test_size=size, stratify=texts["label"], random_state=seed)
    is_validation = train["text"].isin(set(chosen))
    rest, validation = train[~is_validation].reset_index(drop=True), train[is_validation].reset_index(drop=True)
    if lost := sorted(set(train["label"]) - set(rest["label"])):
        raise UserError(f'label "{lost[0]}" of {path} has no training row left beside the validation part: {advice}.')
    return rest, validation


def _check_spellings(frames: Mapping[str, pd.DataFrame], paths: Mapping[str, str | Path]) -> None:
    """Refuse labels that are the same whole number or text but are written differently: they would be two classes."""
    seen: dict[str, tuple[str, str]] = {}  # what a label stands for -> label, split
    for split, frame in frames.items():
        for label in frame["label"].unique():
            other, elsewhere = seen.setdefault(_meaning_of(label), (label, split))
            if other != label:
                places = f"{other!a} in {paths[elsewhere]} and {label!a} in {paths[split]}"
                raise UserError(f"the same label is written in two ways, {places}: write it in one way everywhere.")


def _meaning_of(label: str) -> str:
    """A label without differences that people overlook: "1.0", "+1" and "01" are "1"; letters and accents composed."""
    if number := re.fullmatch(r"([+-]?)0*([0-9]+)(\.0*)?", label):
        sign = "-" if number[1] == "-" and number[2] != "0" else ""
        return sign + number[2]
    return unicodedata.normalize("NFC", label)


def _differ_in_case(train: pd.DataFrame) -> list[str]:
    """A note on classes that differ only in upper and lower case."""
    labels = sorted(train["label"].unique())
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(label.casefold(), []).append(label)
    return [
        f"labels {' and '.join(map(repr, group))} differ only in case, kept as {len(group)} classes"
        for group in groups.values()
        if len(group) > 1
    ]


def _check_labels(train: pd.DataFrame, other: pd.DataFrame, split: str, path: str) -> None:
    """Refuse labels that are not in the training rows."""
    if unseen := sorted(set(other["label"]) - set(train["label"])):
        count = int((other["label"] == unseen[0]).sum())
        occurs = f'label "{unseen[0]}" occurs in {split} ({path}, {_counted(count, "row")})'
        raise UserError(f"{occurs} but in no usable row of train: add training rows or remove it.")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _label(value: object, row: int, path: str | Path) -> str:
    """A label as text, "" for a missing one."""
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise UserError(f"{path} has the label {value!r} at row {row}: labels must be text or whole numbers.")
    label = _encodable(str(value)).strip()
    if "\n" in label or "\r" in label:
        raise UserError(f"{path} has a label of several lines at row {row} ({label[:40]!r}): write it on one line.")
    return label


def _text(value: object, row: int, path: str | Path) -> str:
    """A text unchanged, "" if it is missing or only white space."""
    if _is_missing(value):
        return ""
    if not isinstance(value, str | int | float):
        raise UserError(f"{path} has {type(value).__name__} instead of text at row {row}: name another column.")
    value = _encodable(str(value))
    return value if value.strip() else ""


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can express but UTF-8 cannot, by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(numbers: list[int], noun: str) -> str:
    """E.g. "rows 1, 2 and 7 more"; rows are counted from 1, without the header."""
    shown = ", ".join(map(str, numbers[:NAMED]))
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"{noun}{'' if len(numbers) == 1 else 's'} {shown}{more}"
