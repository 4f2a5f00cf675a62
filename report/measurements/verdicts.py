"""The claims with the verdicts of `report.claims`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from report import style
from report.measurements.contract import ResultFiles, ResultTables
from report.results import ALL_MODELS, CLAIMS, CONTROL, read_claims

COLUMNS = {"claims": CLAIMS}
VERDICTS = {
    "holds": "✓",
    "does not hold": "✗",
    "open (loss shown, size open)": "?",
    "open": "?",
    "not tested here": "–",
}  # verdict -> mark, in the order of the report
MIXED = "different from case to case"
SOURCES = {
    "paper": "Claims of the paper",
    "ours": "Claims of this suite",
    "surgeon": "Claims of the paper on LLM Surgeon",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one subject of a claim (a model, kept share or measurement).

    Attributes:
        subject: what it is about. word: the verdict. scope: what it is limited to, "" if nothing.
        estimate: with interval. n: number of cells. why: the numbers, and what a verdict would take.
    """

    subject: str
    word: str
    scope: str
    estimate: str
    n: str
    why: str


@dataclass(frozen=True)
class Claim:
    """A claim with its rule, and the verdict on each of its subjects."""

    text: str
    rule: str
    verdicts: list[Verdict]

    @property
    def main(self) -> Verdict | None:
        """The verdict on the claim as a whole; None if it has only verdicts case by case."""
        pooled = [verdict for verdict in self.verdicts if verdict.subject == ALL_MODELS]
        return next(iter(pooled or ([] if self.cases else self.verdicts)), None)

    @property
    def cases(self) -> list[Verdict]:
        """The verdicts case by case, if there are several."""
        return [verdict for verdict in self.verdicts if verdict.subject != ALL_MODELS] if len(self.verdicts) > 1 else []

    @property
    def tally(self) -> dict[str, int]:
        """Verdict -> number of subjects without the control, in the order of `VERDICTS`."""
        words = [verdict.word for verdict in self.verdicts if not verdict.subject.startswith(CONTROL)]
        return {word: words.count(word) for word in (*VERDICTS, *words) if word in words}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """claims.csv."""
    return {"claims": read_claims(files.results)}


def page(tables: ResultTables) -> dict[str, Any]:
    """Heading -> claims of that source, in the order of the file, and the marks of the verdicts."""
    sources: dict[str, list[Claim]] = {}
    for (source, _), rows in tables.claims.groupby(["source", "claim"], sort=False):
        scopes = rows["scope"] if "scope" in rows else [""] * len(rows)
        verdicts = [
            Verdict(row.subject, row.verdict, scope, estimate(row), style.integer(row.n), row.why)
            for row, scope in zip(rows.itertuples(), scopes, strict=True)
        ]
        first = rows.iloc[0]
        sources.setdefault(SOURCES.get(source, source), []).append(Claim(first["text"], first["rule"], verdicts))
    return {"sources": sources, "marks": VERDICTS}


def estimate(row: Any) -> str:
    """An estimate with its interval in its unit: "−6.18 points [−12.33, −0.69]"; "" if there is none."""
    if pd.isna(row.estimate):
        return ""
    values = [row.estimate, row.low, row.high]
    if row.unit == "points":
        texts = [style.points(value, 2) for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}points"
    elif row.unit == "share":
        texts = [style.share(value) for value in values]
    elif row.unit == "percent":
        texts = [style.points(value) for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}%"
    else:
        texts = ["" if pd.isna(value) else f"{value:.2f}".replace("-", "−") for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}({row.unit})" if row.unit else ""
    return texts[0] if pd.isna(row.low) else f"{texts[0]} [{texts[1]},{style.NO_BREAK_SPACE}{texts[2]}]"


def answer(tables: ResultTables) -> list[str]:
    """The verdicts on the claims of the paper, counted."""
    claims, tally = tally_paper_claims(tables.claims)
    return [f"Of {style.count(claims, 'claim')} of the paper: {tally}."] if claims else []


def tally_paper_claims(claims: pd.DataFrame) -> tuple[int, str]:
    """Number of claims of the paper, and a list of how many have which verdict."""
    claims = claims[claims["source"] == "paper"]
    if claims.empty:
        return 0, ""
    verdicts = whole(claims)["verdict"]
    numbers = verdicts.value_counts()
    order = [word for word in (*VERDICTS, *numbers.index.difference(VERDICTS)) if word in numbers.index]
    return len(verdicts), ", ".join(f"{numbers[word]} {word}" for word in order)


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
