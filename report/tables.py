"""Computing: from the scores of a study to its summary tables, each as CSV (numbers) and Markdown (for people).

`python -m report.tables --results results/mini` writes them to results/mini/tables. Draws of a random method are
averaged within a seed first, so that a spread is always one over seeds. Differences to `full` are paired by model, task
and seed. Budgets of different units are never put side by side: methods with kept shares are compared at equal budgets,
all others at equal numbers kept or equal bytes stored.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report import language, style
from report.errors import run
from report.results import (
    read_checks,
    read_claims,
    read_finetuning,
    read_inference,
    read_json,
    read_models,
    read_scores,
    read_spread,
    read_statistics,
    read_suggestions,
    read_table,
    read_tasks,
    read_timing,
    write_text,
    write_whole,
)

CELL = ["model", "task", "seed"]
METHOD = ["method", "family", "unit", "budget"]
GROUP = ["model", "task", *METHOD]
NEAR = 1.0  # points of weighted F1 that still count as near to full
SAME_COST = 1.01  # files up to this much larger count as equally large
MEASURES = ("kept", "stored_bytes")  # what methods with budgets of different units can be compared at
ALPHA = 0.05  # p-values below it are called significant, after Holm's correction
PLACES = ("below", "inside", "above")  # of a statistic, by the interval of choices at random
FINETUNING = "fine-tuning"  # the row of the table cost that the others are in units of
_ROUNDING = 1e-9  # of a difference of two scores with three decimals, so that exactly one point is near

TEXT = {
    "scores_summary": ("model", "task", "method", "family", "unit"),
    "overview": ("method", "family", "unit"),
    "pareto": ("cells_of", "method", "family", "unit"),
    "matched": ("method", "family", "unit", "against", "equal"),
    "inference": ("method", "unit", "form"),
    "pretraining_gain": ("model", "task"),
    "finetuned": ("model", "task"),
    "suggestions": ("model", "task", "method"),
    "not_ok": ("model", "task", "method", "unit", "status", "reason"),
    "claims": ("claim", "source", "text", "subject", "rule", "unit", "verdict", "why"),
    "comparisons": ("model", "task", "method", "unit", "reference"),
    "pairwise": ("method", "other", "unit"),
    "ranks": ("unit", "method"),
    "checks": ("check", "variant", "method"),
    "spread": ("method", "statistic"),
    "spread_matrices": ("model", "task", "method", "matrix", "statistic", "place"),
    "timing": ("method",),
    "cost": ("method", "family"),
}
NUMERIC = {
    "scores_summary": (
        *("budget", "seeds", "draws", "declined", "failed", "weighted_f1", "weighted_f1_sd", "difference_points"),
        *("difference_points_sd", "macro_f1", "accuracy", "kept", "kept_share", "parameters", "stored_bytes"),
        *("stored_share", "learning_rate_min", "learning_rate_max", "validation_weighted_f1", "seconds"),
    ),
    "overview": (
        *("budget", "cells", "without_score", "weighted_f1", "difference_points", "difference_points_q25"),
        *("difference_points_q75", "within_1_point", "kept_share", "stored_bytes", "stored_share"),
    ),
    "pareto": ("budget", "cells", "difference_points", "stored_share", "on_front"),
    "matched": ("budget", "cells", "difference_points", "difference_points_sd"),
    "inference": (
        *("budget", "cells", "relative_time", "relative_time_min", "relative_time_max", "milliseconds_per_text"),
        *("parameters", "peak_mib"),
    ),
    "pretraining_gain": ("seeds", "random_init", "random_init_sd", "pretrained", "pretrained_sd", "gain_points"),
    "finetuned": ("seeds", "full", "full_sd", "none", "none_sd", "majority", "tfidf", "over_tfidf_points"),
    "suggestions": (
        *("seeds", "share", "share_min", "share_max", "stored_bytes", "loss_points", "loss_points_max", "margin"),
        "confidence",
    ),
    "not_ok": ("seed", "draw", "budget"),
    "claims": ("estimate", "low", "high", "n"),
    "comparisons": ("budget", "seeds", "difference_points", "better", "worse"),
    "pairwise": ("budget", "n", "difference_points", "low", "high", "wilcoxon_p", "wilcoxon_p_holm"),
    "ranks": ("budget", "n", "average_rank", "methods", "critical_difference", "friedman_p"),
    "checks": (
        *(
            "kept_share",
            "cells",
            "seeds",
            "weighted_f1",
            "difference_points",
            "difference_points_min",
            "difference_points_max",
        ),
        *("none_points", "stored_bytes", "parameters", "parameter_share"),
    ),
    "spread": ("budget", "matrices", *PLACES, "difference", "difference_min", "difference_max"),
    "spread_matrices": ("seed", "budget", "difference", "low", "high"),
    "timing": ("size", "k", "seconds"),
    "cost": ("cells", "files", "seconds", "seconds_min", "seconds_max", "relative", "peak_mib"),
}


def average_draws(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a model, task, seed, method and budget: means over the draws that are ok, and their number.

    `difference_points` is 100 × (weighted F1 − that of `full` of the same model, task and seed), `stored_share` the
    bytes of the file in units of those of `full`.
    """
    ok = scores[scores["status"] == "ok"]
    means = ("weighted_f1", "macro_f1", "accuracy", "kept", "kept_share", "parameters", "stored_bytes", "seconds")
    seeds = (
        ok.groupby([*CELL, *METHOD], sort=False)
        .agg(
            **{name: (name, "mean") for name in (*means, "learning_rate", "validation_weighted_f1")},
            draws=("draw", "nunique"),
        )
        .reset_index()
    )
    full = seeds[seeds["method"] == "full"].groupby(CELL, sort=False)[["weighted_f1", "stored_bytes"]].mean()
    seeds = seeds.merge(full.add_prefix("full_").reset_index(), on=CELL, how="left")
    seeds["difference_points"] = 100 * (seeds["weighted_f1"] - seeds["full_weighted_f1"])
    seeds["stored_share"] = seeds["stored_bytes"] / seeds["full_stored_bytes"]
    return seeds


