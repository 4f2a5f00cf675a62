"""Write a board: several finished studies side by side in one HTML file, without further files or network.

`python -m report.board results/mini results/reference/small --out results/board.html` writes results/board.html.
Without folders, it takes every finished study in results/reference and results. Nothing is averaged over studies.
Columns are grouped by the data of the studies, and a verdict by another rule than that of the newest study is marked.
"""

import argparse
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ken.errors import UserError, run
from report import style
from report import table as columns
from report.measurements import frontier, verdicts
from report.measurements.contract import ResultFiles
from report.page import provenance_of, source, template
from report.results import CELL, damaged, read_claims, read_table, write_text
from report.scores import of_finetuned_cells
from report.table import Column, Table, TableCell
from report.tables import count

RESULTS = Path("results")
REFERENCE = RESULTS / "reference"
FINISHED = ("scores.csv", "provenance.json", "claims.csv", "tables/counts.json")  # in the order of the steps
DIGITS = 8  # of a shortened hash or commit
UNITS = {"points": " points", "percent": f"{style.NO_BREAK_SPACE}%"}  # behind an estimate; others as named
OTHER = "other rule"


@dataclass(frozen=True, eq=False)
class Study:
    """A finished study.

    Attributes:
        folder: its results folder. label: its name, with the folder if another study has the same name.
        created: when its results were collected. claims: rows of claims.csv. smallest: rows of smallest_files.csv over
            all cells.
    """

    folder: Path
    label: str
    provenance: dict
    created: datetime
    files: ResultFiles
    claims: pd.DataFrame
    smallest: pd.DataFrame

    @cached_property
    def counts(self) -> dict:
        """Names and numbers of models, tasks, seeds and methods."""
        return count(self.files.scores)

    @cached_property
    def task_hashes(self) -> dict[str, str]:
        """Task -> SHA-256 of the hashes of all its splits."""
        return _hashes(self.files.tasks, "task")

    @cached_property
    def data(self) -> str:
        """Short hash of the tasks: their names and all splits."""
        return _sha256(sorted(self.task_hashes.items()))[:DIGITS]

    @property
    def code(self) -> str:
        """Short commit, and whether the code differed from it."""
        changed = " with changes not committed" if self.provenance["dirty"] else ""
        return f"{self.provenance['commit'][:DIGITS]}{changed}"

    @cached_property
    def cells(self) -> frozenset[tuple]:
        """Model, task, seed, and the hashes of model and task, for each cell with a fine-tuned model."""
        models = _hashes(self.files.models, "model")
        cells = of_finetuned_cells(self.files.scores)[CELL].drop_duplicates().itertuples(index=False)
        return frozenset((*cell, models.get(cell.model), self.task_hashes.get(cell.task)) for cell in cells)

    @property
    def rules_since(self) -> str:
        """The commit of its rules and its date, "" if not recorded."""
        return str(self.claims["rules_since"].iloc[0]) if len(self.claims) else ""


@dataclass(frozen=True)
class BoardCell:
    """The verdict of one study on one claim.

    Attributes:
        word: the verdict, as the study has it. mark: its sign. kind: class of the style. small: estimate with interval,
            or the verdicts case by case. scope: what it is limited to. flag: why it is not comparable with that of the
            newest study; "" if it is.
    """

    word: str
    mark: str
    kind: str
    small: str
    scope: str
    flag: str


@dataclass(frozen=True)
class BoardRow:
    """A claim with a cell per study, None where a study has no verdict, and its rules: (rule, since) -> studies.

    Its short name is "" if no study records one.
    """

    claim: str
    short: str
    text: str
    cells: list[BoardCell | None]
    rules: dict[tuple[str, str], list[str]]


