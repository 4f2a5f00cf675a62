"""Which methods have their name and colour in the figures. All others are thin and grey."""

import itertools
from collections.abc import Iterable, Sequence

from report import style
from report.measurements.contract import ResultTables
from report.scores import NEAR, keeps_more

REFERENCES = ("ken", "random", "ken-rescaled", "lora")  # named in every figure that has them
SMALLEST = 4  # selections that are named for their small files
BEST = 2  # methods that are named for their scores at kept shares
MOST = 8  # names in a panel


def methods(tables: ResultTables) -> list[str]:
    """The methods to be named in the figures of a study, the most important ones first."""
    files, shares = _with_smallest_files(tables), _best_at_shares(tables)
    order = ["ken", "ken-rescaled", *files[:2], "random", "lora", *files[2:], "shrink", *shares]
    known = set(tables.counts["methods"])
    return [name for name in dict.fromkeys(order) if name in known]


def chosen(order: Sequence[str], drawn: Iterable[str], most: int = MOST) -> list[str]:
    """The methods of a panel to be named: all of them if they are few, otherwise the first ones of `order`.

    Args:
        order: result of `methods`.
        drawn: all methods of the panel. Controls are left out.
    """
    drawn = [name for name in dict.fromkeys(drawn) if name not in style.CONTROLS]
    first = [name for name in order if name in drawn]
    return [*first, *(name for name in drawn if name not in first)] if len(drawn) <= most else first[:most]


def _with_smallest_files(tables: ResultTables) -> list[str]:
    """The best variant of the best few selections, without references.

    The best has the smallest file within one point, then within one and a half, then the best score on the front; over
    all cells, then over the common ones.
    """
    smallest, pareto = tables.smallest_files, tables.pareto
    near = smallest[(smallest["model"] == "") & smallest["stored_share"].notna()].sort_values("stored_share")
    front = pareto[pareto["on_front"] == 1].sort_values("difference_points", ascending=False)
    ranked = [near[near["within"] == loss] for loss in sorted(set(near["within"])) if loss >= NEAR] + [front]
    best: dict[str, str] = {}
    for cells_of, rows in itertools.product(("all", "common"), ranked):
        for method in rows.loc[rows["cells_of"] == cells_of, "method"]:
            best.setdefault(style.MethodName.of(method).base, method)
    return [name for name in best.values() if name not in REFERENCES][:SMALLEST]


def _best_at_shares(tables: ResultTables) -> list[str]:
    """The best methods that keep values as they are: by their mean rank among all that keep the same share."""
    rows = tables.over_all_cells()
    rows = rows[rows["family"].isin(("reset", "other")) & rows["difference_points"].notna()]
    rows = rows[~keeps_more(rows, ["budget"])]
    points = rows.groupby("budget")["difference_points"]
    ranks = points.rank(ascending=False)[points.transform("size") > 1]
    ranked = ranks.groupby(rows["method"]).mean().sort_values(kind="stable")
    return [name for name in ranked.index if name not in REFERENCES][:BEST]
