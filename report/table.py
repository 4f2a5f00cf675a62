"""One model of a table: columns that build their cells by name, and writers for LaTeX, Markdown and text.

The page writes the same tables as HTML (macro `table` of page.html.j2), `report.tables` writes plain CSV.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pandas as pd

from report import style

Field = str | Callable[[Any], Any]  # name of an attribute of a row, or a function of the row

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"[": "{[}", "*": "{*}"}  # after \\ they would be its argument
    | {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "Δ": r"$\Delta$", style.NO_BREAK_SPACE: "~", "\n": " ", "\r": " "}
)
_LATEX_KINDS = {"name": "l", "number": "r", "prose": r"p{0.32\linewidth}", "code": "l"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$&#])")


@dataclass(frozen=True)
class TableCell:
    """Text of a cell, not escaped.

    Attributes:
        sort: the value by which the page sorts, "" for none.
        behind: small text after the main one, such as a standard deviation.
        marks: words for the style: best (bold), level (underlined), near, control, missing (page only).
    """

    text: str = ""
    sort: float | str = ""
    behind: str = ""
    marks: str = ""


@dataclass(frozen=True)
class Column:
    """Head of a column, a function from a row to its cell, and a kind: name, number, prose (several lines) or code."""

    head: str
    cell: Callable[[Any], TableCell]
    kind: str = "name"


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells.

    Attributes:
        caption: of a publication. label: of a publication.
        anchors: ids of the rows on the page; empty if nothing leads to them.
    """

    columns: list[Column]
    rows: list[list[TableCell]]
    caption: str = ""
    label: str = ""
    anchors: Sequence[str] = ()

    @classmethod
    def of(cls, columns: Sequence[Column], rows: Iterable[Any], caption: str = "", label: str = "") -> "Table":
        """A table whose columns build their cells from rows, e.g. those of `DataFrame.itertuples`."""
        columns = list(columns)
        return cls(columns, [[column.cell(row) for column in columns] for row in rows], caption, label)

    @property
    def heads(self) -> list[str]:
        """Texts of the heads."""
        return [column.head for column in self.columns]

    @property
    def names(self) -> int:
        """Number of leading columns of names; the page can filter by these."""
        return len(list(takewhile(lambda column: column.kind == "name", self.columns)))


def value_of(row: Any, field: Field) -> Any:
    """A field of a row, by its name or computed from the row."""
    return field(row) if callable(field) else attrgetter(field)(row)


def text(head: str, field: Field, kind: str = "name") -> Column:
    """Column of names or other texts, sorted alphabetically."""

    def cell(row: Any) -> TableCell:
        text = str(value_of(row, field))
        return TableCell(text, text)

    return Column(head, cell, kind)


def texts(fields: Mapping[str, Field], kind: str = "name") -> list[Column]:
    """The columns of `text`, given as head -> field."""
    return [text(head, field, kind) for head, field in fields.items()]


def method(head: str = "Method", field: str = "method") -> Column:
    """Column of methods by their labels."""
    return text(head, lambda row: style.label(value_of(row, field)))


def stored_method() -> Column:
    """Column of methods beside the sizes of their files, with a mark on those that hold the embeddings in full."""

    def cell(row: Any) -> TableCell:
        label = style.label(row.method)
        return TableCell(label, label, "embeddings in full" if style.has_whole_embeddings(row.method) else "")

    return Column("Method", cell)


def budget_text() -> Column:
    """Column of budgets by their labels, sorted as texts."""
    return text("Budget", lambda row: style.budget_label(row.budget, row.unit))


def number(head: str, field: Field, text: Callable[[float], str], marks: str = "") -> Column:
    """Column of numbers, sorted by value; empty cells come last."""
    return Column(head, lambda row: number_cell(value_of(row, field), text, marks), "number")


def numbers(fields: Mapping[str, Field], text: Callable[[float], str]) -> list[Column]:
    """The columns of `number` with one format, given as head -> field."""
    return [number(head, field, text) for head, field in fields.items()]


def number_cell(value: float, text: Callable[[float], str], marks: str = "", behind: str = "") -> TableCell:
    """Cell of a number; without text if there is none."""
    return TableCell("", "", "", marks) if math.isnan(value) else TableCell(text(value), float(value), behind, marks)


def budget(head: str = "Budget") -> Column:
    """Column of budgets by their labels, sorted by their values."""
    return Column(head, lambda row: number_cell(row.budget, partial(style.budget_label, unit=row.unit)), "number")


PAIR = texts({"Model": "model", "Task": "task"})


def mean(head: str, field: str, spread: str) -> Column:
    """Column of mean scores, each followed by its standard deviation; a mean of one seed has none."""
    return Column(head, lambda row: mean_cell(value_of(row, field), value_of(row, spread)), "number")


