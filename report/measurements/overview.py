"""Means over all cells per method and budget: the cost of resetting, and how much must be kept."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import pandas as pd

from report import drawing, labels, named, panels, style
from report import table as columns
from report.drawing import Drawing, Figure
from report.measurements.contract import ResultFiles, ResultTables
from report.results import CELL, Columns
from report.scores import METHOD, NEAR, aggregations, is_near, keeps_more, of_finetuned_cells, with_kept_shares
from report.table import Column, Table, TableCell

COLUMNS = {
    "overview": Columns.of(
        "method family unit",
        "budget cells without_score weighted_f1 difference_points difference_points_q25 "
        "difference_points_q75 within_1_point kept_share stored_bytes stored_share",
        "worst_class_f1 agreement",
    )
}
SHOWN_SHARES = (0.25, 0.05)  # kept shares in the sentences, the most important first


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """Means and differences to full per method and budget, over the cells in which it was run."""
    seeds = files.seeds
    compared = seeds["difference_points"].notna()
    seeds = seeds.assign(near=is_near(seeds["difference_points"]).astype(float).where(compared))
    means = aggregations("weighted_f1 worst_class_f1 agreement difference_points kept_share stored_bytes stored_share")
    grouped = seeds.groupby(METHOD, sort=False)
    table = grouped.agg(cells=("seed", "size"), within_1_point=("near", "mean"), **means)
    for percent in (25, 75):
        table[f"difference_points_q{percent}"] = grouped["difference_points"].quantile(percent / 100)
    asked = of_finetuned_cells(files.scores).drop_duplicates([*CELL, *METHOD]).groupby(METHOD, sort=False).size()
    table = asked.rename("asked").to_frame().join(table)
    table["cells"] = table["cells"].fillna(0).astype(int)
    table["without_score"] = table["asked"] - table["cells"]
    return {"overview": table.reset_index()[[*COLUMNS["overview"].names, *COLUMNS["overview"].optional]]}


def page(tables: ResultTables) -> dict[str, Any]:
    """Means per method and kept share, the full table, and the methods run on a part of the cells."""
    return {
        "means": means_table(tables),
        "detail": _detail_table(tables),
        "partial": partial_methods(tables),
        "ends": _ends(tables),
        "caption": _caption(tables),
    }


def _caption(tables: ResultTables) -> str:
    return (
        f"Mean over {tables.extent}, each compared with its own full model; logarithmic beyond a point. One panel for "
        "updates kept as they are, one for rescaled ones, with KEN and a random choice as they are for comparison. "
        "Band: the middle half of the cells."
    )


def row_anchor(method: str, unit: str, budget: float) -> str:
    """Id of the row of a setting in the table of all means."""
    return f"row-{quote(method, safe='')}-{quote(unit, safe='')}-{budget:g}"


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
    anchors = [row_anchor(row.method, row.unit, row.budget) for row in tables.overview.itertuples()]
    table = Table.of(
        [
            columns.stored_method(),
            columns.budget("Asked"),
            columns.number("Cells", "cells", style.integer),
            columns.number("Weighted F1", "weighted_f1", style.score),
            columns.number("To full", "difference_points", style.points),
            columns.number("F1 of the worst class", "worst_class_f1", style.score),
            columns.number("Answers as full", "agreement", style.share),
            columns.span("Middle half of cells", quarter, three_quarters, style.points),
            *columns.numbers(shares, style.share),
            columns.number("Stored file", "stored_bytes", style.size),
            Column("Pareto front", lambda row: TableCell("yes" if (row.method, row.budget) in front else "")),
        ],
        tables.overview.itertuples(),
    )
    return replace(table, anchors=anchors)


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
    rows, order = panels.families(tables), named.methods(tables)
    figure, grid = drawing.canvas(drawing.WIDTH, 3.4 * len(rows) + 0.3, len(rows), 1, sharex=True, sharey=True)
    drawing.share_axis(grid[0, 0], with_kept_shares(tables.overview)["kept_share"])
    for axes, (title, methods) in zip(grid[:, 0], rows.items(), strict=True):
        drawing.shade_near(axes, NEAR)
        others = panels.draw_methods(axes, frame, methods, "difference_points", order)
        axes.set_title(f"Kept values {title}" if methods else "")
        drawing.note_others(axes, others)
        axes.tick_params(labelbottom=True)
        axes.set_ylabel(drawing.POINTS_LABEL)
    shown = pd.concat([frame.loc[frame["kept_share"] > 0, "low"], frame["difference_points"], frame["high"]])
    drawing.points_axis(grid[0, 0], shown, linear=0.6)
    grid[-1, 0].set_xlabel(panels.XLABEL)
    labels.write(figure)
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


def sentences(tables: ResultTables) -> list[str]:
    """The bounds of all scores, losses at a few kept shares, and how much must be kept."""
    compared = _compared(tables)
    shares = compared[~keeps_more(compared, ["budget"])]
    budgets = sorted(set(shares["budget"]))
    shown = [share for share in SHOWN_SHARES if share in budgets] or budgets[: len(SHOWN_SHARES)]
    return [
        _ends(tables),
        *(_at_share(_ranked(tables, share), share, share == shown[0]) for share in shown),
        *_answers(tables, shown[:1]),
        *_smallest(compared),
    ]


def _ends(tables: ResultTables) -> str:
    """Weighted F1 with nothing and with everything reset."""
    means = tables.overview.set_index("method")["weighted_f1"]
    cells = style.count(tables.overview.set_index("method").loc["full", "cells"], "cell")
    lines = [
        f"Fully fine-tuned, the models reach a weighted F1 of {style.score(means['full'])} on average over {cells} "
        "(model × task × seed)."
    ]
    if "none" in means.index and pd.notna(means["none"]):
        lines.append(f"With the whole body reset and only the head kept, they reach {style.score(means['none'])}.")
    return " ".join(lines)


def _answers(tables: ResultTables, shares: Sequence[float]) -> list[str]:
    """Answers as the full model's and F1 of the worst class, for KEN and KEN rescaled at kept shares."""
    rows = tables.over_all_cells().dropna(subset=["agreement", "worst_class_f1"])
    full = tables.overview.set_index("method").loc["full", "worst_class_f1"]
    lines = []
    for share in shares:
        for row in rows[(rows["budget"] == share) & rows["method"].isin(["ken", "ken-rescaled"])].itertuples():
            lines.append(
                f"With {style.kept(share)} kept, {style.label(row.method)} answers {style.share(row.agreement)} of the "
                f"texts as the full model does. The F1 of its worst class is {style.score(row.worst_class_f1)}, the "
                f"full model's {style.score(full)}."
            )
    return [" ".join(lines)] if lines else []


