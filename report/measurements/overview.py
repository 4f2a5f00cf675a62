"""Means over all cells per method and budget: the cost of resetting, and how much must be kept."""

from functools import partial
from typing import Any

import pandas as pd

from report import style
from report import table as columns
from report.drawing import Drawing, Figure, shade_near
from report.measurements.contract import ResultFiles, ResultTables
from report.panels import REFERENCES, draw_methods, finish, method_panels
from report.results import CELL, Columns
from report.scores import METHOD, NEAR, aggregations, is_near, keeps_more, of_finetuned_cells
from report.table import Column, Table, TableCell

COLUMNS = {
    "overview": Columns.of(
        "method family unit",
        "budget cells without_score weighted_f1 difference_points difference_points_q25 "
        "difference_points_q75 within_1_point kept_share stored_bytes stored_share",
    )
}
SHOWN_SHARES = (0.05, 0.25)
SHOWN_METHODS = ("ken", "ken-rescaled", "random")  # besides the best ones
BEST = 3


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means and differences to full per method and budget, over the cells in which it was run."""
    seeds = files.seeds
    compared = seeds["difference_points"].notna()
    seeds = seeds.assign(near=is_near(seeds["difference_points"]).astype(float).where(compared))
    means = aggregations("weighted_f1 difference_points kept_share stored_bytes stored_share")
    grouped = seeds.groupby(METHOD, sort=False)
    table = grouped.agg(cells=("seed", "size"), within_1_point=("near", "mean"), **means)
    for percent in (25, 75):
        table[f"difference_points_q{percent}"] = grouped["difference_points"].quantile(percent / 100)
    asked = of_finetuned_cells(files.scores).drop_duplicates([*CELL, *METHOD]).groupby(METHOD, sort=False).size()
    table = asked.rename("asked").to_frame().join(table)
    table["cells"] = table["cells"].fillna(0).astype(int)
    table["without_score"] = table["asked"] - table["cells"]
    return {"overview": table.reset_index()[COLUMNS["overview"].names]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Means per method and kept share, the full table, and the methods run on a part of the cells."""
    return {
        "means": means_table(tables),
        "detail": _detail_table(tables),
        "partial": partial_methods(tables),
        "references": [style.label(name) for name in REFERENCES],
    }


def means_table(tables: ResultTables) -> Table:
    """Mean difference to full in points, for the methods run on all cells (rows) and every kept share (columns)."""
    asked = tables.cells

    def scored(row: Any) -> TableCell:
        fewest = row.rows["cells"].min()
        return TableCell(f"{fewest:.0f}" if fewest == asked else f"{fewest:.0f} of {asked:.0f}", float(fewest))

    ends = [lambda row: row.rows["kept_share"].min(), lambda row: row.rows["kept_share"].max()]
    return Table.of(
        [
            columns.method(),
            columns.text("Updates", lambda row: style.FAMILY_LABELS[row.family]),
            *columns.over_budgets(tables.counts["budgets"], _difference_cell),
            columns.span("Body kept", *ends, style.share, merged=True),
            Column("Cells", scored, "number"),
        ],
        columns.groups(tables.over_all_cells(), ["method", "family"], "budget"),
    )


def _difference_cell(_: Any, row: Any) -> TableCell:
    if pd.isna(row.difference_points):
        return TableCell("no score", marks="missing")
    return columns.number_cell(row.difference_points, style.points, "near" if is_near(row.difference_points) else "")


