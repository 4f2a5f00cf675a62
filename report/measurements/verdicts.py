"""The claims with the verdicts of `report.claims`."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from report import style
from report.measurements.contract import ResultFiles, ResultTables
from report.results import CLAIMS, read_claims

COLUMNS = {"claims": CLAIMS}
VERDICTS = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "not decided": "?",
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
    """The verdict on one subject of a claim (a model or a measurement), with estimate and interval, n and reason."""

    subject: str
    word: str
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
    def tally(self) -> dict[str, int]:
        """Verdict -> number of subjects, in the order of `VERDICTS`."""
        words = [verdict.word for verdict in self.verdicts]
        return {word: words.count(word) for word in (*VERDICTS, *words) if word in words}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """claims.csv."""
    return {"claims": read_claims(files.results)}


def page(tables: ResultTables) -> dict[str, Any]:
    """Heading -> claims of that source, in the order of the file, and the marks of the verdicts."""
    sources: dict[str, list[Claim]] = {}
    for (source, _), rows in tables.claims.groupby(["source", "claim"], sort=False):
        verdicts = [
            Verdict(row.subject, row.verdict, estimate(row), style.integer(row.n), row.why) for row in rows.itertuples()
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
    else:
        texts = ["" if pd.isna(value) else f"{value:.2f}".replace("-", "−") for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}({row.unit})" if row.unit else ""
    return texts[0] if pd.isna(row.low) else f"{texts[0]} [{texts[1]},{style.NO_BREAK_SPACE}{texts[2]}]"


def answer(tables: ResultTables) -> list[str]:
    """The verdicts on the claims of the paper, counted."""
    claims, tally = tally_paper_claims(tables.claims)
    return [f"Of {style.count(claims, 'claim')} of the paper: {tally}."] if claims else []


def tally_paper_claims(claims: pd.DataFrame) -> tuple[int, str]:
    """Number of claims of the paper, and a list of how many have which verdict.

    A claim with different verdicts for its subjects counts as `MIXED`.
    """
    claims = claims[claims["source"] == "paper"]
    if claims.empty:
        return 0, ""
    verdicts = claims.groupby("claim", sort=False)["verdict"].agg(
        lambda words: words.iloc[0] if words.nunique() == 1 else MIXED
    )
    numbers = verdicts.value_counts()
    order = [word for word in (*VERDICTS, *numbers.index.difference(VERDICTS)) if word in numbers.index]
    return len(verdicts), ", ".join(f"{numbers[word]} {word}" for word in order)
