"""What a study found, in sentences whose numbers all come from its tables."""

import pandas as pd

from report import style
from report.tables import NEAR, Tables, is_near, keeps_more

SHOWN_SHARES = (0.05, 0.25)
SHOWN_METHODS = ("ken", "ken-rescaled", "random")  # beside the best ones
BEST = 3
FORMS = {
    "dense": "dense",
    "restored": "restored to a dense model",
    "merged": "merged into the weights",
    "beside": "adapter beside the weights",
    "compiled": "compiled to smaller layers",
}


def sentences(tables: Tables) -> list[str]:
    """The findings of a study, most important first; what was not run is left out.

    Only methods with a score in every cell are compared over all cells.
    """
    shares = tables.over_all_cells()
    compared = shares[(shares["cells"] == tables.counts["cells"]) & shares["difference_points"].notna()]
    return [
        *_near_full(compared),
        *_span(tables),
        *_at_shares(compared),
        *_front(tables.pareto),
        *_equal_bytes(tables.matched),
        *_suggested(tables.suggestions),
        *_worth_of_pretraining(tables.pretraining_gain),
        *filter(None, [speed(tables.inference)]),
        *_without_score(tables.counts),
    ]


def speed(times: pd.DataFrame) -> str:
    """How long a text takes in the forms a compressed model is used in; "" if that was not measured.

    Args:
        times: the table inference. Of a form with many rows the range is given.
    """
    parts = []
    for form, rows in times[times["form"] != "dense"].groupby("form", sort=False):
        each = [
            f"{style.setting(row.method, row.budget, row.unit)} {row.relative_time:.2f}" for row in rows.itertuples()
        ]
        if len(rows) > BEST:
            names = ", ".join(style.label(name) for name in dict.fromkeys(rows["method"]))
            each = [f"{rows['relative_time'].min():.2f} to {rows['relative_time'].max():.2f} ({names})"]
        parts.append(f"{FORMS.get(form, form)}: {', '.join(each)}")
    return f"Time of a text in units of the dense model's: {'; '.join(parts)}." if parts else ""


def _span(tables: Tables) -> list[str]:
    controls = tables.overview.set_index("method")
    full = controls.loc["full"]
    text = (
        f"Fully fine-tuned, the models reach a weighted F1 of {style.score(full['weighted_f1'])} on average over "
        f"{_count(full['cells'], 'cell')} (model × task × seed)"
    )
    if "none" in controls.index and pd.notna(controls.loc["none", "weighted_f1"]):
        text += (
            f"; with the whole body reset and only the head kept, {style.score(controls.loc['none', 'weighted_f1'])}"
        )
    return [f"{text}."]


def _at_shares(compared: pd.DataFrame) -> list[str]:
    """Differences to full at a few kept shares; of many methods, the best ones and those of `SHOWN_METHODS`."""
    compared = compared[~keeps_more(compared, ["budget"])]
    found = set(compared["budget"])
    lines = []
    for share in [share for share in SHOWN_SHARES if share in found] or sorted(found)[: len(SHOWN_SHARES)]:
        rows = compared[compared["budget"] == share].sort_values("difference_points", ascending=False, kind="stable")
        shown = rows["method"].isin([*rows["method"][:BEST], *SHOWN_METHODS])
        others = [style.label(name) for name in SHOWN_METHODS if name in set(rows["method"][BEST:])]
        chosen = "" if shown.all() else f" ({', '.join([f'the best {BEST} of {len(rows)} methods', *others])})"
        parts = [
            f"{style.label(row.method)}{style.NO_BREAK_SPACE}{style.points(row.difference_points)}"
            for row in rows[shown].itertuples()
        ]
        kept = f"{style.budget_label(share)} of each row" if share <= 1 else f"{share:g} entries of each row"
        lines.append(f"With {kept} kept, in points to full{chosen}: {', '.join(parts)}.")
    return lines