def with_kept_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the methods that the study asks for its kept shares: neither controls nor trained, budgets in shares."""
    return table[_has_kept_shares(table)]


def with_own_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the methods with budgets of their own: ranks, sizes, bits, and whatever a method that trains is asked."""
    return table[~_has_kept_shares(table) & ~table["method"].isin(style.CONTROLS)]


def _has_kept_shares(table: pd.DataFrame) -> pd.Series:
    return (table["unit"] == "share") & (table["family"] != "trained") & ~table["method"].isin(style.CONTROLS)


def is_near(points):
    """Whether differences to full, one or a series, are at most `NEAR` points of loss."""
    return points >= -NEAR - _ROUNDING


def keeps_more(table: pd.DataFrame, within: list[str]) -> pd.Series:
    """Whether a row holds over a tenth more than the (lower) median of its group does at the same budget.

    So does a method that keeps some tensors whole; what it scores is then not a score at that budget.
    """
    median = table.groupby(within)["kept_share"].transform(lambda shares: shares.quantile(interpolation="lower"))
    return table["kept_share"] > 1.1 * median


def scores_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1) over seeds per model, task, method and budget.

    Groups without any score stay, with their number of declined and failed rows.
    """
    means = ("macro_f1", "accuracy", "kept", "kept_share", "parameters", "stored_bytes", "stored_share", "seconds")
    found = (
        average_draws(scores)
        .groupby(GROUP, sort=False)
        .agg(
            seeds=("seed", "nunique"),
            draws=("draws", "max"),
            weighted_f1=("weighted_f1", "mean"),
            weighted_f1_sd=("weighted_f1", "std"),
            difference_points=("difference_points", "mean"),
            difference_points_sd=("difference_points", "std"),
            learning_rate_min=("learning_rate", "min"),
            learning_rate_max=("learning_rate", "max"),
            **{name: (name, "mean") for name in (*means, "validation_weighted_f1")},
        )
        .reset_index()
    )
    status = scores[GROUP].assign(
        declined=(scores["status"] == "declined").astype(int), failed=(scores["status"] == "failed").astype(int)
    )
    table = status.groupby(GROUP, sort=False)[["declined", "failed"]].sum().reset_index().merge(found, "left", on=GROUP)
    table[["seeds", "draws"]] = table[["seeds", "draws"]].fillna(0).astype(int)
    return table[[*TEXT["scores_summary"], *NUMERIC["scores_summary"]]]


def overview(scores: pd.DataFrame) -> pd.DataFrame:
    """Means and differences to full per method and budget, over the cells (model × task × seed) where it was run."""
    seeds = average_draws(scores)
    compared = seeds["difference_points"].notna()
    seeds["near"] = is_near(seeds["difference_points"]).astype(float).where(compared)
    difference = seeds.groupby(METHOD, sort=False)["difference_points"]
    means = ("weighted_f1", "difference_points", "kept_share", "stored_bytes", "stored_share")
    table = seeds.groupby(METHOD, sort=False).agg(
        cells=("seed", "size"), within_1_point=("near", "mean"), **{name: (name, "mean") for name in means}
    )
    table["difference_points_q25"] = difference.quantile(0.25)
    table["difference_points_q75"] = difference.quantile(0.75)
    asked = scores.drop_duplicates([*CELL, *METHOD]).groupby(METHOD, sort=False).size()
    table = asked.rename("asked").to_frame().join(table)
    table["cells"] = table["cells"].fillna(0).astype(int)
    table["without_score"] = table["asked"] - table["cells"]
    return table.reset_index()[[*TEXT["overview"], *NUMERIC["overview"]]]


def pareto(scores: pd.DataFrame) -> pd.DataFrame:
    """Difference to full against stored bytes, means over cells, and what lies on the Pareto front.

    `cells_of` is "all" for what has a score in every cell, "common" for the cells where every method has one; these
    rows are there only if some methods were run on a part of the cells. Controls are never on the front.
    """
    seeds = average_draws(scores)
    seeds = seeds[seeds["difference_points"].notna()]
    parts = {"all": seeds, "common": _common_cells(seeds)}
    tables = [_pareto_points(part).assign(cells_of=name) for name, part in parts.items() if len(part)]
    return pd.concat(tables, ignore_index=True)[[*TEXT["pareto"], *NUMERIC["pareto"]]]


def _common_cells(seeds: pd.DataFrame) -> pd.DataFrame:
    """Rows of the cells where every method has a score; none if these are all cells."""
    present = seeds.drop_duplicates([*CELL, "method"])
    methods = present.groupby(CELL)["method"].transform("size")
    common = present.loc[methods == present["method"].nunique(), CELL].drop_duplicates()
    if len(common) == len(seeds[CELL].drop_duplicates()):
        return seeds.iloc[:0]
    return seeds.merge(common, on=CELL)


def _pareto_points(seeds: pd.DataFrame) -> pd.DataFrame:
    means = {name: (name, "mean") for name in ("difference_points", "stored_share")}
    points = seeds.groupby(METHOD, sort=False).agg(cells=("seed", "size"), **means).reset_index()
    points = points[points["cells"] == len(seeds[CELL].drop_duplicates())]
    competing = points[~points["method"].isin(style.CONTROLS)]
    front = competing.index[on_front(competing["stored_share"], competing["difference_points"])]
    return points.assign(on_front=points.index.isin(front).astype(int))


def on_front(costs: pd.Series, gains: pd.Series) -> np.ndarray:
    """Whether no other point gains more at no more cost, or as much at less cost: (n,) bool.

    Costs up to 1 % higher count as equal: files of as many entries differ by a few bytes, which is no merit.
    """
    costs, gains = costs.to_numpy(), gains.to_numpy()
    gains_more = (gains[None] > gains[:, None]) & (costs[None] <= SAME_COST * costs[:, None])
    costs_less = (gains[None] == gains[:, None]) & (costs[None] < costs[:, None])
    return ~(gains_more | costs_less).any(axis=1)


def matched(scores: pd.DataFrame) -> pd.DataFrame:
    """Methods with budgets of their own against those with kept shares, at equal numbers kept and equal stored bytes.

    The weighted F1 of the other method is interpolated between its budgets, linearly in the logarithm of the size, in
    each cell on its own; outside its range there is no comparison. Numbers kept are not compared where a budget is in
    bits, since the entries behind the bits are not counted as kept.
    """
    seeds = average_draws(scores)
    others = dict(list(with_own_budgets(seeds).groupby(CELL, sort=False)))
    rows = []
    for (*cell, against), curve in with_kept_shares(seeds).groupby([*CELL, "method"], sort=False):
        for measure in MEASURES if tuple(cell) in others else ():
            points = others[tuple(cell)]
            points = points[(points["unit"] != "bits") | (measure != "kept")]
            difference = 100 * (points["weighted_f1"] - interpolated(curve, measure, points[measure]))
            rows.append(points[METHOD].assign(against=against, equal=measure, difference_points=difference))
    keys = [*TEXT["matched"], "budget"]
    found = pd.concat(rows) if rows else pd.DataFrame(columns=[*keys, "difference_points"], dtype=float)
    difference = found.groupby(keys, sort=False)["difference_points"]
    statistics = {"cells": "count", "difference_points": "mean", "difference_points_sd": "std"}
    table = difference.agg(list(statistics.values())).set_axis(list(statistics), axis=1).reset_index()
    return table[[*TEXT["matched"], *NUMERIC["matched"]]]


def interpolated(curve: pd.DataFrame, measure: str, sizes: pd.Series) -> np.ndarray:
    """Weighted F1 of one method in one cell at other sizes, linear in log size; NaN outside the range of its budgets.

    Args:
        curve: rows of the method with columns `measure` and weighted_f1; equal sizes are averaged.
        sizes: (n,) where it is wanted.
    """
    known = curve.groupby(measure)["weighted_f1"].mean()
    return np.interp(np.log(sizes), np.log(known.index), known, left=np.nan, right=np.nan)


def inference(times: pd.DataFrame) -> pd.DataFrame:
    """Time relative to the dense model's per method, budget and form: geometric mean and range over cells."""
    keys = ["method", "unit", "budget", "form"]
    table = (
        times.assign(log=np.log(times["relative_time"]))
        .groupby(keys, sort=False)
        .agg(
            cells=("seed", "size"),
            relative_time=("log", "mean"),
            relative_time_min=("relative_time", "min"),
            relative_time_max=("relative_time", "max"),
            **{name: (name, "mean") for name in ("milliseconds_per_text", "parameters", "peak_mib")},
        )
    )
    table["relative_time"] = np.exp(table["relative_time"])
    return table.reset_index()[[*TEXT["inference"], *NUMERIC["inference"]]]


