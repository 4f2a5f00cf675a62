"""Claims about measurements: the spread of kept entries, and the growth of selection time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from ken.errors import UserError
from report import style
from report.judging.evidence import (
    ALL,
    NOT_DECIDED,
    NOT_REPRODUCED,
    REPRODUCED,
    Evidence,
    Finding,
    Undecided,
    cells_of,
    judged,
)
from report.results import damaged, read_table
from report.statistics import Interval


def spread_evenly(evidence: Evidence, *, share: float) -> list[Finding]:
    """Share of matrices whose kept entries have no more kept neighbours than a random selection."""
    numbers = ("seed", "observed_neighbours", "neighbours_low", "neighbours_high")
    path = evidence.results / "spread.csv"
    table = evidence.learned(measured(path, ("model", "task", "method", "matrix"), numbers, "ken"))
    even = int((table["observed_neighbours"] <= table["neighbours_high"]).sum())
    ends = proportion_confint(even, len(table), alpha=1 - evidence.confidence, method="beta")
    interval = Interval(even / len(table), *map(float, ends))
    verdict = REPRODUCED if interval.low > share else NOT_REPRODUCED if interval.high < share else NOT_DECIDED
    fewer = int((table["observed_neighbours"] < table["neighbours_low"]).sum())
    why = (
        f"{even} of {style.count(len(table), 'matrix', 'matrices')} are without clusters, "
        f"{fewer} of them with fewer kept neighbours than a random selection."
    )
    finding = Finding(ALL, verdict, cells_of(table), why, interval, "share")
    return [evidence.if_tested(finding, table, over_seeds=False)]


def linear_time(evidence: Evidence, *, tolerance: float, values: float) -> list[Finding]:
    """Slopes of log seconds over log size and log k, for KEN and for the released code's rule: a verdict each."""

    def judge(method: str, axis: str) -> Finding:
        table = measured(evidence.results / "timing.csv", ("method",), ("size", "k", "seconds"), method)
        if (table[["size", "k", "seconds"]] <= 0).any(axis=None):
            raise UserError(f"{evidence.results / 'timing.csv'} has numbers that are not above 0: measure it again.")
        if table[axis].nunique() < values:
            raise Undecided(f"timing.csv has {table[axis].nunique()} values of {axis}, {values:g} are needed")
        varied = [name for name in ("size", "k") if table[name].nunique() > 1]
        design = np.column_stack([np.ones(len(table)), np.log(table[varied])])
        if np.linalg.matrix_rank(design) < design.shape[1] or len(table) <= design.shape[1]:
            raise Undecided("timing.csv does not vary size and k independently, or has too few rows")
        fit = OLS(np.log(table["seconds"].to_numpy()), design).fit()
        index = 1 + varied.index(axis)
        interval = Interval(float(fit.params[index]), *map(float, fit.conf_int(1 - evidence.confidence)[index]))
        inside = max(abs(interval.low - 1), abs(interval.high - 1)) < tolerance
        outside = interval.low > 1 + tolerance or interval.high < 1 - tolerance
        verdict = REPRODUCED if inside else NOT_REPRODUCED if outside else NOT_DECIDED
        why = f"Seconds grow with {axis} to the power of {interval.estimate:.2f} in {len(table)} measurements."
        return Finding(f"{method}, {axis}", verdict, len(table), why, interval, "slope")

    pairs = [(method, axis) for method in ("ken", "ken-grid") for axis in ("size", "k")]
    return [judged(f"{method}, {axis}", partial(judge, method, axis)) for method, axis in pairs]


def measured(path: Path, text: Sequence[str], numeric: Sequence[str], method: str) -> pd.DataFrame:
    """The named columns of a file that a study may lack, without empty cells: the rows of one method.

    Raises:
        Undecided: it does not exist or is empty.
        UserError: see `read_table`; or a cell is empty.
    """
    if not path.exists():
        raise Undecided(f"the study has no {path.name}")
    table = read_table(path, text, numeric)[[*text, *numeric]]
    table = table[table["method"] == method]
    if table.empty:
        raise Undecided(f"{path.name} has no rows of {method}")
    if table.isna().any(axis=None):
        raise damaged(path, "has empty cells among its numbers")
    return table
