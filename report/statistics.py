"""Compute intervals and tests of the differences between methods, from the test predictions of a study.

`python -m report.statistics --results results/mini` writes comparisons.csv, pairwise.csv, to_full.csv and ranks.csv to
results/mini/statistics. All differences are paired: on the same test examples within a cell (model × task × seed), on
the same cells over a study. A method that draws at random counts with the mean over its draws.

Intervals are percentile intervals of a bootstrap (Efron and Tibshirani 1993, chapter 13). All cells of a task share
the same test examples, so a resample draws the same examples for all of them. Tests over models and tasks follow
Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7.
"""

import argparse
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from ken.errors import UserError, run
from report.results import (
    CELL,
    PAIR,
    STATISTICS,
    damaged,
    read_json,
    read_parquet,
    read_scores,
    read_table,
    write_csv,
)
from report.scores import cell_sets

NEEDED = ("family", "unit", "file")  # further columns of scores.csv that must exist
REFERENCES = ("ken", "full", "random")
RESAMPLES = 1000
CONFIDENCE = 0.95
DIGITS = "%.6g"  # of numbers in files: significant digits, which also suit small p-values
FEW_DISCORDANT = 25  # below it the chi-square approximation of McNemar's test is poor
_BLOCK = 100  # resamples counted at once
_DECIMALS = 9  # to which scores and differences are rounded, so that the order of a sum has no effect


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """The scores of a study and their bootstrap resamples, one row per cell, method and budget.

    Attributes:
        rows: model, task, seed, method, family, unit, budget, kept, stored_bytes, weighted_f1, all means over draws;
            the index is 0, 1, 2, ...
        resampled: weighted F1 on resampled test examples, (rows, resamples).
        correct: for each row, whether an example is classified correctly, bool (draws, examples).
    """

    rows: pd.DataFrame
    resampled: np.ndarray
    correct: list[np.ndarray]


@dataclass(frozen=True)
class Differences:
    """Differences in weighted F1, in points. A cell with several counts with their mean.

    Attributes:
        cells: model, task and seed of each difference, (n, 3).
        points: the differences, (n,).
        resampled: the differences on resampled test examples, (n, resamples).
    """

    cells: pd.DataFrame
    points: np.ndarray
    resampled: np.ndarray

    def per_cell(self) -> "Differences":
        """Means within cells, sorted by model, task and seed."""
        codes = self.cells.groupby(CELL).ngroup().to_numpy()
        cells = self.cells.drop_duplicates().sort_values(CELL, ignore_index=True)
        return Differences(cells, group_means(codes, self.points), group_means(codes, self.resampled))


def group_means(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of the values (n, ...) with the same code: codes (n,) from 0 to groups - 1 -> (groups, ...)."""
    weights = 1 / np.bincount(codes)[codes]
    return sparse.csr_array((weights, (codes, np.arange(len(codes))))) @ values


def seeded(*axes: object) -> np.random.Generator:
    """A generator seeded with a hash of the purpose of its random numbers."""
    text = "\x1f".join(map(str, axes))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def resample_counts(task: str, examples: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Counts of how often each test example is drawn, for all cells of a task: blocks of (at most 100, examples)."""
    generator = seeded("examples", task)
    for start in range(0, resamples, _BLOCK):
        block = min(_BLOCK, resamples - start)
        drawn = generator.integers(examples, size=(block, examples)) + examples * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * examples).reshape(block, examples)