def pretraining_gain(finetuning: pd.DataFrame) -> pd.DataFrame:
    """Fine-tuning from the pre-trained body against random initialisation, on the seeds that have both."""
    keys = ["model", "task"]
    arms = finetuning.pivot_table(index=CELL, columns="arm", values="weighted_f1", sort=False)
    both = arms.reindex(columns=["random-init", "pretrained"]).dropna().reset_index()
    both["gain_points"] = 100 * (both["pretrained"] - both["random-init"])
    table = both.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"),
        random_init=("random-init", "mean"),
        random_init_sd=("random-init", "std"),
        pretrained=("pretrained", "mean"),
        pretrained_sd=("pretrained", "std"),
        gain_points=("gain_points", "mean"),
    )
    return table.reset_index()[[*TEXT["pretraining_gain"], *NUMERIC["pretraining_gain"]]]


def suggestions(found: pd.DataFrame) -> pd.DataFrame:
    """Kept shares chosen on validation, over seeds, and what they lose on test, per model, task and method."""
    lost = found.assign(loss_points=100 * (found["full_weighted_f1"] - found["weighted_f1"]))
    table = lost.groupby(["model", "task", "method"], sort=False).agg(
        seeds=("seed", "nunique"),
        share=("share", "mean"),
        share_min=("share", "min"),
        share_max=("share", "max"),
        stored_bytes=("stored_bytes", "mean"),
        loss_points=("loss_points", "mean"),
        loss_points_max=("loss_points", "max"),
        margin=("margin", "first"),
        confidence=("confidence", "first"),
    )
    return table.reset_index()[[*TEXT["suggestions"], *NUMERIC["suggestions"]]]


