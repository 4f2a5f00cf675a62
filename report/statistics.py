"""Compute intervals and tests of the differences between methods, from the test predictions of a study.

`python -m report.statistics --results results/mini` writes comparisons.csv, pairwise.csv, to_full.csv and ranks.csv to
results/mini/statistics. All differences are paired: on the same test examples within a cell (model × task × seed), on
the same cells over a study. A method that draws at random counts with the mean over its draws.

The variance over draws of test examples comes from the influence of each example on weighted F1 (the infinitesimal
jackknife, Efron 1982, chapter 6), without resampling. All cells of a task share their test examples. `report.intervals`
has the intervals of means. Tests over models and tasks follow Demšar 2006, "Statistical Comparisons of Classifiers over
Multiple Data Sets", JMLR 7.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from ken.errors import UserError, run
from report.intervals import CONFIDENCE, DECIMALS, Differences, group_means, mean_interval, uncertainty
from report.predictions import Predictions
from report.results import CELL, MODELS, PAIR, STATISTICS, read_scores, read_table, shared_checkpoints, write_csv
from report.scores import cell_sets

NEEDED = ("family", "unit", "file")  # further columns of scores.csv that must exist
REFERENCES = ("ken", "full", "random")
DIGITS = "%.6g"  # of numbers in files: significant digits, which also suit small p-values
FEW_DISCORDANT = 25  # below it the chi-square approximation of McNemar's test is poor


@dataclass(frozen=True)
class Sample:
    """The scores of a study, one row per cell, method and budget.

    Attributes:
        rows: model, task, seed, method, family, unit, budget, kept, stored_bytes, weighted_f1, all means over draws;
            the index is 0, 1, 2, ...
        influence: of each test example on weighted F1, (rows, examples); see `Differences`. Tasks with fewer examples
            than others have zeros behind them.
        correct: for each row, whether an example is classified correctly, bool (draws, examples).
        checkpoints: see `Differences`.
    """

    rows: pd.DataFrame
    influence: np.ndarray
    correct: list[np.ndarray]
    checkpoints: Mapping[str, str] = field(default_factory=dict)


def weighted_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[float, np.ndarray]:
    """Weighted F1, and the influence of each example; a class that is neither true nor predicted has F1 0.

    Weighted F1 is a function of how often each class is true, predicted, and both. Its derivative in the weight of an
    example, over the number of examples, is that example's share in the error of a score from these examples instead
    of all texts of the task.

    Args:
        labels: true class indices, (examples,).
        predictions: predicted class indices, (examples,).
        classes: number of classes.

    Returns:
        The score, and the influence (examples,), whose squares add up to the variance of the score.
    """
    n, hit = len(labels), predictions == labels
    true, guessed, both = (np.bincount(codes, minlength=classes) / n for codes in (labels, predictions, labels[hit]))
    total = np.maximum(true + guessed, np.finfo(float).tiny)
    f1 = 2 * both / total
    by_total = -true * f1 / total  # derivative of the score in how often a class is true or predicted
    derivative = f1[labels] + by_total[labels] + by_total[predictions] + hit * (2 * true / total)[labels]
    score = float(true @ f1)  # also the mean of the derivative, since doubling all weights doubles `true @ f1`
    return score, (derivative - score) / np.sqrt(n * max(n - 1, 1))


def read_sample(results: Path) -> Sample:
    """Read scores and test predictions of a study; rows without a score are left out.

    Raises:
        UserError: a file is missing or malformed, or predictions contradict a score.
    """
    read_table(results / "scores.csv", NEEDED, ())
    scores = read_scores(results)
    scores = scores[scores["status"] == "ok"].astype({"seed": int}).reset_index(drop=True)
    stored = Predictions.of(results)
    tasks = {task: stored.labels(rows.iloc[0]) for task, rows in scores.groupby("task", sort=False)}
    influence = np.zeros((len(scores), max(len(labels) for labels, _ in tasks.values())))
    correct = {}
    for (_, task, _), rows in scores.groupby(CELL, sort=False):
        labels, classes = tasks[task]
        predictions = stored.of_cell(rows, len(labels), classes)
        computed = [weighted_f1(labels, predicted, classes) for predicted in predictions]
        _check_scores(results, rows, np.array([score for score, _ in computed]))
        influence[rows.index, : len(labels)] = [values for _, values in computed]
        correct |= dict(zip(rows.index, predictions == labels, strict=True))
    models = read_table(results / "models.csv", *MODELS)
    draws = scores.groupby([*CELL, "method", "budget"], sort=False)
    means = {name: (name, "mean") for name in ("kept", "stored_bytes", "weighted_f1")}
    rows = draws.agg(family=("family", "first"), unit=("unit", "first"), **means).reset_index()
    codes = draws.ngroup().to_numpy()
    members = [[] for _ in rows.index]
    for row, code in enumerate(codes):
        members[code].append(correct[row])
    correct = [np.array(draws) for draws in members]
    return Sample(rows, group_means(codes, influence), correct, shared_checkpoints(models))


def _check_scores(results: Path, rows: pd.DataFrame, computed: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isclose(computed, rows["weighted_f1"], atol=1e-5))
    if wrong.size:
        row = rows.iloc[wrong[0]]
        raise UserError(
            f"{results / 'scores.csv'} has weighted_f1 {row['weighted_f1']:.6f} for {row['file']} of {row['model']}, "
            f"{row['task']}, seed {row['seed']}, but its predictions have {computed[wrong[0]]:.6f}: "
            "run the steps that write both again."
        )


def matched(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Rows of `Sample.rows` with the row of a reference method in the same cell at the same budget.

    `full` has one budget and is the reference of every row. A row is not matched with its own method.

    Returns:
        The matched rows with columns `row` and `row_reference`, indices in `Sample.rows`.
    """
    keys = CELL if reference == "full" else [*CELL, "unit", "budget"]
    table = rows.assign(row=rows.index)
    other = table.loc[table["method"] == reference, [*keys, "row"]]
    return table[table["method"] != reference].merge(other, on=keys, suffixes=("", "_reference"))


