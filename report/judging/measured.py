"""Claims about measurements: the spread of kept entries, and the growth of selection time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS

from ken.errors import UserError
from report import style
from report.intervals import Differences, Interval, uncertainty
from report.judging.evidence import (
    Evidence,
    Finding,
    Untested,
    cells_of,
    judged,
    with_needs,
)
from report.results import ALL_MODELS, CELL, FAILS, HOLDS, OPEN, damaged, has_content, read_table

AXES = ("rows", "width", "k")


def spread_evenly(evidence: Evidence, *, margin_percent: float) -> list[Finding]:
    """How many more kept neighbours kept entries have than in a random selection, as a mean over models and tasks."""
    numbers = ("seed", "observed_neighbours", "neighbours_random", "neighbours_high")
    path = evidence.results / "spread.csv"
    table = evidence.learned(measured(path, ("model", "task", "method", "matrix"), numbers, "ken"))
    excess = 100 * (table["observed_neighbours"] / table["neighbours_random"] - 1)
    texts = np.zeros((len(table), 1))  # which have no part in it
    unsure = uncertainty(Differences(table[CELL], excess.to_numpy(), texts, evidence.sample.checkpoints))
    n = cells_of(table)
    # The matrices of a model are not independent, so that there is no interval without other models or seeds.
    estimate = unsure.estimate
    interval = unsure.interval(evidence.confidence) if unsure.variance else Interval(estimate, np.nan, np.nan)
    verdict = HOLDS if interval.high < margin_percent else FAILS if interval.low > margin_percent else OPEN
    above = int((table["observed_neighbours"] > table["neighbours_high"]).sum())
    why = (
        f"Kept entries have {estimate:+.1f} % kept neighbours compared with a random selection, on average over "
        f"{style.count(len(table), 'matrix', 'matrices')} in {style.count(n, 'cell')}; {above} matrices have "
        "significantly more."
    )
    finding = Finding(ALL_MODELS, verdict, n, why, interval, "percent", limits=(margin_percent,))
    finding = evidence.if_tested(finding, table, over_seeds=False)
    return [with_needs(finding, unsure, abs(estimate - margin_percent)) if unsure.variance else finding]


def linear_time(evidence: Evidence, *, tolerance: float, values: float) -> list[Finding]:
    """Whether time grows at most linearly with rows, their width and k, for KEN and the released code: a verdict each.

    The growth is the slope of log seconds over the logarithms of the three.
    """

    def judge(method: str, axis: str) -> Finding:
        path = evidence.results / "timing.csv"
        table = measured(path, ("method",), ("size", "k", "seconds"), method, optional=("width",))
        if (table[["size", "k", "seconds"]] <= 0).any(axis=None):
            raise UserError(f"{path} has numbers that are not above 0: measure it again.")
        width = table["width"].fillna(1)  # a file without widths has one
        table = table.assign(width=width, rows=table["size"] / width)
        if table[axis].nunique() < max(values, 2):
            raise Untested(
                f"the file timing.csv has {style.count(table[axis].nunique(), 'value')} of {axis}", f"{values:g} values"
            )
        varied = [name for name in AXES if table[name].nunique() > 1]
        design = np.column_stack([np.ones(len(table)), np.log(table[varied])])
        if np.linalg.matrix_rank(design) < design.shape[1] or len(table) <= design.shape[1]:
            names = style.listed(varied)
            raise Untested(
                f"the file timing.csv has too few rows, or does not vary {names} independently", "one that does"
            )
        fit = OLS(np.log(table["seconds"].to_numpy()), design).fit()
        index = 1 + varied.index(axis)
        interval = Interval(float(fit.params[index]), *map(float, fit.conf_int(1 - evidence.confidence)[index]))
        most = 1 + tolerance
        verdict = HOLDS if interval.high < most else FAILS if interval.low > most else OPEN
        power = f"{interval.estimate:.2f}".replace("-", "−")
        why = f"Seconds grow with {axis} to the power of {power} in {len(table)} measurements."
        if interval.high < 1 - tolerance:
            why += " That is less than linear, better than claimed."
        needs = "It takes measurements that vary less: more repeats, or a machine without other load."
        return Finding(
            f"{method}, {axis}", verdict, len(table), why, interval, "slope",
            needs=needs if verdict == OPEN else "", limits=(most,),
        )  # fmt: skip

    pairs = [(method, axis) for method in ("ken", "ken-grid") for axis in AXES]
    return [judged(f"{method}, {axis}", partial(judge, method, axis)) for method, axis in pairs]


def measured(
    path: Path, text: Sequence[str], numeric: Sequence[str], method: str, optional: Sequence[str] = ()
) -> pd.DataFrame:
    """The named columns of a file that a study may lack: the rows of one method; only optional cells may be empty.

    Raises:
        Untested: it does not exist or is empty.
        UserError: see `read_table`; or a cell is empty.
    """
    if not has_content(path):
        raise Untested(f"the study has no {path.name}", "a run that measures it")
    table = read_table(path, text, numeric, optional)[[*text, *numeric, *optional]]
    table = table[table["method"] == method]
    if table.empty:
        raise Untested(f"the file {path.name} has no rows of {method}", f"a run with {method}")
    if table[[*text, *numeric]].isna().any(axis=None):
        raise damaged(path, "has empty cells among its numbers")
    return table