def _near_full(compared: pd.DataFrame) -> list[str]:
    """Smallest share of the body of each method whose mean difference to full is at most one point."""
    if compared.empty:
        return []
    near = compared[is_near(compared["difference_points"])]
    smallest = near.loc[near.groupby("method", sort=False)["kept_share"].idxmin()]
    groups = smallest.groupby(smallest["kept_share"].round(2))["method"]
    parts = [f"{style.percent(share)} with {', '.join(map(style.label, methods))}" for share, methods in groups]
    missed = [style.label(name) for name in dict.fromkeys(compared["method"]) if name not in set(near["method"])]
    text = f"Smallest share of the body to keep that costs at most {NEAR:g} point of weighted F1 on average: "
    rest = f" That near to the full model at no kept share of the study: {', '.join(missed)}." if missed else ""
    if not parts:
        return [f"No method stays within {NEAR:g} point of weighted F1 on average at any kept share of the study."]
    return [f"{text}{'; '.join(parts)}.{rest}"]


def _front(pareto: pd.DataFrame) -> list[str]:
    """What lies on the Pareto front over all cells."""
    front = pareto[(pareto["cells_of"] == "all") & (pareto["on_front"] == 1)].sort_values("stored_share")
    parts = [
        f"{style.setting(row.method, row.budget, row.unit)} ({style.percent(round(row.stored_share, 3))}, "
        f"{style.points(row.difference_points)})"
        for row in front.itertuples()
    ]
    if not parts:
        return []
    cells = _count(front["cells"].max(), "cell")
    return [f"Best for their size (share of the full file's bytes, points to full; {cells}): {', '.join(parts)}."]


def _equal_bytes(matched: pd.DataFrame) -> list[str]:
    """Methods with budgets of their own against KEN, rescaled if it was run, at equal stored bytes."""
    rows = matched[(matched["equal"] == "stored_bytes") & (matched["cells"] > 0)]
    against = next((name for name in ("ken-rescaled", "ken") if name in set(rows["against"])), None)
    rows = rows[rows["against"] == against]
    if rows.empty:
        return []
    parts = [
        f"{style.setting(row.method, row.budget, row.unit)} {style.points(row.difference_points)} "
        f"({_count(row.cells, 'cell')})"
        for row in rows.itertuples()
    ]
    return [f"At equal stored bytes, in points of weighted F1 over {style.label(against)}: {', '.join(parts)}."]


def _suggested(found: pd.DataFrame) -> list[str]:
    """Shares chosen on validation, a method each: median over models and tasks, and the loss on test."""
    if found.empty:
        return []
    parts = []
    for method, rows in found.groupby("method", sort=False):
        loss = style.points(-rows["loss_points"].mean())
        parts.append(f"{style.label(method)} {style.percent(round(rows['share'].median(), 3))} ({loss} points on test)")
    first = found.iloc[0]
    limit = f"at most {100 * first['margin']:g} points at {style.percent(first['confidence'])} confidence"
    return [f"Chosen on validation to lose {limit}, median share kept of each row: {', '.join(parts)}."]


def _worth_of_pretraining(gain: pd.DataFrame) -> list[str]:
    points = gain["gain_points"].dropna()
    if points.empty:
        return []
    return [
        f"Pre-training is worth {style.points(points.mean())} points of weighted F1 over random initialisation on "
        f"average ({style.points(points.min())} to {style.points(points.max())} over {len(points)} pairs of model and "
        "task)."
    ]


def _without_score(counts: dict) -> list[str]:
    without = counts["declined"] + counts["failed"]
    if not without:
        return []
    parts = f"{counts['declined']} declined, {counts['failed']} failed"
    return [f"Without a score: {without} of {counts['rows']} rows ({parts}); all are listed with their reasons."]


def _count(number: float, noun: str) -> str:
    return f"{int(number)} {noun}{'' if number == 1 else 's'}"