def mean_cell(value: float, spread: float, marks: str = "") -> TableCell:
    """Cell of a mean score with its standard deviation."""
    return number_cell(value, style.score, marks, "" if math.isnan(spread) else f"±{spread:.3f}")


def span(
    head: str, low: Field, high: Field, text: Callable[[float], str], by: Field | None = None, merged: bool = False
) -> Column:
    """Column of ranges, "low to high", sorted by the low end or by the field `by`.

    Args:
        merged: whether a range between equal ends is one number.
    """

    def cell(row: Any) -> TableCell:
        ends = value_of(row, low), value_of(row, high)
        return number_cell(value_of(row, low if by is None else by), lambda _: style.span(*ends, text, merged))

    return Column(head, cell, "number")


def groups(frame: pd.DataFrame, keys: list[str], over: str | list[str]) -> Iterator[SimpleNamespace]:
    """Rows of a wide table, one per group of `frame`.

    Yields:
        An object with the values of `keys` under their names, `rows` (the group), and `at`: value of `over` -> row.
    """
    for values, rows in frame.groupby(keys, sort=False):
        at = dict(zip(rows[over] if isinstance(over, str) else tuples(rows, over), rows.itertuples(), strict=True))
        yield SimpleNamespace(**dict(zip(keys, values, strict=True)), rows=rows, at=at)


def wide(heads: Mapping[Any, str], cell: Callable[[Any, Any], TableCell]) -> list[Column]:
    """One column per key of `groups`; a row without an entry at that key has an empty cell.

    Args:
        heads: key -> head of its column.
        cell: gives the cell from a row of `groups` and its entry at the key.
    """

    def at(row: Any, key: Any) -> TableCell:
        return cell(row, row.at[key]) if key in row.at else TableCell()

    return [Column(head, partial(at, key=key), "number") for key, head in heads.items()]


def over_budgets(budgets: Iterable[float], cell: Callable[[Any, Any], TableCell]) -> list[Column]:
    """The columns of `wide`, one per kept share."""
    return wide({budget: style.budget_label(budget) for budget in budgets}, cell)


def tuples(frame: pd.DataFrame, columns: list[str]) -> list[tuple]:
    """Values of some columns, one tuple per row."""
    return list(frame[columns].itertuples(index=False, name=None))


def plain(table: Table) -> str:
    """A table as text for a terminal."""
    rows = [[cell.text for cell in row] for row in table.rows]
    return pd.DataFrame(rows, columns=table.heads).to_string(index=False)


def latex(table: Table) -> str:
    """A floating table over both columns of a page, shrunk if it is too wide (booktabs, adjustbox)."""

    def cell(cell: TableCell) -> str:
        text = latex_text(cell.text)
        text = f"\\underline{{{text}}}" if "level" in cell.marks else text
        return f"\\textbf{{{text}}}" if "best" in cell.marks else text

    kinds = "".join(_LATEX_KINDS[column.kind] for column in table.columns)
    lines = [map(latex_text, table.heads), *(map(cell, row) for row in table.rows)]
    head, *body = [f"{' & '.join(line)} \\\\\n" for line in lines]
    return (
        f"\\begin{{table*}}[t]\n\\centering\n\\caption{{{latex_text(table.caption)}}}\n\\label{{tab:{table.label}}}\n"
        f"\\begin{{adjustbox}}{{max width=\\linewidth}}\n\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{head}\\midrule\n"
        f"{''.join(body)}\\bottomrule\n\\end{{tabular}}\n\\end{{adjustbox}}\n\\end{{table*}}\n"
    )


def latex_text(text: str) -> str:
    """LaTeX that prints the text."""
    return text.translate(_LATEX)


def markdown(table: Table) -> str:
    """Caption and table; underlined text needs the HTML element u, since Markdown has no sign for it."""

    def cell(cell: TableCell) -> str:
        text = markdown_text(cell.text)
        text = f"<u>{text}</u>" if "level" in cell.marks else text
        return f"**{text}**" if "best" in cell.marks else text

    heads, rows = map(markdown_text, table.heads), [[cell(one) for one in row] for row in table.rows]
    body = style.markdown(list(heads), rows, [column.kind == "number" for column in table.columns])
    return f"{markdown_text(table.caption)}\n\n{body}"


def markdown_text(text: str) -> str:
    """Markdown that shows the text, on one line."""
    return _MARKDOWN.sub(r"\\\1", text.replace("\r", " ").replace("\n", " "))


def markdown_frame(frame: pd.DataFrame) -> str:
    """A data frame as Markdown: numbers with at least four significant digits, missing ones empty."""

    def cell(value: object) -> str:
        if not isinstance(value, float):
            return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")
        if math.isnan(value):
            return ""
        return f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4g}"

    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    rows = [[cell(value) for value in line] for line in frame.itertuples(index=False)]
    return style.markdown([cell(head) for head in frame.columns], rows, numeric)
