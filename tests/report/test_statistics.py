"""Intervals and tests compared with plain loops, published examples and hand calculations."""

import math
import shutil
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from ken.errors import UserError
from report import statistics as computed
from report.intervals import uncertainty
from report.predictions import COMMITTED, commit
from report.results import write_text
from report.statistics import (
    comparisons,
    matched,
    pairwise,
    ranks,
    read_sample,
    to_full,
)
from tests.report.synthetic import SCORE_COLUMNS, model_row, score_row, task_row, write_csv
from tests.steps import run_step

CLASSES = ["no", "perhaps", "yes"]
FAMILIES = {"full": "control", "none": "control", "lora": "trained", "flop": "trained", "bitdelta": "other"}
UNITS = {"lora": "rank", "flop": "size", "bitdelta": "bits"}
EXAMPLES = 60


def labels_of(task: str, examples: int = EXAMPLES) -> np.ndarray:
    return np.random.default_rng(len(task)).integers(len(CLASSES), size=examples)


def predict(labels: np.ndarray, errors: int, seed: int = 0) -> np.ndarray:
    """Predictions with a number of errors; with equal seeds, a smaller number is a subset of a larger one."""
    wrong = np.random.default_rng(seed).permutation(len(labels))[:errors]
    predictions = labels.copy()
    predictions[wrong] = (labels[wrong] + 1) % len(CLASSES)
    return predictions


def write_predictions(folder, cells: dict, examples: int = EXAMPLES, **changes):
    """Write a results folder from (model, task, seed) -> (method, budget, draw) -> predictions."""
    rows = []
    for (model, task, seed), predictions in cells.items():
        labels = labels_of(task, examples)
        (folder / "tasks" / task).mkdir(parents=True, exist_ok=True)
        write_text(folder / "tasks" / task / "manifest.json", '{"classes": ["no", "perhaps", "yes"]}')
        names = pd.DataFrame({"text": "", "label": [CLASSES[label] for label in labels]})
        names.to_parquet(folder / "tasks" / task / "test.parquet")
        columns: dict[str, dict] = {}
        for (method, budget, draw), predicted in predictions.items():
            file = f"{method}/draw{draw}/{budget}.safetensors"
            columns.setdefault(method, {})[file] = predicted.astype("int16")
            f1 = f1_score(labels, predicted, average="weighted", zero_division=0)
            row = score_row(model, task, seed, draw, method, budget, f1)
            row |= {"family": FAMILIES.get(method, "reset"), "unit": UNITS.get(method, "share"), "file": file}
            rows.append(row | {"accuracy": accuracy_score(labels, predicted)} | changes)
        for method, stored in columns.items():
            cell_folder = folder / "cells" / model / task / f"seed{seed}" / "compressed" / method
            cell_folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(stored).to_parquet(cell_folder / "predictions.parquet")
    write_csv(folder / "scores.csv", rows)
    write_csv(
        folder / "tasks.csv",
        [task_row(task) | {"classes": len(CLASSES)} for task in dict.fromkeys(task for _, task, _ in cells)],
    )
    write_csv(folder / "models.csv", [model_row(model) for model in dict.fromkeys(model for model, _, _ in cells)])
    return folder


def small_study(folder, models=("a", "b"), tasks=("t1", "task2"), seeds=(0, 1)):
    """Every method with its own number of errors; random has two draws."""
    cells = {}
    for model in models:
        for task in tasks:
            for seed in seeds:
                labels, shift = labels_of(task), len(cells)
                cells[model, task, seed] = {
                    ("full", 1.0, 0): predict(labels, 6 + shift),
                    ("none", 0.0, 0): predict(labels, 40),
                    ("ken", 0.1, 0): predict(labels, 20 + shift, seed=1),
                    ("ken", 0.5, 0): predict(labels, 8, seed=2),
                    ("magnitude", 0.1, 0): predict(labels, 18, seed=3 + shift),
                    ("magnitude", 0.5, 0): predict(labels, 9 + shift % 3, seed=4),
                    ("random", 0.1, 0): predict(labels, 25, seed=5),
                    ("random", 0.1, 1): predict(labels, 22 + shift, seed=6),
                    ("random", 0.5, 0): predict(labels, 9, seed=7),
                    ("random", 0.5, 1): predict(labels, 10, seed=8),
                    ("lora", 1, 0): predict(labels, 7, seed=9),
                    ("bitdelta", 1, 0): predict(labels, 8, seed=10),
                }
    return write_predictions(folder, cells)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def sample(study):
    return read_sample(study)