def _detail_table(tables: ResultTables) -> Table:
    """All columns of the overview for all methods."""
    front = tables.pareto[(tables.pareto["cells_of"] == "all") & (tables.pareto["on_front"] == 1)]
    front = set(columns.tuples(front, ["method", "budget"]))
    quarter, three_quarters = "difference_points_q25", "difference_points_q75"
    shares = {"Cells within 1 point": "within_1_point", "Body kept": "kept_share", "Of full's bytes": "stored_share"}
    return Table.of(
        [
            columns.stored_method(),
            columns.budget("Asked"),
            columns.number("Cells", "cells", style.integer),
            columns.number("Weighted F1", "weighted_f1", style.score),
            columns.number("To full", "difference_points", style.points),
            columns.span("Middle half of cells", quarter, three_quarters, style.points),
            *columns.numbers(shares, style.share),
            columns.number("Stored file", "stored_bytes", style.size),
            Column("Pareto front", lambda row: TableCell("yes" if (row.method, row.budget) in front else "")),
        ],
        tables.overview.itertuples(),
    )


def partial_methods(tables: ResultTables) -> list[str]:
    """Names of methods that the study runs on a part of the cells only."""
    overview = tables.overview
    part = overview[overview["cells"] + overview["without_score"] < tables.cells]
    return [style.label(method) for method in dict.fromkeys(part["method"]) if method not in style.CONTROLS]


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """The figure of differences to full over kept shares."""
    text = "Difference to full against kept share, one panel per family of methods, one line per method"
    return {"summary": Drawing(partial(draw_summary, tables), text)}


def draw_summary(tables: ResultTables) -> Figure:
    """Difference to full in points against kept share, mean over all cells, one panel per family of methods."""
    frame = tables.overview
    frame = frame[frame["cells"] + frame["without_score"] == tables.cells]
    frame = frame.assign(low=frame["difference_points_q25"], high=frame["difference_points_q75"])
    figure, panels, families = method_panels(tables, 4.9, 1, sharey=True)
    for axes, (title, methods) in zip(panels[0], families.items(), strict=True):
        shade_near(axes, NEAR)
        draw_methods(axes, frame, methods, "difference_points")
        axes.set_title(title if methods else "")
    panels[0, 0].set_ylabel("weighted F1 minus full, points")
    finish(figure, panels, families, tables)
    return figure


def _ranked(tables: ResultTables, share: float) -> pd.Series:
    """Method -> mean difference to full at a kept share, with a score in every cell; also methods that train."""
    overview = tables.overview
    rows = overview[(overview["unit"] == "share") & (overview["budget"] == share) & (overview["cells"] == tables.cells)]
    rows = rows[~rows["method"].isin(style.CONTROLS)]
    return rows[~keeps_more(rows, ["budget"])].set_index("method")["difference_points"].dropna()


def _compared(tables: ResultTables) -> pd.DataFrame:
    """Rows of methods that keep a share and have a score in every cell; only these are compared over all cells."""
    shares = tables.over_all_cells()
    shares = shares[shares["family"] != "control"]
    return shares[(shares["cells"] == tables.cells) & shares["difference_points"].notna()]