def _sha256(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _hashes(table: pd.DataFrame, name: str) -> dict[str, str]:
    """Name -> one hash of all columns of hashes (of models.csv or tasks.csv)."""
    hashes = [column for column in table.columns if column.endswith("sha256")]
    return {key: _sha256(values) for key, *values in columns.tuples(table, [name, *sorted(hashes)])}


def lacking(folder: Path) -> str:
    """The first file that a finished study has and this folder lacks; "" if the study is finished."""
    return next((name for name in FINISHED if not (folder / name).is_file()), "")


def is_results_folder(folder: Path) -> bool:
    """Whether a folder holds a study, finished or not."""
    return any((folder / name).is_file() for name in ("config.json", *FINISHED))


def find_studies() -> tuple[list[Path], list[str]]:
    """The finished studies in results/reference and results, and why the others cannot be shown.

    Raises:
        UserError: there is no finished study.
    """
    folders = [*sorted(REFERENCE.glob("*")), *sorted(RESULTS.glob("*"))]
    problems = {folder: problem_of(folder) for folder in folders if is_results_folder(folder)}
    finished = [folder for folder, problem in problems.items() if not problem]
    if not finished:
        raise UserError(f"{RESULTS} holds no finished study: run `make study` first, or name other folders.")
    return finished, list(filter(None, problems.values()))


def problem_of(folder: Path) -> str:
    """Why the study of a folder cannot be shown; "" if it can."""
    if name := lacking(folder):
        return f"{folder} is not finished (no {name})"
    try:
        render(read_studies([folder]))
    except (UserError, OSError) as error:
        return str(error)
    return ""


def check_folders(folders: Sequence[Path]) -> None:
    """Check that all folders are different finished studies.

    Raises:
        UserError: a folder is named twice, is no results folder, or its study is not finished.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        if not is_results_folder(folder):
            raise UserError(f"{folder} is no results folder of a study: name one, for example results/mini.")
        if name := lacking(folder):
            raise UserError(f"{folder} holds no finished study (no {name}): finish it with snakemake, or leave it out.")
        if (first := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise UserError(f"{folder} and {first} are the same folder: name it once.")


def read_study(folder: Path, provenance: dict, label: str) -> Study:
    """A finished study.

    Raises:
        UserError: a file is missing or damaged.
    """
    files, claims = ResultFiles(folder), read_claims(folder)
    if claims.empty:
        raise damaged(folder / "claims.csv", "has no rows")
    smallest = read_table(folder / "tables" / "smallest_files.csv", *frontier.COLUMNS["smallest_files"])
    created, smallest = _created(folder, provenance), frontier.over_all_cells(smallest)
    return Study(folder, label, provenance, created, files, claims, smallest)


def _created(folder: Path, provenance: dict) -> datetime:
    try:
        created = datetime.fromisoformat(provenance["created"])
    except ValueError:
        problem = f"has the date {provenance['created']!r} under 'created', expected one such as 2026-01-31T12:00:00"
        raise damaged(folder / "provenance.json", problem) from None
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def read_studies(folders: Sequence[Path]) -> list[Study]:
    """The studies, those of the same data next to each other, and within the same data those of the same code.

    Raises:
        UserError: see `check_folders` and `read_study`.
    """
    check_folders(folders)
    records = [provenance_of(folder) for folder in folders]
    names = [record["study"] for record in records]
    labels = [
        f"{name} ({folder.as_posix()})" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]
    studies = [read_study(*parts) for parts in zip(folders, records, labels, strict=True)]
    data = list(dict.fromkeys(study.data for study in studies))
    codes = list(dict.fromkeys(study.code for study in studies))
    return sorted(studies, key=lambda study: (data.index(study.data), codes.index(study.code)))


def data_spans(studies: Sequence[Study]) -> list[int]:
    """For each study, how many from it on have the same data; 0 if it is not the first of them."""
    groups = [list(group) for _, group in itertools.groupby(studies, key=lambda study: study.data)]
    return [number for group in groups for number in (len(group), *[0] * (len(group) - 1))]


def verdict_rows(studies: Sequence[Study]) -> dict[str, list[BoardRow]]:
    """Source of claims -> a row per claim, in the order of the newest study that has it."""
    newest_first = sorted(studies, key=lambda study: study.created, reverse=True)
    sources: dict[str, list[str]] = {origin: [] for origin in verdicts.SOURCES}
    newest: dict[str, pd.DataFrame] = {}
    for study in newest_first:
        for (origin, claim), rows in study.claims.groupby(["source", "claim"], sort=False):
            if claim not in newest:
                sources.setdefault(origin, []).append(claim)
                newest[claim] = rows
    return {
        verdicts.SOURCES.get(origin, origin): [_row(claim, newest[claim], studies) for claim in claims]
        for origin, claims in sources.items()
        if claims
    }


def _row(claim: str, newest: pd.DataFrame, studies: Sequence[Study]) -> BoardRow:
    cells: list[BoardCell | None] = []
    rules: dict[tuple[str, str], list[str]] = {}
    for study in studies:
        rows = study.claims[study.claims["claim"] == claim]
        cells.append(_cell(rows, newest) if len(rows) else None)
        if len(rows):
            rules.setdefault(_rule(rows), []).append(study.label)
    first = newest.iloc[0]
    return BoardRow(claim, first["short"], first["text"], cells, rules)


def _rule(rows: pd.DataFrame) -> tuple[str, str]:
    """The rule of a claim in words, and since when the file of rules is unchanged ("" if not recorded)."""
    first = rows.iloc[0]
    return first["rule"], first["rules_since"]


def _cell(rows: pd.DataFrame, newest: pd.DataFrame) -> BoardCell | None:
    """The verdict on a claim as a whole, from its rows in a study and in the newest study."""
    whole = verdicts.whole(rows)
    if whole.empty:
        return None
    row, flag = whole.iloc[0], _flag(rows, newest)
    word, small = row["verdict"], _estimate(row)
    if word == verdicts.MIXED:
        words = rows.loc[~rows["subject"].str.startswith(verdicts.CONTROL), "verdict"]
        small = ", ".join(f"{number} {each}" for each, number in words.value_counts(sort=False).items())
    kind = "" if flag else verdicts.CLASSES[word]
    return BoardCell(word, verdicts.MARKS[word], kind, small, row["scope"], flag)


def _estimate(row: Any) -> str:
    """An estimate with its interval and unit: "−6.18 points (−12.33 to −0.69)"; "" if there is none."""
    estimate, interval = verdicts.estimate(row)
    ends = f" ({interval.replace(' ', style.NO_BREAK_SPACE)})" if interval else ""
    return f"{estimate}{UNITS.get(row.unit, f' {row.unit}')}{ends}" if estimate else ""


def _flag(rows: pd.DataFrame, newest: pd.DataFrame) -> str:
    """Why a verdict is not comparable with that of the newest study; "" if it is."""
    (rule, since), (newest_rule, newest_since) = _rule(rows), _rule(newest)
    if rule != newest_rule:
        return OTHER
    if since != newest_since:
        return f"rules of {(since.split() or ['an unknown commit'])[0]}"
    return ""


def best_files(studies: Sequence[Study], within: float) -> Table:
    """The smallest file of every method (rows) in every study (columns) that loses at most `within` points on average.

    Methods are sorted by that file in the first study that has one. Those that are nowhere that near come last.
    """
    found = [_smallest(study, within) for study in studies]
    methods = dict.fromkeys(method for study in studies for method in study.counts["methods"])

    def rank(method: str) -> tuple[int, float]:
        sizes = [rows[method].stored_share if method in rows else float("nan") for rows in found]
        return next(((at, size) for at, size in enumerate(sizes) if not pd.isna(size)), (len(sizes), 0.0))

    def column(study: Study, rows: dict[str, Any]) -> Column:
        best = min((row.stored_share for row in rows.values() if not pd.isna(row.stored_share)), default=None)
        head = f"{study.label} · data {study.data} · code {study.code}"
        return Column(head, lambda method: _file_cell(study, method, rows.get(method), best), "number")

    shown = sorted((method for method in methods if method not in style.CONTROLS), key=rank)
    heads = [column(study, rows) for study, rows in zip(studies, found, strict=True)]
    return Table.of([columns.text("Method", style.label), *heads], shown)


def _smallest(study: Study, within: float) -> dict[str, Any]:
    """Method -> its row of smallest_files.csv."""
    rows = study.smallest[study.smallest["within"] == within]
    return {row.method: row for row in rows.itertuples()}


def _file_cell(study: Study, method: str, row: Any, best: float | None) -> TableCell:
    if method not in study.counts["methods"]:
        return TableCell("not run", marks="control")
    if row is None:
        scores = study.files.scores
        scored = ((scores["method"] == method) & (scores["status"] == "ok")).any()
        return TableCell("in some cells only" if scored else "no score", marks="control")
    marks = " ".join(["best"] * (row.stored_share == best) + ["near"] * (row.low >= -row.within))
    behind = f"{style.budget_label(row.budget, row.unit)}; {style.points(row.difference_points, 2)}"
    return columns.number_cell(row.stored_share, style.percent, marks, behind) if row.cells > 0 else TableCell()


def overlaps(studies: Sequence[Study]) -> Iterator[str]:
    """A sentence for each two studies of which one has all cells of the other: model, task, seed, weights and data."""
    for first, second in itertools.combinations(studies, 2):
        small, large = sorted((first, second), key=lambda study: len(study.cells))
        if not small.cells or not small.cells <= large.cells:
            continue
        cells = f"{style.count(len(small.cells), 'cell')} (model, task, seed, data)"
        if small.cells == large.cells:
            which = f"The studies {first.label} and {second.label} have the same {cells}"
        else:
            one = len(small.cells) == 1
            which = f"{'The' if one else 'All'} {cells} of {small.label} {'is' if one else 'are'} also in {large.label}"
        yield f"{which}, so they are not independent evidence."


def facts(study: Study) -> dict[str, str]:
    """What a study is and how it was made, as name -> text."""
    provenance, counts = study.provenance, study.counts
    makers = [maker for maker in provenance.get("makers") or [] if isinstance(maker, dict)]
    others = {str(maker.get("commit"))[:DIGITS] for maker in makers} - {provenance["commit"][:DIGITS]}
    tasks = [f"{row.task} {row.sha256[:DIGITS]}" for row in study.files.tasks.itertuples()]
    return {
        "Folder": study.folder.as_posix(),
        "Code": study.code + (f"; some records made at {', '.join(sorted(others))}" if others else ""),
        "Collected": f"{study.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "Rules": f"wording unchanged since {study.rules_since}" if study.rules_since else "commit not recorded",
        "Data": f"{study.data} ({', '.join(tasks)})",
        "Models": ", ".join(counts["models"]),
        "Tasks": ", ".join(counts["tasks"]),
        "Seeds": ", ".join(map(str, counts["seeds"])),
        "Cells": f"{counts['cells']}, with {style.count(len(set(counts['methods']) - set(style.CONTROLS)), 'method')}",
        "Machine": _machine(provenance["machine"]),
        "Time": _time(study.folder / "provenance.json", provenance),
    }


def _machine(machine: dict) -> str:
    cores, memory, gpu = (machine.get(name) for name in ("cores", "memory_gib", "gpu"))
    parts = [machine.get("cpu"), cores and f"{cores} cores", memory and f"{memory} GiB", gpu or "no GPU"]
    return ", ".join(str(part) for part in parts if part)


def _time(path: Path, provenance: dict) -> str:
    seconds = [*provenance["seconds"].values(), wall := provenance.get("wall_seconds") or 0]
    if not all(isinstance(value, int | float) for value in seconds):
        raise damaged(path, "has a time that is no number of seconds")
    parts = [f"{wall / 60:.0f} min"] * bool(wall) + [f"{(sum(seconds) - wall) / 60:.0f} min of computing in all jobs"]
    return "; ".join(parts)


def render(studies: Sequence[Study]) -> str:
    """The board as HTML."""
    half, one = frontier.WITHIN[:2]
    return template("board.html.j2").render(
        css=source("page.css"),
        script=source("page.js"),
        studies=studies,
        spans=data_spans(studies),
        sources=verdict_rows(studies),
        overlaps=list(overlaps(studies)),
        facts=[facts(study) for study in studies],
        best={within: best_files(studies, within) for within in (half, one)},
        other=OTHER,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one page that shows several finished studies side by side.")
    parser.add_argument("results", nargs="*", type=Path, help="results folders (default: all in results)")
    parser.add_argument("--out", type=Path, default=RESULTS / "board.html", help="page to write")
    arguments = parser.parse_args()
    folders, left_out = (arguments.results, []) if arguments.results else find_studies()
    write_text(arguments.out, render(read_studies(folders)))
    for problem in left_out:
        print(f"left out: {problem}")
    print(f"board of {style.count(len(folders), 'study', 'studies')}: {arguments.out}")


if __name__ == "__main__":
    run(main)