def finetuned(scores: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """The span in which compression happens, per model and task: `full`, `none`, majority class and TF-IDF."""
    keys = ["model", "task"]
    seeds = average_draws(scores)
    table = scores[keys].drop_duplicates().set_index(keys)
    for control in ("full", "none"):
        values = seeds[seeds["method"] == control].groupby(keys, sort=False)["weighted_f1"]
        table[control], table[f"{control}_sd"] = values.mean(), values.std()
        if control == "full":
            table["seeds"] = values.size()
    references = tasks.set_index("task")[["majority_weighted_f1", "tfidf_weighted_f1"]]
    table = table.join(references.set_axis(["majority", "tfidf"], axis=1), on="task").reset_index()
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["over_tfidf_points"] = 100 * (table["full"] - table["tfidf"])
    return table[[*TEXT["finetuned"], *NUMERIC["finetuned"]]]


def not_ok(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows that were declined or failed, with their reasons."""
    columns = [*("model", "task", "seed", "draw", "method", "budget", "unit"), "status", "reason"]
    return scores.loc[scores["status"] != "ok", columns]


def comparisons(found: pd.DataFrame) -> pd.DataFrame:
    """Differences to the reference methods per model and task: means over seeds, and how many seeds are significant.

    Args:
        found: comparisons.csv; `better` and `worse` count its rows with a corrected McNemar p below `ALPHA`.
    """
    significant = found["mcnemar_p_holm"] < ALPHA
    better, worse = significant & (found["difference_points"] > 0), significant & (found["difference_points"] < 0)
    keys = ["model", "task", "method", "unit", "budget", "reference"]
    table = (
        found.assign(better=better.astype(int), worse=worse.astype(int))
        .groupby(keys, sort=False)
        .agg(
            seeds=("seed", "nunique"),
            difference_points=("difference_points", "mean"),
            better=("better", "sum"),
            worse=("worse", "sum"),
        )
    )
    return table.reset_index()[[*TEXT["comparisons"], *NUMERIC["comparisons"]]]


def with_picture(ranks: pd.DataFrame) -> pd.DataFrame:
    """Ranked rows of the budgets that have at least 3 methods, all on at least 5 pairs of model and task."""
    ranked = ranks[ranks["average_rank"].notna()]
    return ranked[(ranked["methods"] >= 3) & (ranked["n"] >= 5)]


def not_told_apart(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """Groups of methods that Nemenyi's test does not tell apart (Demšar 2006, figure 1).

    Args:
        ranks: average ranks, ascending.
        critical_difference: ranks that differ by less are not told apart.

    Returns:
        First and last place of every group of two or more that is not part of a larger one.
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < critical_difference or place == first)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def checks(found: pd.DataFrame) -> pd.DataFrame:
    """Every variant of the checks of KEN at a kept share of the body (rounded to a hundredth): means over cells.

    `parameters` are those of the kind of matrix for the check matrices, `parameter_share` their share of the body;
    `none_points` is the difference of the body that is reset altogether.
    """
    body = found.groupby(CELL)["parameters"].transform("max")
    matrices = found["check"] == "matrices"
    if matrices.all():  # no other check says how large the body is
        body = found.groupby(CELL)["parameters"].transform("sum")
    rows = found.assign(
        kept_share=found["kept_share"].round(2).mask(matrices),
        share=found["kept_share"],
        difference_points=100 * (found["weighted_f1"] - found["full_weighted_f1"]),
        none_points=100 * (found["none_weighted_f1"] - found["full_weighted_f1"]),
        parameter_share=found["parameters"] / body,
    )
    keys = ["check", "variant", "method", "kept_share"]
    table = rows.groupby(keys, sort=False, dropna=False).agg(
        cells=("seed", "size"),
        seeds=("seed", "nunique"),
        held=("share", "mean"),
        difference_points_min=("difference_points", "min"),
        difference_points_max=("difference_points", "max"),
        **{
            name: (name, "mean")
            for name in ("weighted_f1", "difference_points", "none_points", "stored_bytes", "parameters")
        },
        parameter_share=("parameter_share", "mean"),
    )
    table = table.reset_index()
    table["kept_share"] = table["kept_share"].fillna(table["held"])
    return table[[*TEXT["checks"], *NUMERIC["checks"]]]


def spread_matrices(found: pd.DataFrame) -> pd.DataFrame:
    """A row a matrix and statistic: observed minus the mean of choices at random, with the ends of their interval."""
    axes = ["model", "task", "seed", "method", "budget", "matrix"]
    tables = []
    for name in ("neighbours", "entropy", "moran"):
        observed, chance = found[f"observed_{name}"], found[f"{name}_random"]
        low, high = found[f"{name}_low"], found[f"{name}_high"]
        place = np.select([observed < low, observed > high], ["below", "above"], "inside")
        ends = {"difference": observed - chance, "low": low - chance, "high": high - chance}
        tables.append(found[axes].assign(statistic=name, place=place, **ends))
    return pd.concat(tables, ignore_index=True)[[*TEXT["spread_matrices"], *NUMERIC["spread_matrices"]]]


def spread(matrices: pd.DataFrame) -> pd.DataFrame:
    """How many matrices lie below, inside and above the interval of choices at random, per method and statistic."""
    counted = matrices.assign(**{place: (matrices["place"] == place).astype(int) for place in PLACES})
    table = counted.groupby(["method", "statistic", "budget"], sort=False).agg(
        matrices=("matrix", "size"),
        **{place: (place, "sum") for place in PLACES},
        difference=("difference", "mean"),
        difference_min=("difference", "min"),
        difference_max=("difference", "max"),
    )
    return table.reset_index()[[*TEXT["spread"], *NUMERIC["spread"]]]


def cost(scores: pd.DataFrame, finetuning: pd.DataFrame) -> pd.DataFrame:
    """Seconds of making one stored file, in cells and in units of the fine-tuning of the same cell; peak memory.

    The seconds of a cell are the mean over its files. `relative` is the geometric mean over cells. The first row is
    the fine-tuning itself, and random initialisation is left out.
    """
    tuned = finetuning[finetuning["arm"] == "pretrained"].set_index(CELL)
    made = scores[(scores["status"] == "ok") & ~scores["method"].isin(style.CONTROLS)]
    cells = made.groupby([*CELL, "method", "family"], sort=False).agg(
        files=("seconds", "size"), seconds=("seconds", "mean"), peak_mib=("peak_mib", "max")
    )
    both = tuned[["seconds", "peak_mib"]].assign(method=FINETUNING, family="trained", files=1).reset_index()
    cells = pd.concat([both, cells.reset_index()], ignore_index=True)
    whole = cells.set_index(CELL).index.map(tuned["seconds"].to_dict()).to_numpy(float)
    with np.errstate(divide="ignore"):
        cells["log"] = np.log(cells["seconds"].to_numpy(float) / whole)
    table = cells.groupby(["method", "family"], sort=False).agg(
        cells=("seed", "size"),
        files=("files", "sum"),
        seconds=("seconds", "mean"),
        seconds_min=("seconds", "min"),
        seconds_max=("seconds", "max"),
        relative=("log", "mean"),
        peak_mib=("peak_mib", "max"),
    )
    table["relative"] = np.exp(table["relative"])
    return table.reset_index()[[*TEXT["cost"], *NUMERIC["cost"]]]


def counts(scores: pd.DataFrame) -> dict:
    """What was run: names in the order of the scores, the study's kept shares, and numbers of cells and rows."""

    def names(column: str) -> list:
        return list(dict.fromkeys(scores[column]))

    return {
        "models": names("model"),
        "tasks": names("task"),
        "methods": names("method"),
        "seeds": [int(seed) for seed in sorted(names("seed"))],
        "budgets": sorted(set(with_kept_shares(scores)["budget"])),
        "cells": len(scores[CELL].drop_duplicates()),
        "rows": len(scores),
        "draws": int(scores["draw"].nunique()),
        **{status: int((scores["status"] == status).sum()) for status in ("ok", "declined", "failed")},
    }


@dataclass(frozen=True)
class Tables:
    """The computed tables of a study, by the names of their files."""

    scores_summary: pd.DataFrame
    overview: pd.DataFrame
    pareto: pd.DataFrame
    matched: pd.DataFrame
    inference: pd.DataFrame
    pretraining_gain: pd.DataFrame
    finetuned: pd.DataFrame
    suggestions: pd.DataFrame
    not_ok: pd.DataFrame
    claims: pd.DataFrame
    comparisons: pd.DataFrame
    pairwise: pd.DataFrame
    ranks: pd.DataFrame
    checks: pd.DataFrame
    spread: pd.DataFrame
    spread_matrices: pd.DataFrame
    timing: pd.DataFrame
    cost: pd.DataFrame
    tasks: pd.DataFrame
    models: pd.DataFrame
    counts: dict

    @classmethod
    def compute(cls, results: Path) -> "Tables":
        """From the result files of a study.

        Raises:
            ReportError: a file is missing or malformed.
        """
        scores, tasks, finetuning = read_scores(results), read_tasks(results), read_finetuning(results)
        statistics, matrices = read_statistics(results), spread_matrices(read_spread(results))
        return cls(
            scores_summary(scores),
            overview(scores),
            pareto(scores),
            matched(scores),
            inference(read_inference(results)),
            pretraining_gain(finetuning),
            finetuned(scores, tasks),
            suggestions(read_suggestions(results)),
            not_ok(scores),
            read_claims(results),
            comparisons(statistics["comparisons"]),
            statistics["pairwise"],
            statistics["ranks"],
            checks(read_checks(results)),
            spread(matrices),
            matrices,
            read_timing(results),
            cost(scores, finetuning),
            tasks,
            read_models(results),
            counts(scores),
        )

    @classmethod
    def read(cls, results: Path) -> "Tables":
        """From the files that `write` has put into the folder `tables` of a study.

        Raises:
            ReportError: a file is missing or malformed.
        """
        folder = results / "tables"
        computed = [read_table(folder / f"{name}.csv", TEXT[name], NUMERIC[name]) for name in TEXT]
        return cls(*computed, read_tasks(folder), read_models(folder), read_json(folder / "counts.json"))

    def over_all_cells(self) -> pd.DataFrame:
        """Rows of the overview whose method takes kept shares and was run on every cell, with a score or without."""
        shares = with_kept_shares(self.overview)
        return shares[shares["cells"] + shares["without_score"] == self.counts["cells"]]

    def write(self, folder: Path) -> None:
        """Write every table as CSV and Markdown, and counts.json."""
        for name, table in vars(self).items():
            if isinstance(table, pd.DataFrame):
                write_table(folder / name, table)
        write_text(folder / "counts.json", json.dumps(self.counts, indent=2, ensure_ascii=False) + "\n")


def write_table(stem: Path, table: pd.DataFrame) -> None:
    """Write `stem`.csv and `stem`.md."""
    rounded = table.round(6)
    write_whole(stem.with_name(f"{stem.name}.csv"), lambda path: rounded.to_csv(path, index=False, lineterminator="\n"))
    write_text(stem.with_name(f"{stem.name}.md"), markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: numbers with four significant digits at least, nothing for missing ones."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return (
                "" if pd.isna(value) else f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4g}"
            )
        return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")

    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rows = [[cell(value) for value in line] for line in table.itertuples(index=False)]
    return style.markdown([cell(name) for name in table.columns], rows, numeric)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the summary tables of a study from its result files.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--out", type=Path, help="folder to write to (default: tables in the results folder)")
    arguments = parser.parse_args()
    tables = Tables.compute(arguments.results)
    folder = arguments.out or arguments.results / "tables"
    tables.write(folder)
    if not (found := language.read_perplexity(arguments.results)).empty:
        write_table(folder / "perplexity", language.summary(found))
    print(f"tables of {tables.counts['rows']} rows from {tables.counts['cells']} cells")


if __name__ == "__main__":
    run(main)
