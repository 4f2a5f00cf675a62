"""Compare a run of a study with a committed run of the same study, the reference.

`python -m report.compare results/mini results/reference/mini` prints the differences and exits with status 1 if the
runs do not agree. Weighted F1 is in points (hundredths) everywhere. Three things are compared:

- Rows: weighted F1 of a model, task, method and budget, as the mean over seeds. The mean of the reference has a 95 %
  prediction interval, in which the mean of the same study with other seeds lies. Its width comes from the spread over
  seeds of the method at that budget, pooled over models and tasks. A method that the reference ran with one seed gets
  the spread of the fine-tuned models. By chance, 5 % of the rows are outside. Since the rows of a cell vary together,
  up to 10 % count as chance. With the same seeds far fewer should be outside: only rounding differs between machines.
- Means: a method and budget minus the fine-tuned model, over all models and tasks. The interval is that of the
  reference (`report.intervals`).
- Claims: their verdicts. Different verdicts on claims about seconds are printed but do not count.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ken.errors import UserError, run
from report import style
from report import table as columns
from report.results import read_claims, read_json, read_scores, read_statistics, write_csv
from report.scores import average_draws
from report.statistics import CONFIDENCE
from report.table import Column, Table, TableCell, plain

KIND = ["method", "unit", "budget"]
ROW = ["model", "task", *KIND]
MOST_OUTSIDE = 0.10  # share of rows outside their intervals that counts as chance
MEASURED_UNITS = ("slope",)  # of claims about seconds, which depend on the machine
CONFIGS = "configs"
LISTED = 5  # most names in one sentence
_SETTING = (columns.method("method"), columns.budget("kept"))
_OUTSIDE = Column("outside", lambda row: TableCell("yes" if row.outside else ""))
_ROUNDING = 1e-6  # points; files hold a limited number of digits


@dataclass(frozen=True)
class Comparison:
    """A run compared with its reference.

    Attributes:
        rows: a row per model, task, method and budget that both have: reference, half_width (of its interval, NaN if
            there is none), here, difference (points), outside.
        means: a row per method and budget that both have for equally many pairs of model and task: reference, low,
            high, here (points to full), outside.
        claims: the claims with different verdicts: claim, subject, reference and here (verdicts), counts (whether the
            difference counts against the run).
        missing: rows of the reference without a score in the run. judged: number of claims that both have.
        unjudged: number of verdicts of the reference if the run has none of them.
        notes: sentences on further differences.
    """

    rows: pd.DataFrame
    means: pd.DataFrame
    claims: pd.DataFrame
    missing: pd.DataFrame
    judged: int
    unjudged: int
    notes: list[str]

    def disagreements(self) -> list[str]:
        """Reasons why the run does not agree with its reference, each part of a sentence; none if it does."""
        reasons = []
        if len(self.missing):
            reasons.append(f"{len(self.missing)} rows of the reference have no score here ({_settings(self.missing)})")
        if self.rows["outside"].mean() > MOST_OUTSIDE:
            reasons.append(f"{_outside(self.rows)} rows are outside their intervals, more than chance explains")
        if self.means["outside"].any():
            which = _settings(self.means[self.means["outside"]])
            reasons.append(f"{_outside(self.means)} means over models and tasks are outside theirs ({which})")
        if number := int(self.claims["counts"].sum()):
            reasons.append(f"{number} of {self.judged} verdicts on claims changed")
        if self.rows["half_width"].isna().all() and self.means.empty:
            reasons.append("no row has an interval and there are no means, so that nothing can be compared")
        if self.unjudged:
            reasons.append(f"it has none of the {self.unjudged} verdicts of the reference")
        return reasons


def compare(results: Path, reference: Path) -> Comparison:
    """Compare a run with its reference.

    Args:
        results, reference: results folders with scores.csv and provenance.json. statistics/pairwise.csv and claims.csv
            are compared if both have them.

    Raises:
        UserError: a folder holds no finished study, a file is malformed, or the two have no row in common.
    """
    for folder in (results, reference):
        if not (folder / "scores.csv").is_file():
            raise UserError(f"{folder} holds no finished study (no scores.csv): run it, or name another folder.")
    actual, expected = (row_means(read_scores(folder)) for folder in (results, reference))
    both = expected.merge(actual, "left", on=ROW, suffixes=("_reference", "_here"), indicator="held")
    rows, missing = both[both["held"] == "both"], both.loc[both["held"] == "left_only", ROW]
    if rows.empty:
        raise UserError(f"{results} and {reference} have no model, task, method and budget in common: name others.")
    expected_claims = read_claims(reference)
    verdicts = paired_verdicts(read_claims(results), expected_claims)
    unjudged = len(expected_claims) if verdicts.empty else 0
    changed = verdicts[verdicts["here"] != verdicts["reference"]]
    means = compared_means(read_statistics(results, "pairwise"), read_statistics(reference, "pairwise"))
    notes = list(differing(*(read_json(folder / "provenance.json") for folder in (results, reference))))
    if means.empty:
        notes.append("No means over models and tasks are compared: the two do not both have them over as many pairs.")
    if verdicts.empty:
        notes.append("No claims are compared: the two do not both have claims.csv.")
    return Comparison(judged_rows(rows, seed_spread(expected)), means, changed, missing, len(verdicts), unjudged, notes)


def row_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns of `ROW`, points (mean of weighted F1 over seeds), seeds, and variance (over seeds; 0 for one seed)."""
    seeds = average_draws(scores)
    grouped = seeds.assign(points=100 * seeds["weighted_f1"]).groupby(ROW, sort=False)["points"]
    table = grouped.agg(points="mean", seeds="size", variance="var").reset_index()
    return table.fillna({"variance": 0.0})


