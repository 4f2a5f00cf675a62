"""What a study found, in sentences whose numbers all come from its tables."""

import pandas as pd

from report import style
from report.tables import FINETUNING, NEAR, Tables, is_near, keeps_more, with_picture

SHOWN_SHARES = (0.05, 0.25)
SHOWN_METHODS = ("ken", "ken-rescaled", "random")  # beside the best ones
BEST = 3
VERDICTS = {"reproduced": "✓", "not reproduced": "✗", "not decided": "?"}  # word -> mark, in the order of the report
FORMS = {
    "dense": "dense",
    "restored": "restored to a dense model",
    "merged": "merged into the weights",
    "beside": "adapter beside the weights",
    "compiled": "compiled to smaller layers",
}


def answer(tables: Tables) -> str:
    """The study in a paragraph: how many claims stand, and what KEN loses beside a random choice and the best."""
    shares = tables.over_all_cells()
    compared = shares[(shares["cells"] == tables.counts["cells"]) & shares["difference_points"].notna()]
    compared = compared[~keeps_more(compared, ["budget"])]
    return " ".join([*_tally(tables.claims), *_beside_random(compared, tables.counts["cells"])])


def _tally(claims: pd.DataFrame) -> list[str]:
    """How many claims of the paper have which verdict; those whose subjects differ are counted apart."""
    own = claims[claims["source"] == "paper"]
    if own.empty:
        return []
    verdicts = own.groupby("claim", sort=False)["verdict"].agg(
        lambda words: words.iloc[0] if words.nunique() == 1 else "different from case to case"
    )
    numbers = verdicts.value_counts()
    order = [word for word in (*VERDICTS, *numbers.index.difference(VERDICTS)) if word in numbers.index]
    parts = [f"{numbers[word]} {word}" for word in order]
    return [f"Of {style.count(len(verdicts), 'claim')} of the paper: {', '.join(parts)}."]


