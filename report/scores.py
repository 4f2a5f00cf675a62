"""Helpers for measurements on scores: means over draws, and which methods may be compared at equal budgets."""

from collections.abc import Iterator

import pandas as pd

from ken.errors import UserError
from report import style
from report.results import CELL

METHOD = ["method", "family", "unit", "budget"]
NEAR = 1.0  # largest loss, in points of weighted F1, that counts as near to full
_ROUNDING = 1e-9  # rounding error of a difference of two scores, so that exactly one point counts as near


def average_draws(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per model, task, seed, method and budget: means over the draws with status ok, and their number.

    `difference_points` is 100 × (weighted F1 − weighted F1 of `full` for the same model, task and seed).
    `stored_share` is the size of the file in units of that of `full`.
    """
    ok = scores[scores["status"] == "ok"]
    means = "weighted_f1 macro_f1 accuracy worst_class_f1 agreement kept kept_share parameters stored_bytes seconds "
    means += "learning_rate validation_weighted_f1"
    grouped = ok.groupby([*CELL, *METHOD], sort=False)
    seeds = grouped.agg(**aggregations(means), draws=("draw", "nunique")).reset_index()
    full = seeds[seeds["method"] == "full"].groupby(CELL, sort=False)[["weighted_f1", "stored_bytes"]].mean()
    seeds = seeds.merge(full.add_prefix("full_").reset_index(), on=CELL, how="left")
    seeds["difference_points"] = 100 * (seeds["weighted_f1"] - seeds["full_weighted_f1"])
    seeds["stored_share"] = seeds["stored_bytes"] / seeds["full_stored_bytes"]
    return seeds


def unlearned_cells(scores: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Cells whose fully fine-tuned model has not learned: model, task, seed, weighted_f1 and the least it had to reach.

    A model has learned if its weighted F1 on the test texts is above that of the majority class by two standard errors
    of an accuracy, and at least half way from the majority class to TF-IDF.

    Args:
        scores: rows of scores.csv.
        tasks: rows of tasks.csv.

    Raises:
        UserError: a task of the scores is missing.
    """
    by_chance = reached_by_chance(tasks, tasks["test"]).to_numpy()
    half_way = (tasks["majority_weighted_f1"] + tasks["tfidf_weighted_f1"]) / 2  # NaN without this reference
    least = half_way.where(half_way > by_chance, by_chance)
    full = scores[(scores["method"] == "full") & (scores["status"] == "ok")]
    # The whole test set, as for the references, where only a part is scored.
    full = full.assign(weighted_f1=full["all_texts_weighted_f1"].fillna(full["weighted_f1"]))
    if lacking := sorted(set(full["task"]) - set(tasks["task"])):
        raise UserError(f"tasks.csv lacks the task {lacking[0]}, which scores.csv has: run the study to its end again.")
    full = full[[*CELL, "weighted_f1"]].merge(tasks[["task"]].assign(least=least), on="task")
    return full[full["weighted_f1"] < full["least"]].reset_index(drop=True)


def reached_by_chance(tasks: pd.DataFrame, texts: pd.Series) -> pd.Series:
    """Task -> the weighted F1 that answers without any information reach on so many test texts.

    It is that of the majority class and two standard errors of an accuracy.

    Args:
        tasks: rows of tasks.csv.
        texts: number of test texts of each row.
    """
    share = tasks["majority_share"]
    by_chance = tasks["majority_weighted_f1"] + 2 * (share * (1 - share) / texts) ** 0.5
    return by_chance.set_axis(tasks["task"])


def of_finetuned_cells(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of the cells that have a fine-tuned model, so that `full` has a score; the training of others failed."""
    full = scores.loc[(scores["method"] == "full") & (scores["status"] == "ok"), CELL].drop_duplicates()
    return scores.merge(full, on=CELL)


def aggregations(mean: str = "", sd: str = "", ends: str = "") -> dict[str, tuple[str, str]]:
    """Named aggregations for `agg` of a grouped frame.

    Args:
        mean: columns whose mean is wanted, under their own names, separated by spaces.
        sd: columns whose standard deviation (n - 1) is wanted, as `<column>_sd`.
        ends: columns whose smallest and largest value are wanted, as `<column>_min` and `<column>_max`.
    """
    return {
        **{name: (name, "mean") for name in mean.split()},
        **{f"{name}_sd": (name, "std") for name in sd.split()},
        **{f"{name}_{end}": (name, end) for name in ends.split() for end in ("min", "max")},
    }


def cell_sets(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The sets of cells over which means are compared, each with the rows of the settings scored in every cell.

    Args:
        rows: one row per cell, method and budget, averaged over draws.

    Yields:
        (model, name of the set, rows): "all" cells; the "common" ones in which every method has a score, unless these
        are all cells; and all cells of each model, if there are several. The model is "" for sets of several models.
    """
    yield "", "all", _scored_everywhere(rows)
    present = rows.drop_duplicates([*CELL, "method"])
    methods = present.groupby(CELL)["method"].transform("size")
    common = present.loc[methods == present["method"].nunique(), CELL].drop_duplicates()
    if 0 < len(common) < len(rows[CELL].drop_duplicates()):
        yield "", "common", _scored_everywhere(rows.merge(common, on=CELL))
    if rows["model"].nunique() > 1:
        for model, part in rows.groupby("model", sort=False):
            yield model, "all", _scored_everywhere(part)


def _scored_everywhere(rows: pd.DataFrame) -> pd.DataFrame:
    cells = rows.groupby(METHOD)["seed"].transform("size")
    return rows[cells == len(rows[CELL].drop_duplicates())]


def same_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with rounded budgets: some files have six decimals, others six digits."""
    return table.assign(budget=table["budget"].round(5))


def with_kept_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the methods that are run at the kept shares of the study: no controls, no trained methods."""
    return table[_has_kept_shares(table)]


def with_own_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the methods with budgets of their own: ranks, sizes, bits, and all budgets of methods that train."""
    return table[~_has_kept_shares(table) & ~table["method"].isin(style.CONTROLS)]


def _has_kept_shares(table: pd.DataFrame) -> pd.Series:
    return (table["unit"] == "share") & (table["family"] != "trained") & ~table["method"].isin(style.CONTROLS)


def is_near(points: float | pd.Series) -> bool | pd.Series:
    """Whether a difference to full, or each of a series, is a loss of at most `NEAR` points."""
    return points >= -NEAR - _ROUNDING


def keeps_more(table: pd.DataFrame, within: list[str]) -> pd.Series:
    """Whether a row keeps over 10 % more than the lower median of its group, which has the same budget.

    Methods that keep some tensors whole do; their scores are not comparable at that budget.
    """
    median = table.groupby(within)["kept_share"].transform(lambda shares: shares.quantile(interpolation="lower"))
    return table["kept_share"] > 1.1 * median