def answer(tables: ResultTables) -> list[str]:
    """KEN at a quarter kept (or the middle budget), a random choice and the best method, also of those that train."""
    compared = _compared(tables)
    compared = compared[~keeps_more(compared, ["budget"])]
    budgets = sorted(set(compared.loc[compared["method"] == "ken", "budget"]))
    if not budgets:
        return []
    share = 0.25 if 0.25 in budgets else budgets[len(budgets) // 2]
    rows = _ranked(tables, share)
    best = rows.idxmax()
    parts = [f"{style.points(rows['ken'])} points of weighted F1 with KEN"]
    if "random" in rows.index:
        parts.append(f"{style.points(rows['random'])} with a random choice")
    if best not in ("ken", "random"):
        parts.append(f"{style.points(rows[best])} with the best of {len(rows)} methods, {style.label(best)}")
    text = (
        f"With {style.budget_label(share)} of each row kept, the difference to the fully fine-tuned model is "
        f"{style.listed(parts)} (means over {style.count(tables.cells, 'cell')})."
    )
    return [text, *_smallest(compared)]


def _smallest(compared: pd.DataFrame) -> list[str]:
    """Smallest kept shares of KEN and of the best method that cost at most a point; of equal ones the best score."""
    near = _smallest_near(compared)
    if near.empty:
        return []
    best = near.sort_values(["kept_share", "difference_points"], ascending=[True, False], kind="stable").iloc[0]
    shares = near.set_index("method")["kept_share"]
    text = f"The smallest kept share of the body that costs at most {NEAR:g} point on average is "
    parts = [f"{style.percent(best['kept_share'])} with {style.label(best['method'])}"]
    if best["method"] != "ken" and "ken" in shares:
        parts.append(f"{style.percent(shares['ken'])} with KEN")
    none = "" if "ken" in shares else "; KEN comes that near at no kept share of the study"
    return [f"{text}{style.listed(parts)}{none}."]


def _smallest_near(compared: pd.DataFrame) -> pd.DataFrame:
    """The row of each method with the smallest kept share, rounded to percent, that costs at most a point.

    Rounded, because the shares that draws of the same budget really keep differ by chance.
    """
    near = compared[is_near(compared["difference_points"])]
    near = near.assign(kept_share=near["kept_share"].round(2))
    order = near.sort_values(["kept_share", "difference_points"], ascending=[True, False], kind="stable")
    return order.drop_duplicates("method").sort_index()


def sentences(tables: ResultTables) -> list[str]:
    """How much must be kept, the bounds of all scores, and the differences at a few kept shares."""
    compared = _compared(tables)
    return [*_near_full(compared), _ends(tables), *_at_shares(tables, compared)]


def _near_full(compared: pd.DataFrame) -> list[str]:
    """Smallest share of the body with a mean loss of at most one point, for each method."""
    if compared.empty:
        return []
    smallest = _smallest_near(compared)
    groups = smallest.groupby("kept_share")["method"]
    parts = [f"{style.percent(share)} with {', '.join(map(style.label, methods))}" for share, methods in groups]
    missed = [style.label(name) for name in dict.fromkeys(compared["method"]) if name not in set(smallest["method"])]
    if not parts:
        return [f"No method stays within {NEAR:g} point of weighted F1 on average at any kept share of the study."]
    text = f"Smallest share of the body to keep that costs at most {NEAR:g} point of weighted F1 on average: "
    rest = [f"No kept share of the study costs so little with {style.listed(missed)}."] if missed else []
    return [f"{text}{'; '.join(parts)}.", *rest]


def _ends(tables: ResultTables) -> str:
    means = tables.overview.set_index("method")["weighted_f1"]
    cells = tables.overview.set_index("method").loc["full", "cells"]
    text = (
        f"Fully fine-tuned, the models reach a weighted F1 of {style.score(means['full'])} on average over "
        f"{style.count(cells, 'cell')} (model × task × seed)"
    )
    if "none" in means.index and pd.notna(means["none"]):
        text += f"; with the whole body reset and only the head kept, {style.score(means['none'])}"
    return f"{text}."


def _at_shares(tables: ResultTables, compared: pd.DataFrame) -> list[str]:
    """Differences to full at a few kept shares, for the best methods and those of `SHOWN_METHODS`."""
    compared = compared[~keeps_more(compared, ["budget"])]
    budgets = set(compared["budget"])
    lines = []
    for share in [share for share in SHOWN_SHARES if share in budgets] or sorted(budgets)[: len(SHOWN_SHARES)]:
        rows = _ranked(tables, share).sort_values(ascending=False, kind="stable").reset_index()
        shown = rows["method"].isin([*rows["method"][:BEST], *SHOWN_METHODS])
        others = [style.label(name) for name in SHOWN_METHODS if name in set(rows["method"][BEST:])]
        chosen = "" if shown.all() else f" ({', '.join([f'the best {BEST} of {len(rows)} methods', *others])})"
        parts = [
            f"{style.label(row.method)}{style.NO_BREAK_SPACE}{style.points(row.difference_points)}"
            for row in rows[shown].itertuples()
        ]
        lines.append(f"With {style.kept(share)} kept, in points to full{chosen}: {', '.join(parts)}.")
    return lines