def _beside_random(compared: pd.DataFrame, cells: int) -> list[str]:
    """KEN at a quarter kept, or at the middle budget, beside a random choice and the best method."""
    budgets = sorted(set(compared.loc[compared["method"] == "ken", "budget"]))
    if not budgets:
        return []
    share = 0.25 if 0.25 in budgets else budgets[len(budgets) // 2]
    rows = compared[compared["budget"] == share].set_index("method")["difference_points"]
    best = rows.idxmax()
    parts = [f"{style.points(rows['ken'])} points of weighted F1 with KEN"]
    if "random" in rows.index:
        parts.append(f"{style.points(rows['random'])} with a random choice")
    if best not in ("ken", "random"):
        parts.append(f"{style.points(rows[best])} with the best of {len(rows)} methods, {style.label(best)}")
    text = (
        f"With {style.budget_label(share)} of each row kept, the difference to the fully fine-tuned model is "
        f"{_listed(parts)} (means over {style.count(cells, 'cell')})."
    )
    return [text, *_smallest(compared)]


def _smallest(compared: pd.DataFrame) -> list[str]:
    """Smallest kept shares of KEN and of the best method that cost at most a point."""
    near = compared[is_near(compared["difference_points"])].groupby("method")["kept_share"].min()
    if near.empty:
        return []
    best = near.idxmin()
    text = f"The smallest kept share of the body that costs at most {NEAR:g} point on average is "
    parts = [f"{style.percent(round(near[best], 3))} with {style.label(best)}"]
    if best != "ken" and "ken" in near.index:
        parts.append(f"{style.percent(round(near['ken'], 3))} with KEN")
    none = "" if "ken" in near.index else "; KEN comes that near at no kept share of the study"
    return [f"{text}{_listed(parts)}{none}."]


def rank_sentences(ranks: pd.DataFrame) -> list[str]:
    """The method of best average rank at every budget that has a picture, and those not told apart from it."""
    lines = []
    for (unit, budget), rows in with_picture(ranks).sort_values("budget", kind="stable").groupby(["unit", "budget"]):
        rows = rows.sort_values("average_rank", kind="stable")
        best = rows.iloc[0]
        near = rows[rows["average_rank"] - best["average_rank"] < best["critical_difference"]]["method"][1:]
        others = ", ".join(map(style.label, near)) or "none"
        lines.append(
            f"{style.budget_label(budget, unit)}{' kept' if unit == 'share' else ''}: best average rank of "
            f"{best['methods']:.0f} methods, {style.label(best['method'])} {best['average_rank']:.1f}; not told apart "
            f"from it at 5 %: {others}."
        )
    return lines


def spread_sentences(spread: pd.DataFrame) -> list[str]:
    """Of each method, how many matrices lie inside the interval of choices at random, and on which side the others."""
    lines = []
    for method, rows in spread.groupby("method", sort=False):
        found = {row.statistic: row for row in rows.itertuples()}
        parts = [
            f"by {name}, {row.inside:.0f} of {row.matrices:.0f} matrices lie inside the interval, "
            f"{row.above:.0f} above it (clusters) and {row.below:.0f} below it"
            for statistic, name in (("neighbours", "kept neighbours"), ("moran", "Moran's I"))
            if (row := found.get(statistic)) is not None
        ]
        lines.append(f"{style.label(method)}: {'; '.join(parts)}.")
    return lines


def bandwidth_sentence(checks: pd.DataFrame) -> str:
    """How far the weighted F1 moves over all bandwidth factors, at each kept share; "" if that was not looked at."""
    found = checks[checks["check"] == "bandwidth"]
    parts = [
        f"{rows['difference_points'].max() - rows['difference_points'].min():.1f} points at {style.percent(share)} kept"
        for share, rows in found.groupby("kept_share")
    ]
    factors = found["variant"].astype(float)
    if not parts:
        return ""
    low, high = factors.min(), factors.max()
    return (
        f"Between the best and the worst factor from {low:g} to {high:g}, means over cells differ by {_listed(parts)}."
    )


def zero_sentence(checks: pd.DataFrame) -> str:
    """What resetting is worth over setting to zero; "" if that was not looked at."""
    wide = checks[checks["check"] == "zero"].pivot(
        index=["method", "kept_share"], columns="variant", values="difference_points"
    )
    worth = (wide["reset"] - wide["zero"]).dropna() if {"reset", "zero"} <= set(wide.columns) else pd.Series()
    parts = [
        f"{style.points(value)} points with {style.label(method)} at {style.percent(share)} kept"
        for (method, share), value in worth.items()
    ]
    text = "Resetting the same entries instead of setting them to zero changes weighted F1 by "
    return f"{text}{_listed(parts)}." if parts else ""


def matrices_sentence(checks: pd.DataFrame) -> str:
    """Which kind of matrix loses most when it alone is pruned; "" if that was not looked at."""
    found = checks[checks["check"] == "matrices"]
    if found.empty:
        return ""
    worst = found.loc[found["difference_points"].idxmin()]
    if is_near(worst["difference_points"]):
        return f"No kind of matrix loses more than {NEAR:g} point when it alone is pruned."
    points, share = style.points(worst["difference_points"]), style.percent(round(worst["parameter_share"], 3))
    kind = worst["variant"]
    return f"Of the kinds pruned alone, “{kind}” loses most: {points} points, with {share} of the body's entries."


def timing_sentence(claims: pd.DataFrame) -> str:
    """Slopes of log seconds on log size and log k, from the claim about them; "" if they were not computed."""
    found = claims[(claims["unit"] == "slope") & claims["estimate"].notna()]
    parts = []
    for row in found.itertuples():
        method, _, over = row.subject.partition(", ")
        slope, low, high = (f"{value:.2f}".replace("-0.00", "0.00") for value in (row.estimate, row.low, row.high))
        name = f"{style.label(method)} over {over}" if over else row.subject
        parts.append(f"{name} {slope} ({low} to {high})".replace(" -", " −").replace("(-", "(−"))
    return f"Slopes of log seconds, with 95 % intervals; linear is 1: {'; '.join(parts)}." if parts else ""


def cost_sentence(cost: pd.DataFrame) -> str:
    """Time of making a file of KEN and of the methods that train, in units of the fine-tuning's."""
    relative = cost.set_index("method")["relative"].dropna()
    trained = cost.loc[(cost["family"] == "trained") & (cost["method"] != FINETUNING), "method"]
    shown = [name for name in ("ken", *trained) if name in relative.index]
    parts = [f"{style.label(name)} {relative[name]:.2g}" for name in shown]
    if not parts:
        return ""
    text = f"Seconds of making one stored file, in units of the fine-tuning of the same cell: {', '.join(parts)}."
    return f"{text} What does not train needs the fine-tuned model first, so its seconds come on top."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


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
        f"{style.count(full['cells'], 'cell')} (model × task × seed)"
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
    rest = [f"No kept share of the study costs so little with {_listed(missed)}."] if missed else []
    if not parts:
        return [f"No method stays within {NEAR:g} point of weighted F1 on average at any kept share of the study."]
    return [f"{text}{'; '.join(parts)}.", *rest]


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
    cells = style.count(front["cells"].max(), "cell")
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
        f"({style.count(row.cells, 'cell')})"
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