def plain_f1(labels, predictions, weights=None) -> float:
    return f1_score(labels, predictions, average="weighted", zero_division=0, sample_weight=weights)


def slow_influence(labels, predictions) -> np.ndarray:
    """Influence by numerical derivatives of scikit-learn's score in the weight of each example."""
    n, step = len(labels), 1e-6
    values = []
    for row in range(n):
        weights = np.ones(n)
        weights[row] += step
        values.append((plain_f1(labels, predictions, weights) - plain_f1(labels, predictions)) / step)
    return np.array(values) * n / np.sqrt(n * (n - 1))


def test_weighted_f1_and_its_influence_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 3, 3, 4])  # class 2 is never true
    for predicted in generator.integers(5, size=(5, len(labels))):
        score, influence = computed.weighted_f1(labels, predicted, 5)
        assert score == pytest.approx(plain_f1(labels, predicted))
        assert influence == pytest.approx(slow_influence(labels, predicted), abs=1e-5)
        assert influence.sum() == pytest.approx(0)


def test_comparisons_are_paired_on_the_texts(study, sample):
    table = comparisons(sample)
    row = table[
        (table["model"] == "b") & (table["task"] == "t1") & (table["seed"] == 1) & (table["budget"] == 0.1)
        & (table["method"] == "ken") & (table["reference"] == "random")
    ].squeeze()  # fmt: skip
    labels = labels_of("t1")
    folder = study / "cells" / "b" / "t1" / "seed1" / "compressed"
    ken, random = (pd.read_parquet(folder / method / "predictions.parquet") for method in ("ken", "random"))
    chosen = ken["ken/draw0/0.1.safetensors"].to_numpy()
    draws = [random[f"random/draw{draw}/0.1.safetensors"].to_numpy() for draw in (0, 1)]
    difference = 100 * (plain_f1(labels, chosen) - statistics.mean(plain_f1(labels, draw) for draw in draws))
    influence = slow_influence(labels, chosen) - sum(slow_influence(labels, draw) for draw in draws) / 2
    half = 1.959964 * 100 * math.sqrt(sum(influence**2))
    assert row["difference_points"] == pytest.approx(difference)
    assert (row["low"], row["high"]) == pytest.approx((difference - half, difference + half), abs=1e-3)


def test_comparisons_pair_equal_budgets_and_the_full_model(sample):
    table = comparisons(sample)
    cell = table[(table["model"] == "a") & (table["task"] == "t1") & (table["seed"] == 0)]
    pairs = set(cell[["method", "budget", "reference"]].itertuples(index=False, name=None))
    budgets = {(method, budget) for method in ("ken", "magnitude", "random") for budget in (0.1, 0.5)}
    expected = {(*row, name) for row in budgets for name in ("ken", "random") if row[0] != name}
    expected |= {(*row, "full") for row in budgets | {("none", 0.0), ("lora", 1.0), ("bitdelta", 1.0)}}
    assert pairs == expected and len(cell) == len(expected)


def test_budgets_of_different_units_are_not_matched(sample):
    assert matched(sample.rows, "bitdelta").empty  # LoRA has rank 1, BitDelta one bit, full the share 1


def test_holm_correction_covers_the_whole_table(sample):
    table = comparisons(sample)
    order, worst = np.argsort(table["mcnemar_p"].to_numpy(), kind="stable"), 0.0
    for rank, row in enumerate(order):
        worst = max(worst, min(1.0, (len(table) - rank) * table["mcnemar_p"][row]))
        assert table["mcnemar_p_holm"][row] == pytest.approx(worst)