def _at_share(ranked: pd.Series, share: float, explained: bool) -> str:
    """What KEN, a random choice, the best method and KEN rescaled lose at a kept share, compared with full.

    Args:
        ranked: method -> difference to full in points, see `_ranked`.
        share: the kept share.
        explained: whether to say what rescaling is.
    """
    best = ranked.idxmax()
    subjects = {name: words for name, words in {"ken": "KEN", "random": "a random choice"}.items() if name in ranked}
    if best not in subjects:
        many = f"the best of {len(ranked)} methods, {style.label(best)}," if len(ranked) > 1 else style.label(best)
        subjects[best] = many
    if "ken-rescaled" in ranked:
        subjects.setdefault(
            "ken-rescaled", f"KEN rescaled{', which divides kept updates by the kept share,' * explained}"
        )
    losses = [f"{words} {style.loses(ranked[name])}" for name, words in subjects.items()]
    lines = [f"With {style.kept(share)} kept, {losses[0]} points on average", *map(style.capitalised, losses[1:])]
    if best in ("ken", "random") and len(ranked) > 1:
        lines.append(f"No method loses less than {subjects[best]}")
    return f"{'. '.join(lines)}."


def _smallest(compared: pd.DataFrame) -> list[str]:
    """Smallest kept share of all methods that costs at most a point, and those of KEN and of a random choice."""
    if compared.empty:
        return []
    near = _smallest_near(compared)
    if near.empty:
        return [f"No method stays within {NEAR:g} point of weighted F1 on average at any kept share of the study."]
    best = near.sort_values(["kept_share", "difference_points"], ascending=[True, False], kind="stable").iloc[0]
    lines = [
        f"The smallest kept share that costs at most {NEAR:g} point on average is {style.percent(best['kept_share'])} "
        f"of the body, with {style.label(best['method'])}."
    ]
    needed, present = near.set_index("method")["kept_share"], set(compared["method"]) - {best["method"]}
    for name, words in {"ken": "KEN", "random": "A random choice"}.items():
        if name in needed and name in present:
            lines.append(f"{words} needs {style.percent(needed[name])}.")
        elif name in present:
            lines.append(f"{words} costs more at every kept share of the study.")
    return [" ".join(lines)]


def _smallest_near(compared: pd.DataFrame) -> pd.DataFrame:
    """The row of each method with the smallest kept share, rounded to percent, that costs at most a point.

    Rounded, because the shares that draws of the same budget really keep differ by chance.
    """
    near = compared[is_near(compared["difference_points"])]
    near = near.assign(kept_share=near["kept_share"].round(2))
    order = near.sort_values(["kept_share", "difference_points"], ascending=[True, False], kind="stable")
    return order.drop_duplicates("method").sort_index()