def seed_spread(means: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation over seeds of each method and budget, pooled over models and tasks.

    Args:
        means: from `row_means`.

    Returns:
        Columns of `KIND`, sd (points) and freedom (degrees of freedom). A method with one seed everywhere gets those of
        `full`, which are NaN and 0 if `full` has one seed too.
    """
    freedom = means["seeds"] - 1
    sums = means[KIND].assign(freedom=freedom, squares=freedom * means["variance"]).groupby(KIND, sort=False).sum()
    table = sums.reset_index().astype({"freedom": float})
    pooled = ["freedom", "squares"]
    table.loc[table["freedom"] == 0, pooled] = table.loc[table["method"] == "full", pooled].iloc[0].to_numpy()
    return table[[*KIND, "freedom"]].assign(sd=np.sqrt(table["squares"] / table["freedom"].replace(0, np.nan)))


def judged_rows(rows: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.rows` from the rows common to both runs and the spread over seeds in the reference.

    The half width is t · sd · √(1/n + 1/m) for n seeds in the reference and m here, with t of Student's distribution:
    the half width of a prediction interval for the mean of m further values.
    """
    rows = rows.merge(spread, "left", on=KIND)
    t = stats.t.ppf((1 + CONFIDENCE) / 2, rows["freedom"].replace(0, np.nan))
    half_width = t * rows["sd"] * np.sqrt(1 / rows["seeds_reference"] + 1 / rows["seeds_here"])
    difference = rows["points_here"] - rows["points_reference"]
    return rows[ROW].assign(
        reference=rows["points_reference"],
        half_width=half_width,
        here=rows["points_here"],
        difference=difference,
        outside=difference.abs() > half_width + _ROUNDING,
    )


def compared_means(actual: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.means` from pairwise.csv of a run and of its reference."""
    expected, actual = (table[table["other"] == "full"] for table in (expected, actual))
    both = expected.merge(actual[[*KIND, "n", "difference_points"]], on=[*KIND, "n"], suffixes=("", "_here"))
    here = both["difference_points_here"]
    inside = here.between(both["low"] - _ROUNDING, both["high"] + _ROUNDING)
    table = both[[*KIND, "difference_points", "low", "high"]].rename(columns={"difference_points": "reference"})
    return table.assign(here=here, outside=~inside)


def paired_verdicts(actual: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """Columns claim, subject, reference, here (verdicts) and counts, for the claims judged in both runs."""
    keys = ["claim", "subject"]
    both = expected[[*keys, "verdict", "unit"]].merge(actual[[*keys, "verdict"]], on=keys, suffixes=("", "_here"))
    table = both.rename(columns={"verdict": "reference", "verdict_here": "here"})
    return table[[*keys, "reference", "here"]].assign(counts=~table["unit"].isin(MEASURED_UNITS))


def differing(actual: dict, expected: dict) -> Iterator[str]:
    """Sentences on the differences between two records of provenance."""
    for part, name in (("config", CONFIGS), ("versions", "versions of packages"), ("machine", "machines")):
        here, there = (dict(_leaves(record.get(part) or {})) for record in (actual, expected))
        keys = [key for key in there | here if here.get(key) != there.get(key)]
        shown = [f"{key} is {here.get(key, 'not there')}, not {there.get(key, 'there')}" for key in keys[:LISTED]]
        more = f"; and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
        if keys:
            yield f"The {name} differ: {'; '.join(shown)}{more}."
    for record, which in ((actual, "This run"), (expected, "The reference")):
        if record.get("dirty"):
            yield f"{which} was made with code that differs from its commit."


def _leaves(section: dict, before: str = "") -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _settings(table: pd.DataFrame) -> str:
    """Methods with budgets in the rows of a table, at most `LISTED` of them."""
    distinct = table.drop_duplicates(KIND)
    names = [style.setting(row.method, row.budget, row.unit) for row in distinct[:LISTED].itertuples()]
    return ", ".join([*names, f"{len(distinct) - LISTED} more"] if len(distinct) > LISTED else names)


def _outside(table: pd.DataFrame) -> str:
    return f"{int(table['outside'].sum())} of {table.get('half_width', table['outside']).notna().sum()}"


def rows_table(rows: pd.DataFrame) -> Table:
    """`Comparison.rows` as a table: scores in points, and their difference with its sign."""
    points = "{:.1f}".format
    return Table.of(
        [
            *columns.texts({"model": "model", "task": "task"}),
            *_SETTING,
            *columns.numbers({"reference": "reference", "±": "half_width", "here": "here"}, points),
            columns.number("difference", "difference", style.points),
            _OUTSIDE,
        ],
        rows.itertuples(),
    )


def means_table(means: pd.DataFrame) -> Table:
    """`Comparison.means` as a table; all numbers are differences."""
    numbers = {name: name for name in ("reference", "low", "high", "here")}
    return Table.of([*_SETTING, *columns.numbers(numbers, style.points), _OUTSIDE], means.itertuples())


def text(comparison: Comparison, all_rows: bool = False) -> str:
    """The comparison as text: notes, means, rows, claims, and finally the conclusion."""
    parts = list(comparison.notes)
    if len(comparison.means):
        parts.append(
            f"Means over models and tasks, in points to the fine-tuned model:\n{plain(means_table(comparison.means))}"
        )
    rows = comparison.rows if all_rows else comparison.rows[comparison.rows["outside"]]
    if len(rows):
        which = "All rows" if all_rows else f"Rows outside their intervals ({_outside(comparison.rows)})"
        parts.append(f"{which}, weighted F1 in points, means over seeds:\n{plain(rows_table(rows))}")
    if without := int(comparison.rows["half_width"].isna().sum()):
        parts.append(f"{without} rows have no interval: the reference has one seed.")
    for row in comparison.claims.itertuples():
        rest = "" if row.counts else " (measured in seconds: not held against this run)"
        parts.append(f"Claim {row.claim}, {row.subject}: {row.here}, in the reference {row.reference}{rest}.")
    return "\n\n".join([*parts, conclusion(comparison)])


def conclusion(comparison: Comparison) -> str:
    """A sentence that says whether the run agrees with its reference."""
    if reasons := comparison.disagreements():
        other = " Its config is another: see above." if any(CONFIGS in note for note in comparison.notes) else ""
        return f"This run leaves the reference: {'; '.join(reasons)}.{other}"
    changed = int(comparison.claims["counts"].sum())
    return (
        f"This run agrees with the reference: {_outside(comparison.rows)} rows and {_outside(comparison.means)} means "
        f"are outside their intervals, {changed} of {comparison.judged} verdicts on claims changed."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a run of a study with a committed run.")
    parser.add_argument("results", type=Path, help="results folder of the run, e.g. results/mini")
    parser.add_argument("reference", type=Path, help="results folder of the committed run, e.g. results/reference/mini")
    parser.add_argument("--all", action="store_true", help="print all rows, not only those outside their intervals")
    parser.add_argument("--out", type=Path, help="CSV file to write, with all rows")
    arguments = parser.parse_args()
    comparison = compare(arguments.results, arguments.reference)
    print(text(comparison, arguments.all))
    if arguments.out:
        write_csv(arguments.out, comparison.rows.round(6))
    sys.exit(1 if comparison.disagreements() else 0)


if __name__ == "__main__":
    run(main)