def test_holm_of_a_worked_example():
    assert computed.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert computed.holm([]).size == 0


def correct(only_first: int, only_second: int, both: int = 10) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True], [only_first, only_second, both])
    second = np.repeat([False, True, True], [only_first, only_second, both])
    return first[None], second[None]


@pytest.mark.parametrize(("few", "many"), [(0, 1), (3, 9), (2, 22), (0, 24)])
def test_mcnemar_is_exact_with_few_discordant_examples(few, many):
    wanted = min(1, 2 * sum(math.comb(few + many, i) for i in range(few + 1)) / 2 ** (few + many))
    assert computed.mcnemar_p(*correct(few, many)) == pytest.approx(wanted)
    assert computed.mcnemar_p(*correct(many, few)) == pytest.approx(wanted)


def test_mcnemar_of_a_textbook_example():
    # Agresti 2002, table 10.1 (approval ratings): 150 and 86 discordant; chi-square with correction by hand.
    chi_square = (150 - 86 - 1) ** 2 / (150 + 86)
    assert computed.mcnemar_p(*correct(150, 86)) == pytest.approx(math.erfc(math.sqrt(chi_square / 2)))
    assert computed.mcnemar_p(*correct(0, 0)) == 1


def test_mcnemar_of_several_draws_is_twice_the_median():
    first = correct(0, 10)[0]
    draws = np.vstack([correct(0, 10)[1], correct(0, 10)[0], correct(0, 10)[1]])
    single = computed.mcnemar_p(*correct(0, 10))
    assert computed.mcnemar_p(first, draws) == pytest.approx(2 * single)
    draws[2] = first
    assert computed.mcnemar_p(first, draws) == 1


# Demšar 2006, table 6: C4.5, +m, +cf, +m+cf on 14 data sets. The third and fourth are both printed as 0.975 on "voting"
# but have the ranks 2 and 3 there.
DEMSAR = """
0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.9751 0.975
0.957 0.978 0.946 0.970
"""


def demsar() -> pd.DataFrame:
    values = np.array([line.split() for line in DEMSAR.strip().splitlines()], float)
    index = pd.MultiIndex.from_tuples([("c45", f"set{i}", 0) for i in range(14)], names=["model", "task", "seed"])
    return pd.DataFrame(values, index, pd.Index(["c45", "m", "cf", "m+cf"], name="method"))


def test_ranks_friedman_and_nemenyi_of_demsars_example():
    table = computed.average_ranks(demsar()).set_index("method")
    assert table["average_rank"].round(3).to_dict() == {"c45": 3.143, "m": 2.0, "cf": 2.893, "m+cf": 1.964}
    assert table["critical_difference"].round(2).unique() == [1.25]
    # The paper gives 9.28 without the correction for ties: one row of four equal, three rows of two.
    corrected = 9.28 / (1 - ((4**3 - 4) + 3 * (2**3 - 2)) / (14 * (4**3 - 4)))
    assert table["friedman_p"].iloc[0] == pytest.approx(stats.chi2.sf(corrected, 3), rel=5e-3)


def test_wilcoxon_of_demsars_example():
    # Section 3.1.3: C4.5 against C4.5+m has the rank sums 93 and 12, by which the hypothesis is rejected at 5 %.
    scores = demsar()
    z = (12 - 14 * 15 / 4) / math.sqrt(14 * 15 * 29 / 24)
    p_value = computed.wilcoxon_p((scores["m"] - scores["c45"]).to_numpy())
    assert p_value == pytest.approx(math.erfc(-z / math.sqrt(2)), rel=0.02) and p_value < 0.05


def test_wilcoxon_by_hand():
    assert computed.wilcoxon_p(np.array([0.1, 0.2, 0.4, -0.3])) == pytest.approx(2 * 5 / 16)  # sums up to 3: 5 of 16
    assert computed.wilcoxon_p(np.zeros(5)) == 1
    assert computed.wilcoxon_p(np.array([0.3 - 0.1 - 0.2, 0.0])) == 1  # zero except for rounding


