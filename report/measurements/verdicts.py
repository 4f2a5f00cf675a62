"""The claims with the verdicts of `report.claims`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from report import style
from report.forest import Forest, Mark
from report.measurements.contract import ResultFiles, ResultTables
from report.results import (
    ALL_MODELS,
    CLAIMS,
    CONTROL,
    FAILS,
    HOLDS,
    NOT_TESTED,
    OPEN,
    OPEN_LOSS,
    VERDICTS,
    read_claims,
)

COLUMNS = {"claims": CLAIMS}
MIXED = "different from case to case"
MARKS = dict(zip((*VERDICTS, MIXED), "✓✗??–±", strict=True))  # verdict -> mark
CLASSES = {
    HOLDS: "holds", FAILS: "fails", OPEN_LOSS: "open", OPEN: "open", NOT_TESTED: "untested", MIXED: "mixed",
}  # verdict -> class of its style on the page  # fmt: skip
FORMATS: dict[str, Callable[[float], str]] = {
    "points": partial(style.points, decimals=2), "percent": partial(style.points, decimals=2),
    "nats": partial(style.points, decimals=3),
}  # unit -> how its values are written; others have two decimals  # fmt: skip
SOURCES = {
    "paper": "Claims of the paper",
    "ours": "Claims of this suite",
    "surgeon": "Claims of the paper on LLM Surgeon",
}
UNITS = {
    "points": "points of weighted F1", "percent": "%", "nats": "nats a token",
    "slope": "exponent of the growth of time",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """The verdict on one subject of a claim (a model, kept share or measurement).

    Attributes:
        subject: what it is about. word: the verdict. scope: what it is limited to, "" if nothing.
        estimate: its number. interval: the ends, "" without any. mark: its place in the forest plot.
        n: number of cells. why: the numbers in a sentence. needs: what would decide it, "" if it is decided.
    """

    subject: str
    word: str
    scope: str
    estimate: str
    interval: str
    mark: Mark | None
    n: str
    why: str
    needs: str

    @property
    def role(self) -> str:
        """ "whole" for the claim as a whole, "control" for its control, "" for a case."""
        return "whole" if self.subject == ALL_MODELS else "control" if self.subject.startswith(CONTROL) else ""


@dataclass(frozen=True)
class Claim:
    """A claim with its rule, the verdict on each of its subjects, and the forest plot of their estimates."""

    name: str
    short: str
    text: str
    rule: str
    since: str
    unit: str
    limits: list[float]
    verdicts: list[Verdict]
    forest: Forest

    @property
    def main(self) -> Verdict | None:
        """The verdict on the claim as a whole; None if it has only verdicts case by case."""
        pooled = [verdict for verdict in self.verdicts if verdict.role == "whole"]
        cases = [verdict for verdict in self.verdicts if verdict.role == ""]
        return next(iter(pooled or (cases if len(cases) == 1 else [])), None)

    @property
    def tally(self) -> dict[str, int]:
        """Verdict -> number of subjects without the control, in the order of `VERDICTS`."""
        words = [verdict.word for verdict in self.verdicts if verdict.role != "control"]
        return {word: words.count(word) for word in (*VERDICTS, *words) if word in words}

    @property
    def word(self) -> str:
        """The verdict on the claim: that as a whole, the one of all cases, or `MIXED`."""
        if self.main:
            return self.main.word
        return next(iter(self.tally)) if len(self.tally) == 1 else MIXED

    @property
    def margins(self) -> str:
        """The limits of the rule: "−1", "±1"; "" if it has none."""
        if len(self.limits) == 2 and self.limits[0] == -self.limits[1]:
            return f"±{self.limits[1]:g}"
        return style.listed([f"{limit:g}".replace("-", "−") for limit in self.limits]) if self.limits else ""

    @property
    def drawn(self) -> bool:
        """Whether there is anything to draw."""
        return any(self.forest.marks)


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """claims.csv."""
    return {"claims": read_claims(files.results)}


def page(tables: ResultTables) -> dict[str, Any]:
    """Heading -> claims of that source, in the order of the file; and the marks of the verdicts."""
    table = tables.claims
    sources: dict[str, list[Claim]] = {}
    for (source, _), rows in table.groupby(["source", "claim"], sort=False):
        sources.setdefault(SOURCES.get(source, source), []).append(_claim(rows))
    return {"sources": sources, "marks": MARKS, "classes": CLASSES}


def _claim(rows: pd.DataFrame) -> Claim:
    """The claim of some rows of claims.csv, one per subject."""
    first = rows.iloc[0]
    limits = sorted({float(limit) for text in rows["limits"] for limit in text.split()})
    forest = Forest.of(list(rows[["estimate", "low", "high"]].itertuples(index=False, name=None)), limits)
    verdicts = []
    for row, mark in zip(rows.itertuples(), forest.marks, strict=True):
        numbers = estimate(row)
        words = (row.subject, row.verdict, row.scope, *numbers)
        verdicts.append(Verdict(*words, mark, style.integer(row.n), row.why, row.needs))
    units = rows.loc[rows["estimate"].notna(), "unit"]
    unit = UNITS.get(units.iloc[0], units.iloc[0]) if len(units) else ""
    short = first["short"] or first["claim"].replace("-", " ").capitalize()
    words = (first["claim"], short, first["text"], first["rule"], first["rules_since"])
    return Claim(*words, unit, limits, verdicts, forest)


def estimate(row: Any) -> tuple[str, str]:
    """An estimate and its interval in the unit of the row: ("−6.18", "−12.33 to −0.69"); "" for what is missing."""
    write = FORMATS.get(row.unit, "{:.2f}".format)
    texts = ["" if pd.isna(value) else write(value).replace("-", "−") for value in (row.estimate, row.low, row.high)]
    return texts[0], f"{texts[1]} to {texts[2]}" if texts[1] else ""


def whole(claims: pd.DataFrame) -> pd.DataFrame:
    """Claim -> the row with its verdict as a whole.

    It is that on all models, or the only one. A claim whose subjects differ has the verdict `MIXED` and no numbers.
    """
    cases = claims[~claims["subject"].str.startswith(CONTROL)]
    rows = {}
    for name, own in cases.groupby("claim", sort=False):
        pooled = own[own["subject"] == ALL_MODELS]
        row = (pooled if len(pooled) else own).iloc[0]
        if pooled.empty and len(own) > 1:
            verdict = row["verdict"] if own["verdict"].nunique() == 1 else MIXED
            row = row.copy()
            row[["verdict", "estimate", "low", "high"]] = verdict, np.nan, np.nan, np.nan
        rows[name] = row
    return pd.DataFrame(rows.values(), index=list(rows), columns=claims.columns)
