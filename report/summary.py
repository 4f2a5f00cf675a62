"""What a study found, in sentences whose numbers all come from its tables."""

import pandas as pd

from report import style
from report.tables import NEAR, Tables

SHOWN_SHARES = (0.1, 0.25, 0.5)


def sentences(tables: Tables) -> list[str]:
    """The findings of a study, most important first; what was not run is left out."""
    compressed = tables.overview[~tables.overview["method"].isin(style.CONTROLS)]
    compressed = compressed[compressed["difference_points"].notna()]
    return [
        *_near_full(compressed),
        *_span(tables),
        *_at_shares(compressed),
        *_suggested(tables.suggestions),
        *_worth_of_pretraining(tables.pretraining_gain),
        *_without_score(tables.counts),
    ]


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


def _at_shares(compressed: pd.DataFrame) -> list[str]:
    found = set(compressed["budget"])
    shares = [share for share in SHOWN_SHARES if share in found] or sorted(found)[: len(SHOWN_SHARES)]
    lines = []
    for share in shares:
        rows = compressed[compressed["budget"] == share].sort_values("difference_points", ascending=False)
        parts = [
            f"{style.label(row.method)}{style.NO_BREAK_SPACE}{style.points(row.difference_points)}"
            for row in rows.itertuples()
        ]
        lines.append(f"With {style.budget_label(share)} of each row kept, in points to full: {', '.join(parts)}.")
    return lines


def _near_full(compressed: pd.DataFrame) -> list[str]:
    """Smallest budget of each method whose mean difference to full is at most one point."""
    if compressed.empty:
        return []
    near = compressed[compressed["difference_points"] >= -NEAR]
    smallest = near.loc[near.groupby("method", sort=False)["kept_share"].idxmin()].sort_values(
        "kept_share", kind="stable"
    )
    parts = [f"{style.label(row.method)} at {style.budget_label(row.budget)}" for row in smallest.itertuples()]
    missed = [style.label(name) for name in dict.fromkeys(compressed["method"]) if name not in set(near["method"])]
    text = f"Smallest kept share that costs at most {NEAR:g} point of weighted F1 on average: {', '.join(parts)}."
    rest = f"That near to the full model at no kept share of the study: {', '.join(missed)}." if missed else ""
    if not parts:
        return [f"No method stays within {NEAR:g} point of weighted F1 on average at any kept share of the study."]
    return [f"{text} {rest}".strip()]


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
    if not counts["declined"] + counts["failed"]:
        return []
    return [
        f"Of {counts['rows']} rows, {counts['declined']} were declined and {counts['failed']} failed; all are listed."
    ]


def _count(number: float, noun: str) -> str:
    return f"{int(number)} {noun}{'' if number == 1 else 's'}"