def test_critical_values_of_nemenyi():
    # Demšar 2006, table 5 (a).
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for methods, q in enumerate(published, 2):
        assert computed.critical_difference(methods, 10) == pytest.approx(
            q * math.sqrt(methods * (methods + 1) / 60), rel=1e-3
        )


def test_ranks_are_over_models_and_tasks_with_seeds_averaged(sample):
    table = ranks(sample)
    rows = sample.rows
    for budget in (0.1, 0.5):
        shares = table[(table["budget"] == budget) & (table["unit"] == "share")].set_index("method")
        expected = {method: [] for method in ("ken", "magnitude", "random")}
        for _, pair in rows[rows["budget"] == budget].groupby(["model", "task"]):
            means = {name: pair[pair["method"] == name]["weighted_f1"].mean() for name in expected}
            for name, value in means.items():
                better = sum(other > value + 1e-12 for other in means.values())
                equal = sum(abs(other - value) < 1e-12 for other in means.values())
                expected[name].append(better + (equal + 1) / 2)
        assert set(shares.index) == set(expected)
        for name, own in expected.items():
            assert shares.loc[name, "average_rank"] == pytest.approx(statistics.mean(own))
        assert (shares["n"] == 4).all() and (shares["methods"] == 3).all()


def test_a_method_without_a_score_in_some_cell_has_no_rank(tmp_path, sample):
    gone = (sample.rows["method"] == "random") & (sample.rows["model"] == "a") & (sample.rows["seed"] == 1)
    rows = sample.rows[~gone]
    part = computed.Sample(rows.reset_index(drop=True), sample.influence[rows.index], sample.correct)
    table = ranks(part)
    table = table[table["unit"] == "share"].set_index(["method", "budget"])
    assert table.loc["random", "average_rank"].isna().all() and (table.loc["random", "n"] == 4).all()
    assert (table["methods"] == 2).all() and table["friedman_p"].isna().all()
    assert table.loc["ken", "average_rank"].between(1, 2).all()


def test_methods_with_equal_scores_do_not_differ():
    scores = demsar()
    scores[:] = 0.5
    table = computed.average_ranks(scores)
    assert (table["friedman_p"] == 1).all() and (table["average_rank"] == 2.5).all()


def test_an_interval_of_a_cell_covers_the_true_difference():
    """400 test sets of 150 examples from a population whose difference in weighted F1 is known."""
    generator = np.random.default_rng(2)
    labels = generator.integers(3, size=200_000)

    def noisy(right: float) -> np.ndarray:
        return np.where(generator.random(len(labels)) < right, labels, generator.integers(3, size=len(labels)))

    predictions = np.vstack([noisy(0.7), noisy(0.6)])
    true = np.subtract(*(computed.weighted_f1(labels, predicted, 3)[0] for predicted in predictions))
    covered = 0
    for _ in range(400):
        rows = generator.integers(len(labels), size=150)
        (first, a), (second, b) = (computed.weighted_f1(labels[rows], predicted[rows], 3) for predicted in predictions)
        covered += abs(first - second - true) <= 1.96 * np.linalg.norm(a - b)
    assert 0.93 <= covered / 400 <= 0.975


def test_pairwise_rows_are_differences_over_models_and_tasks(sample):
    table = pairwise(sample).set_index(["method", "other", "unit", "budget"])
    assert table.index.is_unique
    named = {(a, b) for a, b, *_ in table.index}
    shares = {("ken", "magnitude"), ("ken", "random"), ("magnitude", "random")}
    assert named == shares | {(name, "full") for name in ("none", "ken", "magnitude", "random", "lora", "bitdelta")}
    rows = sample.rows.set_index(["method", "budget", "model", "task", "seed"])["weighted_f1"]
    points = [
        100 * statistics.mean(rows["ken", 0.1, model, task, s] - rows["random", 0.1, model, task, s] for s in (0, 1))
        for model in ("a", "b")
        for task in ("t1", "task2")
    ]
    row = table.loc["ken", "random", "share", 0.1]
    assert row["n"] == 4 and row["difference_points"] == pytest.approx(statistics.mean(points))
    assert row["low"] < row["difference_points"] < row["high"]
    assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(points).pvalue)
    assert (table["wilcoxon_p_holm"] >= table["wilcoxon_p"]).all()