def differences(sample: Sample, pairs: pd.DataFrame) -> Differences:
    """Weighted F1 of the rows `row` minus that of the rows `row_reference` of `matched`."""
    first, second = pairs["row"].to_numpy(), pairs["row_reference"].to_numpy()
    f1 = sample.rows["weighted_f1"].to_numpy()
    points = (100 * (f1[first] - f1[second])).round(DECIMALS) + 0.0
    influence = 100 * (sample.influence[first] - sample.influence[second])
    return Differences(pairs[CELL], points, influence, sample.checkpoints)


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """McNemar's test of equal accuracy, exact if few examples are classified correctly by one method only.

    Args:
        first, second: whether examples are classified correctly, bool (draws, examples). With several draws, p is
            twice the median over all pairs of draws, which is valid for any dependence between them (Rüger 1978).
    """
    values = [_mcnemar_p(a, b) for a, b in itertools.product(first, second)]
    return values[0] if len(values) == 1 else min(1.0, 2 * float(np.median(values)))


def _mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    only_first, only_second = np.sum(first & ~second), np.sum(second & ~first)
    exact = only_first + only_second < FEW_DISCORDANT
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=exact, correction=True).pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number by Holm's step-down method."""
    return multipletests(p, method="holm")[1] if len(p) else np.array([])


def wilcoxon_p(values: np.ndarray) -> float:
    """Wilcoxon's signed-rank test; the ranks of zero differences are split evenly (Demšar 2006, section 3.1.3)."""
    values = np.round(values, DECIMALS)
    return float(stats.wilcoxon(values, zero_method="zsplit").pvalue) if values.any() else 1.0


def critical_difference(methods: int, pairs: int, alpha: float = 1 - CONFIDENCE) -> float:
    """Smallest difference of average ranks that Nemenyi's test calls significant (Demšar 2006, section 3.2.2)."""
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * pairs)))


def comparisons(sample: Sample, references: Sequence[str] = REFERENCES) -> pd.DataFrame:
    """Every method against the reference methods, one row per cell, budget and reference.

    Intervals are over the test examples of the cell. Holm's correction is for the whole table.
    """
    pairs = pd.concat([matched(sample.rows, name).assign(reference=name) for name in references], ignore_index=True)
    gaps = differences(sample, pairs)
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.linalg.norm(gaps.influence, axis=1)
    p = [mcnemar_p(sample.correct[a], sample.correct[b]) for a, b in pairs[["row", "row_reference"]].to_numpy()]
    table = pairs[[*CELL, "method", "unit", "budget", "reference"]]
    return table.assign(
        difference_points=gaps.points,
        low=gaps.points - half,
        high=gaps.points + half,
        mcnemar_p=p,
        mcnemar_p_holm=holm(p),
    )