def weighted_f1(counts: np.ndarray, labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Weighted F1 of many resamples at once; a class that is neither true nor predicted has F1 0.

    Args:
        counts: how often each example is in a resample, (resamples, examples).
        labels: true class indices, (examples,).
        predictions: predicted class indices, (predictions, examples).
        classes: number of classes.

    Returns:
        (predictions, resamples).
    """
    counts = counts.astype(np.float32)  # whole numbers up to 2^24 are exact
    examples, ones = np.arange(len(labels)), np.ones(len(labels), np.float32)

    def per_class(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sums of the values of the examples of each class, (resamples, classes)."""
        members = sparse.csr_array((values, (examples, codes)), shape=(len(labels), classes))
        return np.ascontiguousarray(counts @ members)  # the order in memory decides the rounding of the sums below

    support = per_class(labels, ones).astype(float)
    scores = []
    for predicted in predictions:
        hits, guesses = per_class(labels, (predicted == labels).astype(np.float32)), per_class(predicted, ones)
        f1 = 2 * hits / np.maximum(support + guesses, 1)
        scores.append((support * f1).sum(1) / support.sum(1))
    return np.array(scores)


def read_sample(results: Path, resamples: int = RESAMPLES) -> Sample:
    """Read scores and test predictions of a study; rows without a score are left out.

    Raises:
        UserError: a file is missing or malformed, or predictions contradict a score.
    """
    read_table(results / "scores.csv", NEEDED, ())
    scores = read_scores(results)
    scores = scores[scores["status"] == "ok"].astype({"seed": int}).reset_index(drop=True)
    f1, correct = np.empty((len(scores), resamples)), {}
    for cell, rows in scores.groupby(CELL, sort=False):
        labels, classes = cell_labels(results, rows.iloc[0])
        predictions = _predictions(results, rows, len(labels), classes)
        _check_scores(results, rows, weighted_f1(np.ones((1, len(labels))), labels, predictions, classes)[:, 0])
        blocks = resample_counts(cell[1], len(labels), resamples)
        f1[rows.index] = np.hstack([weighted_f1(block, labels, predictions, classes) for block in blocks])
        correct |= dict(zip(rows.index, predictions == labels, strict=True))
    draws = scores.groupby([*CELL, "method", "budget"], sort=False)
    means = {name: (name, "mean") for name in ("kept", "stored_bytes", "weighted_f1")}
    rows = draws.agg(family=("family", "first"), unit=("unit", "first"), **means).reset_index()
    codes = draws.ngroup().to_numpy()
    members = [[] for _ in rows.index]
    for row, code in enumerate(codes):
        members[code].append(correct[row])
    return Sample(rows, group_means(codes, f1), [np.array(draws) for draws in members])


def cell_labels(results: Path, row: pd.Series) -> tuple[np.ndarray, int]:
    """Class indices of the texts on which the models of a cell are scored, and the number of classes.

    Args:
        row: a row of scores.csv with status ok, of the cell.
    """
    labels, classes = _labels(results / "tasks" / row["task"])
    return labels[_scored(results, row, len(labels))], classes


def _labels(task: Path) -> tuple[np.ndarray, int]:
    """Class indices of the test examples of a task folder, and the number of classes."""
    classes = read_json(task / "manifest.json").get("classes", [])
    labels = pd.Index(classes).get_indexer(read_parquet(task / "test.parquet", ["label"])["label"])
    if len(labels) == 0 or (labels < 0).any():
        raise UserError(
            f"{task / 'test.parquet'} has no rows, or labels that are not among the classes of manifest.json: "
            "run the step that writes the task again."
        )
    return labels, len(classes)


def _scored(results: Path, row: pd.Series, examples: int) -> np.ndarray | slice:
    """Rows of the test set on which the models of a cell are scored, from the predictions of a method in it."""
    folder = results / "cells" / row["model"] / row["task"] / f"seed{row['seed']}" / "compressed" / row["method"]
    path = folder / "predictions.parquet"
    table = read_parquet(path, None)
    if "text" not in table:
        return slice(None)
    rows = table["text"].to_numpy()
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= examples:
        raise damaged(path, f"is of test texts that are not among the {examples} of the task")
    return rows


def _predictions(results: Path, rows: pd.DataFrame, examples: int, classes: int) -> np.ndarray:
    """Predicted class indices of the rows of one cell, (rows, examples)."""
    model, task, seed = rows.iloc[0][CELL]
    folder = results / "cells" / model / task / f"seed{seed}" / "compressed"
    by_file = {}
    for method, method_rows in rows.groupby("method", sort=False):
        path = folder / method / "predictions.parquet"
        table = read_parquet(path, list(method_rows["file"]))
        if len(table) != examples or not table.isin(range(classes)).all(axis=None):
            expected = f"expected {examples} class indices below {classes}"
            raise damaged(path, f"has {len(table)} predictions a row, {expected}")
        by_file |= {name: table[name].to_numpy() for name in table}
    return np.array([by_file[name] for name in rows["file"]])


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
    points = (100 * (f1[first] - f1[second])).round(_DECIMALS) + 0.0
    return Differences(pairs[CELL], points, 100 * (sample.resampled[first] - sample.resampled[second]))


def percentiles(resampled: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Ends (2, ...) of the percentile intervals of (..., resamples)."""
    ends = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    return ends.round(_DECIMALS) + 0.0  # no -0


def hierarchical_interval(gaps: Differences, confidence: float = CONFIDENCE, over_pairs: bool = True) -> Interval:
    """Mean difference over models × tasks, with the interval of a hierarchical bootstrap.

    A resample draws pairs of model and task, then seeds of each pair, then test examples of each task. Pairs have equal
    weights, whatever their number of seeds. With two or three seeds, the interval reflects little of the spread over
    seeds: it is then mostly that over examples and pairs.

    Args:
        gaps: at least one difference.
        confidence: of the interval.
        over_pairs: whether pairs are drawn. False if the claim is about these pairs only.
    """
    cells = gaps.per_cell()
    resamples = cells.resampled.shape[1]
    counts = cells.cells.groupby(PAIR).size().to_numpy()
    first = np.cumsum(counts) - counts
    estimate = np.mean(np.add.reduceat(cells.points, first) / counts)
    generator = seeded("cells", *cells.cells.to_numpy().ravel())
    shape = (resamples, len(counts))
    drawn = generator.integers(len(counts), size=shape)
    pairs = (drawn if over_pairs else np.broadcast_to(np.arange(len(counts)), shape))[..., None]
    seeds = (generator.random((*shape, counts.max())) * counts[pairs]).astype(int)
    f1 = cells.resampled[first[pairs] + seeds, np.arange(resamples)[:, None, None]]
    used = np.arange(counts.max()) < counts[pairs]
    means = (f1 * used).sum(2) / counts[pairs][..., 0]
    return Interval(float(np.round(estimate, _DECIMALS) + 0.0), *map(float, percentiles(means.mean(1), confidence)))


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
    values = np.round(values, _DECIMALS)
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
    low, high = percentiles(gaps.resampled)
    p = [mcnemar_p(sample.correct[a], sample.correct[b]) for a, b in pairs[["row", "row_reference"]].to_numpy()]
    table = pairs[[*CELL, "method", "unit", "budget", "reference"]]
    return table.assign(difference_points=gaps.points, low=low, high=high, mcnemar_p=p, mcnemar_p_holm=holm(p))


def pairwise(sample: Sample) -> pd.DataFrame:
    """Every pair of methods at equal budgets, and every method against `full`, over models × tasks.

    `n` counts pairs of model and task that have both methods; seeds are averaged. Intervals are hierarchical. Holm's
    correction is for the whole table.
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
        means = pd.Series(gaps.points).groupby([pairs[name].to_numpy() for name in PAIR]).mean()
        interval = hierarchical_interval(gaps)
        rows.append((*key, len(means), *interval, wilcoxon_p(means.to_numpy())))
    table = pd.DataFrame(rows, columns=[*keys, "n", "difference_points", "low", "high", "wilcoxon_p"])
    return table.assign(wilcoxon_p_holm=holm(table["wilcoxon_p"]))


def to_full(sample: Sample) -> pd.DataFrame:
    """Every method against `full`, over the sets of cells of `scores.cell_sets`; `n` counts cells.

    Intervals are hierarchical. Those of one model resample its seeds and test examples, not its tasks.
    """
    rows = []
    for model, name, pairs in cell_sets(matched(sample.rows, "full")):
        for key, compared in pairs.groupby(["method", "unit", "budget"], sort=False):
            interval = hierarchical_interval(differences(sample, compared), over_pairs=not model)
            rows.append((model, name, *key, len(compared), *interval))
    return pd.DataFrame(rows, columns=[*STATISTICS["to_full"].text, *STATISTICS["to_full"].numeric])


def ranks(sample: Sample) -> pd.DataFrame:
    """Average ranks of methods over models × tasks at equal budgets (1 is best), with Friedman's and Nemenyi's tests.

    Methods with the same unit are ranked together, without controls. A method that lacks a score in some cell has no
    rank. `n` is the number of pairs of model and task with scores of the method, `methods` the number of ranked
    methods. Friedman's test needs three.
    """
    rows = sample.rows[sample.rows["family"] != "control"]
    cells = pd.MultiIndex.from_frame(sample.rows[CELL].drop_duplicates())
    tables = []
    for (unit, budget), group in rows.groupby(["unit", "budget"], sort=False):
        wide = group.pivot(index=CELL, columns="method", values="weighted_f1").reindex(cells)
        table = average_ranks(wide[list(dict.fromkeys(group["method"]))])
        tables.append(table.assign(unit=unit, budget=budget))
    columns = ["unit", "budget", "method", "n", "average_rank", "methods", "critical_difference", "friedman_p"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def average_ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ranks` from weighted F1 by cell (model, task, seed as index) and method (columns)."""
    means = scores.groupby(level=PAIR, sort=False).mean()
    complete = means.loc[:, scores.notna().all()]
    pairs, methods = complete.shape
    values = complete.round(_DECIMALS).to_numpy()
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