def test_texts_of_tasks_of_different_sizes_keep_their_columns(tmp_path):
    labels = labels_of("t1")
    same = {("full", 1.0, 0): predict(labels, 5), ("ken", 0.1, 0): predict(labels, 9)}
    sample = read_sample(write_predictions(tmp_path, {("a", "t1", 0): same, ("b", "t1", 1): same}))
    assert np.array_equal(sample.influence[:2], sample.influence[2:])


def test_models_with_the_same_pre_trained_weights_count_once(tmp_path):
    folder = small_study(tmp_path, models=("a", "b", "c"))
    write_csv(folder / "models.csv", [model_row("a"), model_row("b"), model_row("a") | {"model": "c"}])
    sample = read_sample(folder)
    assert sample.checkpoints == {"c": "a"}
    assert set(ranks(sample)["n"]) == set(pairwise(sample)["n"]) == {4}  # two checkpoints on two tasks


def test_differences_to_full_over_sets_of_cells(tmp_path, sample):
    table, pairs = to_full(sample), pairwise(sample)
    assert set(zip(table["model"], table["cells_of"], strict=True)) == {("", "all"), ("a", "all"), ("b", "all")}
    pooled = table[table["model"] == ""].set_index(["method", "budget"])
    other = pairs[pairs["other"] == "full"].set_index(["method", "budget"])
    numbers = ["difference_points", "low", "high"]
    pd.testing.assert_frame_equal(pooled[numbers].sort_index(), other[numbers].sort_index())
    rows = sample.rows
    compared = matched(
        rows[(rows["model"] == "a") & rows["method"].isin(["ken", "full"]) & (rows["budget"] != 0.5)], "full"
    )
    everywhere = matched(rows[rows["method"].isin(["ken", "full"]) & (rows["budget"] != 0.5)], "full")
    own, everywhere = (computed.differences(sample, pairs) for pairs in (compared, everywhere))
    interval = uncertainty(own, over_pairs=False, seeds_from=everywhere).interval()
    row = table[(table["model"] == "a") & (table["method"] == "ken") & (table["budget"] == 0.1)].squeeze()
    assert (row["difference_points"], row["low"], row["high"]) == pytest.approx(interval) and row["n"] == 4
    cell = (rows["model"] == "a") & (rows["task"] == "t1") & (rows["seed"] == 0)
    part = rows[(rows["method"] != "lora") | cell]
    partly = to_full(computed.Sample(part.reset_index(drop=True), sample.influence[part.index], []))
    common = partly[partly["cells_of"] == "common"]
    assert "lora" in set(common["method"]) and (common["n"] == 1).all()
    assert "lora" not in set(partly.loc[partly["cells_of"] == "all", "method"])


def test_the_output_does_not_depend_on_the_order_of_the_rows(tmp_path):
    study = small_study(tmp_path / "study", models=("a",), seeds=(0,))
    run_step(computed, "--results", study, "--out", tmp_path / "first")
    scores = pd.read_csv(study / "scores.csv", dtype=str, keep_default_na=False)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tasks", "cells", "models.csv"):
        (other / name).symlink_to(study / name)
    scores.iloc[::-1].to_csv(other / "scores.csv", index=False)
    run_step(computed, "--results", other)
    for name, keys in (("comparisons", 7), ("ranks", 3)):
        tables = [pd.read_csv(folder / f"{name}.csv") for folder in (tmp_path / "first", other / "statistics")]
        first, second = (table.sort_values(list(table.columns[:keys])).reset_index(drop=True) for table in tables)
        assert len(first) and first.equals(second)
    run_step(computed, "--results", study, "--out", tmp_path / "again")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert {path.name for path in (tmp_path / "first").iterdir()} == {
        f"{name}.csv" for name in ("comparisons", "pairwise", "to_full", "ranks")
    }


