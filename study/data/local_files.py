"""Tasks from a user's data: files or saved `datasets` folders become train, validation and test tables.

How special rows are treated (the notes of the task's manifest count them):

- a missing label, or a label that is not in train, is refused;
- a missing or blank text is dropped from train and validation; in test it is kept as an empty text, because a
  classifier must label it;
- exact repetitions within train are dropped, and so are rows of train or validation whose text is also in a later
  split (train, validation, test);
- equal texts with different labels are kept, and texts of any length and script (the tokenizer truncates them).
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from ken.errors import UserError, did_you_mean
from study.definition.paths import SPLITS
from study.running import files

SAVED_DATASET = ("dataset_dict.json", "state.json")  # one of these is in a folder written by `datasets.save_to_disk`
NAMED = 5  # largest number of row numbers in a message

Columns = dict[str, list]


def load_split(
    path: str | Path, text: str, label: str, split: str | None = None, advice: str = "fill them in or remove them"
) -> pd.DataFrame:
    """Read one split.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file in UTF-8, or a folder saved by `datasets.save_to_disk`; "#name"
            after a folder of several splits selects one.
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


def read_columns(path: str | Path, wanted: Sequence[str], split: str | None = None) -> Columns:
    """Name -> values of the wanted columns of a file or a saved folder.

    Args and errors are those of `load_split`.
    """
    name, _, part = str(path).partition("#")
    file = Path(name)
    if not file.exists():
        raise UserError(f"{file} does not exist (relative paths start at {Path.cwd()}): correct the path.")
    if file.is_dir():
        return _read_saved_dataset(file, wanted, part or split)
    if reader := READERS.get(file.suffix.lower()):
        columns = _read_file(reader, file)
        _check_columns(columns, wanted, file)
        return {column: columns[column] for column in wanted}
    extension = f'the extension "{file.suffix}"' if file.suffix else "no extension"
    kinds = f"{', '.join(READERS)} and folders saved by the datasets library"
    raise UserError(f"{file} has {extension}, which cannot be read: supported are {kinds}.")


def _check_columns(available: Iterable[str], wanted: Iterable[str], path: Path) -> None:
    names = list(map(str, available))
    for column in wanted:
        if column not in names:
            hint = did_you_mean(column, names)
            listed = ", ".join(f'"{name}"' for name in names) or "none"
            suggestion = hint if hint.startswith(" Did") else ""
            raise UserError(f'{path} has no column "{column}", it has {listed}.{suggestion}')


def prepare(spec: dict) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Read and clean the splits of a task. Without a validation file, a stratified part of train is used.

    Args:
        spec: the task's section of the config: train, test, text, label, and optionally validation, validation_share
            (default 0.1) and seed (default 0).

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
    path = Path(str(path).partition("#")[0])
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
        spec: optionally validation_share and seed.
    """
    frames = dict(frames)
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


def _check_labels(train: pd.DataFrame, other: pd.DataFrame, split: str, path: str) -> None:
    """Refuse labels that are not in the training rows."""
    if unseen := sorted(set(other["label"]) - set(train["label"])):
        count = int((other["label"] == unseen[0]).sum())
        occurs = f'label "{unseen[0]}" occurs in {split} ({path}, {_counted(count, "row")})'
        raise UserError(f"{occurs} but in no usable row of train: add training rows or remove it.")


def _read_file(reader: Callable[[Path], Columns], path: Path) -> Columns:
    """Read the columns of a file; errors become one sentence."""
    import pyarrow

    try:
        return reader(path)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path} is not UTF-8 (it has a byte 0x{byte:02x}): save it again with the encoding UTF-8."
        ) from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: it needs a header and rows.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is damaged or not a {path.suffix} file ({reason}): write it again.") from None


def _delimited(separator: str) -> Callable[[Path], Columns]:
    def read(path: Path) -> Columns:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with too many fields
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,  # "NA" and "null" are words
                index_col=False,
                encoding="utf-8-sig",
            )
        for name, values in frame.items():
            swallowed = values.str.contains("\n", na=False) & values.str.contains("\t", na=False)
            if separator == "\t" and swallowed.any():
                row = int(swallowed.to_numpy().argmax()) + 1
                where = f'{path} has lines and tabs inside one field (row {row}, column "{name}")'
                raise UserError(f'{where}: put a text that begins with " in quotes and double the quotes inside it.')
        return {name: values.tolist() for name, values in frame.items()}

    return read


def _read_jsonl(path: Path) -> Columns:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} has no JSON on line {number} ({error.msg}): write the file again.") from None
        if not isinstance(row, dict):
            raise UserError(f'{path} has no JSON object on line {number}: write lines like {{"text": "…"}}.')
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet

    # With Arrow, because pandas turns whole numbers with gaps into floats.
    table = pyarrow.parquet.read_table(path)
    columns = table.to_pydict()
    for name, names in _class_names(table.schema.metadata or {}).items():
        if name in columns:
            columns[name] = [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in columns[name]]
    return columns


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its classes, from the metadata that the datasets library writes into a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # written by another library: the column is used as it is


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_saved_dataset(path: Path, wanted: Sequence[str], split: str | None) -> Columns:
    if not any((path / name).is_file() for name in SAVED_DATASET):
        raise UserError(f"{path} is a folder that was not saved by the datasets library: name a file.")
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is a damaged datasets folder ({reason}): save it again.") from None
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            hint = did_you_mean(str(split), dataset)
            raise UserError(f'{path} has no split "{split}": name one as {path}#split.{hint}')
        dataset = dataset[split]
    _check_columns(dataset.column_names, wanted, path)
    columns: Columns = {name: dataset.with_format(None)[name][:] for name in wanted}
    for name in wanted:
        kind = dataset.features[name]
        if isinstance(kind, datasets.ClassLabel):  # -1 stands for a missing label
            columns[name] = [None if v is None or v < 0 else kind.int2str(v) for v in columns[name]]
    return columns


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
    return _encodable(str(value)).strip()


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