def pairwise(sample: Sample) -> pd.DataFrame:
    """Every pair of methods at equal budgets, and every method against `full`, over models × tasks.

    `n` counts pairs of model and task that have both methods; seeds are averaged, and so are models that start from one
    checkpoint. Intervals are those of `report.intervals`. Holm's correction is for the whole table.
    """
    methods = [name for name in dict.fromkeys(sample.rows["method"]) if name != "full"]
    tables = []
    for index, other in enumerate([*methods, "full"]):
        earlier = sample.rows[sample.rows["method"].isin(methods[:index])]
        pairs = matched(pd.concat([earlier, sample.rows[sample.rows["method"] == other]]), other)
        tables.append(pairs.assign(other=other))
    keys = ["method", "other", "unit", "budget"]
    rows = []
    for key, pairs in pd.concat(tables).groupby(keys, sort=False):
        gaps = differences(sample, pairs)
        means = gaps.by_checkpoint().over(PAIR).points
        rows.append((*key, len(means), *mean_interval(gaps), wilcoxon_p(means)))
    table = pd.DataFrame(rows, columns=[*keys, "n", "difference_points", "low", "high", "wilcoxon_p"])
    return table.assign(wilcoxon_p_holm=holm(table["wilcoxon_p"]))


def to_full(sample: Sample) -> pd.DataFrame:
    """Every method against `full`, over the sets of cells of `scores.cell_sets`; `n` counts cells.

    Intervals are those of `report.intervals`; for one model, on these tasks, with the spread over seeds of all models.
    """
    keys, pairs = ["method", "unit", "budget"], matched(sample.rows, "full")
    everywhere = {key: differences(sample, compared) for key, compared in pairs.groupby(keys, sort=False)}
    rows = []
    for model, name, chosen in cell_sets(pairs):
        for key, compared in chosen.groupby(keys, sort=False):
            unsure = uncertainty(differences(sample, compared), over_pairs=not model, seeds_from=everywhere[key])
            rows.append((model, name, *key, len(compared), *unsure.interval()))
    return pd.DataFrame(rows, columns=[*STATISTICS["to_full"].text, *STATISTICS["to_full"].numeric])


def ranks(sample: Sample) -> pd.DataFrame:
    """Average ranks of methods over models × tasks at equal budgets (1 is best), with Friedman's and Nemenyi's tests.

    Methods with the same unit are ranked together, without controls. A method that lacks a score in some cell has no
    rank. `n` is the number of pairs of model and task with scores of the method, `methods` the number of ranked
    methods. Models that start from one checkpoint are one model with their mean. Friedman's test needs three.
    """
    rows = sample.rows[sample.rows["family"] != "control"]
    cells = pd.MultiIndex.from_frame(sample.rows[CELL].drop_duplicates())
    tables = []
    for (unit, budget), group in rows.groupby(["unit", "budget"], sort=False):
        wide = group.pivot(index=CELL, columns="method", values="weighted_f1").reindex(cells)
        wide = wide.rename(index=dict(sample.checkpoints), level="model")
        table = average_ranks(wide[list(dict.fromkeys(group["method"]))])
        tables.append(table.assign(unit=unit, budget=budget))
    columns = ["unit", "budget", "method", "n", "average_rank", "methods", "critical_difference", "friedman_p"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def average_ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ranks` from weighted F1 by cell (model, task, seed as index) and method (columns)."""
    means = scores.groupby(level=PAIR, sort=False).mean()
    complete = means.loc[:, scores.notna().all()]
    pairs, methods = complete.shape
    values = complete.round(DECIMALS).to_numpy()
    average = pd.Series(stats.rankdata(-values, axis=1).mean(0) if methods else [], complete.columns, float)
    table = pd.DataFrame({"n": means.notna().sum(), "average_rank": average.reindex(means.columns)})
    table["methods"] = methods
    table["critical_difference"] = critical_difference(methods, pairs) if methods > 1 else np.nan
    table["friedman_p"] = _friedman_p(values)
    return table.rename_axis("method").reset_index()


def _friedman_p(scores: np.ndarray) -> float:
    """p of Friedman's test with correction for ties, for (pairs, methods); NaN for fewer than three methods."""
    if scores.shape[1] < 3:
        return np.nan
    if (scores == scores[:, :1]).all():  # all ranks equal: the statistic is 0 / 0
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute intervals and tests of a study from its test predictions.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--out", type=Path, help="folder to write to (default: statistics in the results folder)")
    arguments = parser.parse_args()
    sample = read_sample(arguments.results)
    computed = {"comparisons": comparisons, "pairwise": pairwise, "to_full": to_full, "ranks": ranks}
    tables = {name: compute(sample) for name, compute in computed.items()}
    folder = arguments.out or arguments.results / "statistics"
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table, DIGITS)
    print(", ".join(f"{name}: {len(table)} rows" for name, table in tables.items()))


if __name__ == "__main__":
    run(main)