def one_cell(folder, **changes):
    labels = labels_of("t1")
    cell = {("full", 1.0, 0): predict(labels, 5), ("ken", 0.1, 0): predict(labels, 9)}
    return write_predictions(folder, {("a", "t1", 0): cell}, **changes)


def test_missing_or_wrong_files_are_named(tmp_path):
    folder = one_cell(tmp_path)
    path = folder / "cells" / "a" / "t1" / "seed0" / "compressed" / "ken" / "predictions.parquet"
    good = pd.read_parquet(path)
    for changed, message in (
        (good.iloc[:-1], "has 59 predictions a row, expected 60"),
        (good + 3, "class indices below 3"),
        (good.rename(columns=lambda name: f"{name}x"), "cannot be read"),
        (good.iloc[::-1].reset_index(drop=True), "but its predictions have"),
    ):
        changed.to_parquet(path)
        with pytest.raises(UserError, match=message):
            read_sample(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"predictions\.parquet does not exist"):
        read_sample(folder)


def test_a_label_that_is_no_class_is_refused(tmp_path):
    folder = one_cell(tmp_path)
    write_text(folder / "tasks" / "t1" / "manifest.json", '{"classes": ["no", "yes"]}')
    with pytest.raises(UserError, match="not among the classes"):
        read_sample(folder)


def test_missing_columns_of_the_scores_are_named(tmp_path):
    folder = one_cell(tmp_path)
    pd.read_csv(folder / "scores.csv")[SCORE_COLUMNS].to_csv(folder / "scores.csv", index=False)
    with pytest.raises(UserError, match="no column 'file'"):
        read_sample(folder)


def test_rows_without_a_score_are_left_out(tmp_path):
    folder = one_cell(tmp_path)
    scores = pd.read_csv(folder / "scores.csv")
    declined = scores.iloc[:1].assign(method="lora", unit="rank", status="declined", reason="no", weighted_f1=np.nan)
    pd.concat([scores, declined]).to_csv(folder / "scores.csv", index=False)
    assert list(read_sample(folder).rows["method"]) == ["full", "ken"]


def test_a_study_of_controls_alone_has_empty_tables(tmp_path):
    labels = labels_of("t1")
    cell = {("full", 1.0, 0): predict(labels, 5), ("none", 0.0, 0): predict(labels, 40)}
    run_step(computed, "--results", write_predictions(tmp_path, {("a", "t1", 0): cell}))
    assert len(pd.read_csv(tmp_path / "statistics" / "comparisons.csv")) == 1
    assert pd.read_csv(tmp_path / "statistics" / "ranks.csv").empty


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda table: table.assign(classes=[b"abc", *table["classes"][1:]]), "not class indices of four bytes each"),
        (lambda table: table.assign(classes=[stored[:-4] for stored in table["classes"]]), "but its predictions have"),
        (
            lambda table: table.assign(classes=[b"\xff" * len(stored) for stored in table["classes"]]),
            "has labels of t1",
        ),
        (lambda table: table[:-1], "has no row"),
        (lambda table: table.assign(classes=[*table["classes"][:-1], b""]), "has 0 predictions a row"),
    ],
)
def test_damaged_predictions_of_a_committed_study_are_refused(tmp_path, change, expected):
    labels = labels_of("t1")
    cell = {("full", 1.0, 0): labels, ("ken", 0.5, 0): predict(labels, 9)}
    results = write_predictions(tmp_path / "x", {("a", "t1", 0): cell})
    path = results / COMMITTED
    commit(results, path)
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(UserError, match=expected) as raised:
        read_sample(results)
    assert "\n" not in str(raised.value)


def test_a_study_without_predictions_is_refused(tmp_path):
    labels = labels_of("t1")
    results = write_predictions(tmp_path / "x", {("a", "t1", 0): {("full", 1.0, 0): labels}})
    shutil.rmtree(results / "cells")
    with pytest.raises(UserError, match=r"neither predictions\.parquet nor cells"):
        read_sample(results)
