"""Columns of a user's table: CSV, TSV, JSONL or Parquet files, or folders saved by the `datasets` library.

CSV and TSV files are read strictly: a quote in the wrong place would otherwise swallow the rows up to the next one.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ken.errors import UserError, did_you_mean
from study.definition.paths import without_split

SAVED_DATASET = ("dataset_dict.json", "state.json")  # one of these is in a folder written by `datasets.save_to_disk`
LONGEST_FIELD = 2**31 - 1  # of a CSV file, in characters; Python's default is 131,072
QUOTING = 'put a text with quotes in quotes and double those inside it ("say ""hi"""), or save the table as .jsonl'

Columns = dict[str, list]


def read_columns(path: str | Path, wanted: Sequence[str], split: str | None = None) -> Columns:
    """Name -> values of the wanted columns of a file or a saved folder.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file in UTF-8, or a folder saved by `datasets.save_to_disk`; "#name"
            after a folder of several splits selects one.
        wanted: names of columns.
        split: the split to read from a folder of several if `path` names none.

    Raises:
        UserError: the file is missing, damaged, of another kind or encoding, or lacks a column or has it twice.
    """
    file, part = without_split(path)
    if not file.exists():
        hint = ' (behind "#" stands a split of a saved folder)' if part else ""
        raise UserError(f"{file} does not exist{hint} (relative paths start at {Path.cwd()}): correct the path.")
    if file.is_dir():
        return _read_saved_dataset(file, wanted, part or split)
    if part:
        raise UserError(f'{path} names the split "{part}" of a file, but only saved folders have splits: remove it.')
    if reader := READERS.get(file.suffix.lower()):
        return _read_file(reader, file, wanted)
    extension = f'the extension "{file.suffix}"' if file.suffix else "no extension"
    kinds = f"{', '.join(READERS)} and folders saved by the datasets library"
    raise UserError(f"{file} has {extension}, which cannot be read: supported are {kinds}.")


def _check_columns(available: Iterable[str], wanted: Iterable[str], path: Path) -> None:
    """Refuse a table that lacks a wanted column or has it twice."""
    names = list(map(str, available))
    for column in wanted:
        if column not in names:
            hint = did_you_mean(column, names)
            listed = ", ".join(f'"{name}"' for name in names) or "none"
            suggestion = hint if hint.startswith(" Did") else ""
            raise UserError(f'{path} has no column "{column}", it has {listed}.{suggestion}')
        if (count := names.count(column)) > 1:
            raise UserError(f'{path} has {count} columns with the name "{column}": rename or remove all but one.')


def _read_file(reader: Callable[[Path, Sequence[str]], Columns], path: Path, wanted: Sequence[str]) -> Columns:
    """Read the wanted columns of a file; errors become one sentence."""
    import pyarrow

    try:
        return reader(path, wanted)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path} is not UTF-8 (it has a byte 0x{byte:02x}): save it again with the encoding UTF-8."
        ) from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} is damaged or not a {path.suffix} file ({reason}): write it again.") from None


@dataclass
class _Record:
    """A record of a CSV or TSV file.

    Attributes:
        fields: without quotes.
        line: number of its first line.
        raw: its lines as they stand in the file.
    """

    fields: list[str]
    line: int
    raw: list[str]


def _delimited(separator: str) -> Callable[[Path, Sequence[str]], Columns]:
    def read(path: Path, wanted: Sequence[str]) -> Columns:
        records = list(_records(path, separator))
        if not records:
            raise UserError(f"{path} is empty: it needs a header and rows.")
        header, *rows = records
        _check_columns(header.fields, wanted, path)
        indices = [header.fields.index(name) for name in wanted]
        width = len(header.fields)
        for row in rows:
            if len(row.fields) > width:
                where = f"{path} has {len(row.fields)} fields on line {row.line}, but {width} columns"
                raise UserError(f"{where}: put a text that contains {separator!r} in quotes.")
            row.fields += [""] * (width - len(row.fields))
        _check_swallowed(rows, indices, separator, path)
        return {name: [row.fields[index] for row in rows] for name, index in zip(wanted, indices, strict=True)}

    return read


def _records(path: Path, separator: str) -> Iterator[_Record]:
    """The records of a file, without blank lines.

    Raises:
        UserError: a quote is not closed, or another character than a separator follows a closing quote.
    """
    csv.field_size_limit(LONGEST_FIELD)
    raw: list[str] = []

    def kept(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            raw.append(line)
            yield line

    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(kept(file), delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise UserError(_misplaced_quote(path, line, reader.line_num, error)) from None
            if fields is None:
                return
            if fields and (len(fields) > 1 or fields[0].strip()):
                yield _Record(fields, line, raw.copy())
            raw.clear()


def _misplaced_quote(path: Path, first: int, last: int, error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return f'{path} has a quote (") in the row on line {first} that is never closed: {QUOTING}.'
    where = f"line {last}" if first == last else f"line {last}, in the row that begins on line {first}"
    return f'{path} has a quote (") in the wrong place on {where}: {QUOTING}.'


def _check_swallowed(rows: list[_Record], indices: Sequence[int], separator: str, path: Path) -> None:
    """Refuse a field of several lines if one of them is a row itself: a misplaced quote has swallowed it.

    In a TSV file, that is every field with lines and tabs. In a CSV file, where texts contain commas, it is a line with
    the right number of fields and a label that other rows have.
    """
    known = {index: {row.fields[index] for row in rows} for index in indices}
    for row in rows:
        inside = [index for index in sorted(indices) if "\n" in row.fields[index] or "\r" in row.fields[index]]
        if not inside:
            continue
        has_tabs = separator == "\t" and any("\t" in row.fields[index] for index in inside)
        for offset, line in enumerate(row.raw):
            # Fields before the long one are its row's own on the first line, and those behind it on the last.
            first, last = offset == 0, offset == len(row.raw) - 1
            others = [i for i in indices if i not in inside and not (first and i < inside[0])]
            others = [i for i in others if not (last and i > inside[-1])]
            fields = line.rstrip("\r\n").replace('"', "").split(separator)
            is_row = len(fields) == len(row.fields) and others and all(fields[i] in known[i] for i in others)
            if is_row or has_tabs:
                where = f"{path} has a field of several lines that contains the row on line {row.line + offset}"
                raise UserError(f'{where}, since a quote (") is in the wrong place there: {QUOTING}.')


def _read_jsonl(path: Path, wanted: Sequence[str]) -> Columns:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_unrepeated)
        except _RepeatedKeyError as error:
            raise UserError(f'{path} has the key "{error}" twice on line {number}: keep one of them.') from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path} has no JSON on line {number} ({error.msg}): write the file again.") from None
        if not isinstance(row, dict):
            raise UserError(f'{path} has no JSON object on line {number}: write lines like {{"text": "…"}}.')
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    _check_columns(names, wanted, path)
    return {name: [row.get(name) for row in rows] for name in wanted}


class _RepeatedKeyError(Exception):
    """An object of a JSON file has a key twice."""


def _unrepeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise _RepeatedKeyError(key)
        keys.add(key)
    return dict(pairs)


def _read_parquet(path: Path, wanted: Sequence[str]) -> Columns:
    import pyarrow.parquet

    # With Arrow, because pandas turns whole numbers with gaps into floats.
    _check_columns(pyarrow.parquet.read_schema(path).names, wanted, path)
    table = pyarrow.parquet.read_table(path)
    columns = table.select(list(wanted)).to_pydict()
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


READERS: dict[str, Callable[[Path, Sequence[str]], Columns]] = {
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
