"""Comparisons of methods with different budgets: Pareto front, equal sizes, inference and the summary sentences."""

import math
import statistics
from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest

from ken.errors import UserError
from report import style
from report.findings import ROWS, losses
from report.measurements import frontier
from report.measurements.frontier import on_front
from report.measurements.inference import speed
from report.measurements.matched import matched_tables, own_budgets_table
from report.measurements.overview import means_table
from report.measurements.scores import score_table
from report.results import read_scores
from report.summary import sentences
from report.tables import Tables
from tests.report.conftest import single_row
from tests.report.synthetic import controls, score_row, timing, wide_rows, write_evidence, write_results

SHARES = (0.05, 0.25, 0.5)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    times = [timing(), timing("ken", 0.25, "restored", 1.01), timing("lora", 4, "beside", 1.3)]
    return Tables.compute(write_results(tmp_path_factory.mktemp("wide"), wide_rows(), inference=times))


def random_study(seed):
    """Rows of four cells with random sizes and scores: two methods with kept shares, two with other budgets."""
    generator = np.random.default_rng(seed)
    rows = []
    for model, cell_seed in product(("a", "b"), (0, 1)):
        at = {"model": model, "seed": cell_seed}
        rows += controls(model, seed=cell_seed)
        for method, budget in product(("ken", "random"), SHARES):
            for draw in range(2 if method == "random" else 1):
                size = {"kept": int(1000 * budget * generator.uniform(0.8, 1.2))}
                size["stored_bytes"] = 4 * size["kept"] + int(generator.integers(0, 50))
                rows.append(score_row(**at, method=method, budget=budget, draw=draw, f1=generator.uniform(), **size))
        for method, budget in (("lora", 1), ("lora", 4), ("bitdelta", 1)):
            size = {"kept": int(generator.integers(30, 700)), "stored_bytes": int(generator.integers(120, 2800))}
            rows.append(score_row(**at, method=method, budget=budget, f1=generator.uniform(), **size))
    return rows


def mean_of(rows, column):
    return sum(row[column] for row in rows) / len(rows)


def interpolated(points, size):
    """Score at a size by a plain loop over neighbouring points of (size, score); None outside their range."""
    points = sorted(points)
    for (left, low), (right, high) in pairwise(points):
        if left <= size <= right:
            return low + (high - low) * (math.log(size) - math.log(left)) / (math.log(right) - math.log(left))
    return None


@pytest.mark.parametrize("seed", range(5))
def test_matched_agrees_with_plain_loops(tmp_path, seed):
    rows = random_study(seed)
    table = Tables.compute(write_results(tmp_path, rows)).matched
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["model"], row["seed"], row["method"], row["budget"]].append(row)
    expected = defaultdict(list)
    for (model, cell_seed, method, budget), own in grouped.items():
        if method not in ("lora", "bitdelta"):
            continue
        for against, measure in product(("ken", "random"), ("kept", "stored_bytes")):
            curve = [grouped[model, cell_seed, against, share] for share in SHARES]
            points = [(mean_of(draws, measure), mean_of(draws, "weighted_f1")) for draws in curve]
            other = interpolated(points, own[0][measure])
            differences = expected[method, budget, against, measure]
            differences += [] if other is None else [100 * (own[0]["weighted_f1"] - other)]
    matched = {(row.method, row.budget, row.against, row.equal): row for row in table.itertuples()}
    bits = {key for key in expected if key[0] == "bitdelta" and key[3] == "kept"}
    assert matched.keys() == expected.keys() - bits
    assert {len(values) for values in expected.values()} - {0, 4}  # some are inside the range in part of the cells
    for key, row in matched.items():
        assert row.cells == len(expected[key])
        if expected[key]:
            assert row.difference_points == pytest.approx(statistics.fmean(expected[key]))
        else:
            assert math.isnan(row.difference_points)
        if len(expected[key]) > 1:
            assert row.difference_points_sd == pytest.approx(statistics.stdev(expected[key]))


def test_matched_by_hand(wide):
    # LoRA of rank 4 keeps 160 numbers, KEN 50 at 5 % and 250 at 25 %: F1 0.5 and 0.8.
    other = 0.5 + 0.3 * math.log(160 / 50) / math.log(250 / 50)
    row = single_row(wide.matched, method="lora", budget=4, against="ken", equal="kept")
    assert (row.cells, row.difference_points) == (1, pytest.approx(100 * (0.88 - other)))
    # Rank 1 keeps 40 numbers, fewer than any budget of KEN; LT-SFT keeps as many as KEN at one of its budgets.
    assert single_row(wide.matched, method="lora", budget=1, against="ken", equal="kept").cells == 0
    row = single_row(wide.matched, method="lt-sft", budget=0.05, against="ken", equal="kept")
    assert row.difference_points == pytest.approx(100 * (0.87 - 0.5))
    # Each cell of BitDelta is compared with its own KEN.
    assert single_row(wide.matched, method="bitdelta", against="ken-rescaled", equal="stored_bytes").cells == 4
    assert not set(wide.matched["against"]) & {"full", "none", "lora", "lt-sft", "bitdelta"}


def frontier_rows(seed):
    """Rows of `random_study` with a method at three budgets of other sizes, which fails once."""
    rows = random_study(seed)
    generator = np.random.default_rng(seed)
    for model, cell_seed, budget in product(("a", "b"), (0, 1), (0.002, 0.01, 0.05)):
        size = {"stored_bytes": int(4100 * budget * generator.uniform(0.6, 1.2)) + 3}
        row = score_row(model, seed=cell_seed, method="seeded-rescaled-3bit", budget=budget, **size)
        rows.append(row | {"family": "rescaled", "weighted_f1": generator.uniform(0.86, 0.91)})
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_losses_at_fixed_sizes_agree_with_plain_loops(tmp_path, seed):
    rows = frontier_rows(seed)
    tables = Tables.compute(write_results(tmp_path, rows))
    points = defaultdict(lambda: defaultdict(list))
    for row in rows:
        points[row["model"], row["seed"], row["method"]][row["budget"]].append(row)
    filled = set()
    for row in tables.frontier.itertuples():
        models = [row.model] if row.model else ["a", "b"]
        losses, factors = [], []
        for model, cell_seed in product(models, (0, 1)):
            curve = [(mean_of(d, "stored_bytes") / 4100, mean_of(d, "weighted_f1")) for d in
                     points[model, cell_seed, row.method].values()]  # fmt: skip
            value = interpolated(curve, row.size)
            losses.append(None if value is None else 100 * (value - 0.9))
            factors.append(min(max(size / row.size, row.size / size) for size, _ in curve))
        assert row.cells == len(losses)
        if None in losses:
            assert math.isnan(row.difference_points) and math.isnan(row.nearest_factor)
        else:
            filled.add((row.model, row.method))
            assert row.difference_points == pytest.approx(statistics.fmean(losses))
            assert row.nearest_factor == pytest.approx(max(factors))
    assert ("", "seeded-rescaled-3bit") in filled and len(tables.frontier) == 3 * 5 * 6
    assert set(tables.frontier["model"]) == {"", "a", "b"} and not set(tables.frontier["method"]) & {"full", "none"}


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_files_are_measured_ones(tmp_path, seed):
    tables = Tables.compute(write_results(tmp_path, frontier_rows(seed)))
    points = tables.frontier_points
    for row in tables.smallest_files.itertuples():
        same = (points["model"] == row.model) & (points["method"] == row.method)
        near = points[same & (points["difference_points"] >= -row.within)]
        if near.empty:
            assert math.isnan(row.stored_share) and math.isnan(row.budget)
        else:
            best = near.loc[near["stored_share"].idxmin()]
            assert (row.budget, row.stored_share) == (best["budget"], best["stored_share"])
    for _, rows in tables.smallest_files[tables.smallest_files["within"] == 0.5].groupby(["model", "cells_of"]):
        sizes = rows["stored_share"].fillna(math.inf)
        assert sizes.is_monotonic_increasing
        order = tables.frontier[tables.frontier["model"] == rows["model"].iloc[0]]["method"].drop_duplicates()
        assert order.tolist() == rows["method"].tolist()


def test_intervals_of_the_frontier_come_from_the_statistics(tmp_path):
    folder = write_results(tmp_path, [*controls(), score_row(f1=0.898), score_row(budget=1 / 3, f1=0.9)])
    assert Tables.compute(folder).frontier_points["low"].isna().all()
    row = {"model": "", "cells_of": "all", "method": "ken", "unit": "share", "n": 1, "difference_points": -0.2}
    rows = [row | {"budget": budget, "low": -0.4 - budget, "high": 0.1} for budget in (0.1, 0.333333)]
    write_evidence(folder, to_full=rows)
    tables = Tables.compute(folder)
    points = tables.frontier_points.query("method == 'ken'")
    assert points["low"].tolist() == pytest.approx([-0.5, -0.733333]) and points["high"].tolist() == [0.1, 0.1]
    assert single_row(tables.smallest_files, within=0.5).low == pytest.approx(-0.5)
    (line,) = (line.replace("\xa0", " ") for line in sentences(tables) if line.startswith("The smallest file"))
    assert line == (
        "The smallest file that loses at most 0.5 points on average on this model and this task with one seed has "
        "12.2 % of the full model's bytes: KEN with 10 % kept."
    )


def test_tables_of_the_frontier_say_how_far_they_interpolate(tmp_path):
    rows = [*controls()]
    for budget, share, f1 in ((0.1, 0.005, 0.88), (0.2, 0.02, 0.9)):
        rows.append(score_row(budget=budget, f1=f1, stored_bytes=4100 * share))
    shown = frontier.page(Tables.compute(write_results(tmp_path, rows)))
    (ken,) = shown["frontier"].rows
    assert [cell.text for cell in ken] == ["all 1 cell", "KEN", "", "−2.00", "−1.00", "±0.00", "", ""]
    assert [cell.behind for cell in ken[3:6]] == ["×1", "×2", "×1"] and ken[5].marks == "near"
    (ken,) = shown["smallest_files"].rows
    assert [cell.text.replace("\xa0", " ") for cell in ken[2:]] == ["2 %", "2 %", "2 %"]
    assert not shown["frontier_models"].rows


@pytest.mark.parametrize(
    ("many", "expected"),
    [
        (
            30,
            "30 settings are best for their size: no file as small scores as high. The smallest of them has 3.4 % of ",
        ),
        (1, "One setting is the best for its size: no file as small scores as high. It has 3.4 % of the full model's "),
    ],
)
def test_the_front_is_named_by_its_ends(tmp_path, many, expected):
    rows = [*controls(), *(score_row(budget=b / 100, f1=0.5 + b / 1000) for b in range(1, many + 1))]
    (line,) = (text for text in sentences(Tables.compute(write_results(tmp_path, rows))) if "best for" in text)
    line = line.replace("\xa0", " ")
    assert line.startswith(expected) and "bytes and loses 39.9 points (KEN with 1 % kept)." in line
    assert ("The largest has 31.7 % of the full model's bytes and loses 37.0 points" in line) == (many > 1)


def test_the_smallest_file_of_a_larger_loss_is_named_only_if_it_is_smaller(tmp_path):
    rows = [*controls(), score_row(budget=0.1, f1=0.888), score_row(budget=0.2, f1=0.893)]
    (line,) = (text for text in sentences(Tables.compute(write_results(tmp_path, rows))) if "smallest file" in text)
    assert line.replace("\xa0", " ") == (
        "The smallest file that loses at most 1 point on average on this model and this task with one seed has 22 % of "
        "the full model's bytes: KEN with 20 % kept. With up to 1.5 points lost, it is 12.2 %: KEN with 10 % kept."
    )


def test_a_single_budget_is_compared_only_at_its_own_size(tmp_path):
    rows = [
        *controls(),
        score_row(budget=0.1, f1=0.5),
        score_row(method="lora", budget=1, f1=0.6, kept=100, stored_bytes=500),
    ]
    table = Tables.compute(write_results(tmp_path, rows)).matched
    assert single_row(table, equal="kept").difference_points == pytest.approx(10)
    assert single_row(table, equal="stored_bytes").cells == 1
    rows[-1] |= {"kept": 101, "stored_bytes": 600}
    assert Tables.compute(write_results(tmp_path, rows)).matched["cells"].tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_front_agrees_with_a_sweep(seed):
    generator = np.random.default_rng(seed)
    costs, gains = generator.integers(1, 12, 40) * 10.0, generator.integers(0, 8, 40) / 1.0
    best, expected = -math.inf, set()
    for cost, gain in sorted(zip(costs, gains, strict=True), key=lambda point: (point[0], -point[1])):
        if gain > best:
            best = gain
            expected.add((cost, gain))
    front = on_front(pd.Series(costs), pd.Series(gains))
    assert set(zip(costs[front], gains[front], strict=True)) == expected
    assert [point in expected for point in zip(costs, gains, strict=True)] == front.tolist()


def test_files_of_nearly_equal_size_are_compared(tmp_path):
    rows = [*controls(), score_row(f1=0.5, stored_bytes=1000), score_row(method="random", f1=0.6, stored_bytes=1005)]
    pareto = Tables.compute(write_results(tmp_path, rows)).pareto
    assert pareto.loc[pareto["on_front"] == 1, "method"].tolist() == ["random"]


def test_pareto_over_all_cells_and_over_common_ones(wide):
    cells = dict(list(wide.pareto.groupby("cells_of")))
    everywhere = {"full", "none", "ken", "ken-rescaled", "random", "ken-grid-layers", "bitdelta"}
    assert set(cells["all"]["method"]) == everywhere
    assert set(cells["common"]["method"]) == everywhere | {"lora", "lt-sft"}
    assert set(cells["all"]["cells"]) == {4} and set(cells["common"]["cells"]) == {1}
    row = single_row(cells["all"], method="ken", budget=0.25)
    assert (row.difference_points, row.stored_share) == (pytest.approx(-10), pytest.approx(1100 / 4100))
    assert not cells["all"].loc[cells["all"]["method"].isin(style.CONTROLS), "on_front"].any()


def test_a_budget_that_failed_in_a_cell_is_not_averaged(tmp_path):
    rows = wide_rows()
    broken = next(row for row in rows if row["method"] == "ken" and row["budget"] == 0.25 and row["model"] == "bloom")
    broken |= dict.fromkeys(("weighted_f1", "kept", "stored_bytes"), "") | {"status": "failed", "reason": "why"}
    tables = Tables.compute(write_results(tmp_path, rows))
    kept = tables.pareto[(tables.pareto["method"] == "ken") & (tables.pareto["cells_of"] == "all")]
    assert kept["budget"].tolist() == [0.05, 0.5]
    text = " ".join(sentences(tables))
    assert "KEN rescaled" in text and "With 25\xa0% of each row kept" in text
    (line,) = (line for line in sentences(tables) if line.startswith("With 25"))
    assert "KEN loses" not in line and "The best of 2 methods, KEN rescaled, loses 1.0." in line
    sheet = means_table(tables)
    (ken,) = (row for row in sheet.rows if row[0].text == "KEN")
    assert ken[-1].text == "3 of 4"


def test_without_partial_methods_there_is_one_set_of_cells(tmp_path):
    rows = [row for row in wide_rows() if row["family"] != "trained"]
    assert set(Tables.compute(write_results(tmp_path, rows)).pareto["cells_of"]) == {"all"}


def test_budgets_of_different_units_have_separate_tables(wide):
    assert wide.counts["budgets"] == [0.05, 0.25, 0.5]
    scores = score_table(wide, wide.counts["models"])
    heads = [head.replace("\xa0", " ") for head in scores.heads]
    assert heads == ["Model", "Task", "Method", "none", "5 %", "25 %", "50 %", "full"]
    assert {row[2].text for row in scores.rows} == {"KEN", "KEN rescaled", "Random", "KEN grid (layers)", "LT-SFT"}
    (partial,) = (row for row in scores.rows if row[2].text == "LT-SFT")
    assert [cell.text for cell in partial[4:7]] == ["0.870", "0.870", ""]
    overview = means_table(wide)
    assert [row[0].text for row in overview.rows] == ["KEN", "KEN rescaled", "Random", "KEN grid (layers)"]


def test_a_method_that_keeps_more_is_not_marked_best(wide):
    scores = score_table(wide, ["bloom"])
    marked = {row[2].text for row in scores.rows for cell in row if "best" in cell.marks}
    assert marked == {"KEN rescaled"}
    larger = single_row(wide.scores_summary, model="bloom", method="ken-grid-layers", budget=0.05)
    assert larger.weighted_f1 == wide.scores_summary.query("model == 'bloom' and budget == 0.05")["weighted_f1"].max()


def test_own_budgets_show_learning_rate_and_validation_score(wide):
    sheet = own_budgets_table(wide)
    rows = {(row[0].text, row[2].text, row[3].text.replace("\xa0", " ")): row for row in sheet.rows}
    assert len(rows) == 7  # BitDelta on two models; LoRA, LT-SFT at two budgets and FLOP on one
    texts = [cell.text.replace("\xa0", " ") for cell in rows["bert", "LoRA", "rank 4"][4:]]
    assert texts == ["0.880", "−2.0", "160", "1\u202f100", "1.6 kB", "0.001", "0.880", "1"]
    assert rows["bert", "FLOP", "size 25 %"][4].text == "declined"
    assert rows["bloom", "BitDelta", "1 bit"][4].behind == "±0.014"


def test_learning_rates_of_several_seeds_are_shown_as_a_range(tmp_path):
    rows = [*controls(), *controls(seed=1)]
    rows += [
        score_row(seed=seed, method="lora", budget=1, learning_rate=rate) for seed, rate in enumerate((0.002, 0.001))
    ]
    tables = Tables.compute(write_results(tmp_path, rows))
    (row,) = own_budgets_table(tables).rows
    assert "0.001 to 0.002" in [cell.text for cell in row]


def test_matched_tables_omit_methods_without_a_comparison(wide):
    sheets = matched_tables(wide)
    assert list(sheets) == ["kept", "stored_bytes"]
    heads = [head.replace("\xa0", " ") for head in sheets["kept"].heads]
    assert heads == ["Against", "LoRA rank 4", "LT\u2011SFT 5 %", "LT\u2011SFT 25 %"]
    assert "BitDelta 1 bit" in [head.replace("\xa0", " ") for head in sheets["stored_bytes"].heads]


def test_inference_is_a_geometric_mean_with_its_range(tmp_path):
    times = [timing(model=model, seed=seed) for model, seed in product("ab", (0, 1))]
    relatives = {("a", 0): 0.5, ("a", 1): 2.0, ("b", 0): 1.5, ("b", 1): 1.1}
    times += [timing("flop", 0.25, "compiled", value, model, seed=seed) for (model, seed), value in relatives.items()]
    tables = Tables.compute(write_results(tmp_path, controls(), inference=times))
    row = single_row(tables.inference, method="flop")
    assert row.relative_time == pytest.approx(statistics.geometric_mean(relatives.values()))
    assert (row.relative_time_min, row.relative_time_max, row.cells) == (0.5, 2, 4)
    assert row.milliseconds_per_text == pytest.approx(2 * statistics.fmean(relatives.values()))
    assert single_row(tables.inference, form="dense").relative_time == 1


def test_the_sentence_on_speed(wide, tmp_path):
    text = speed(wide.inference).replace("\xa0", " ")
    assert text == (
        "Restored to a dense model, KEN takes 1.01 times as long for a text as the dense model. As an unmerged "
        "adapter, LoRA takes 1.30 times as long."
    )
    times = [timing("ken", budget, "restored", 1 + budget) for budget in (0.1, 0.2, 0.3, 0.4)]
    many = Tables.compute(write_results(tmp_path / "a", controls(), inference=times)).inference
    assert "KEN takes 1.10 to 1.40 times as long" in speed(many)
    assert speed(Tables.compute(write_results(tmp_path / "b", controls())).inference) == ""


def test_a_relative_time_of_zero_is_refused(tmp_path):
    folder = write_results(tmp_path, controls(), inference=[timing(relative=0)])
    with pytest.raises(UserError, match="relative_time that is not above 0"):
        Tables.compute(folder)


def test_sentences_compare_only_methods_of_all_cells(wide):
    lines = [line.replace("\xa0", " ") for line in sentences(wide)]
    (five,) = (line for line in lines if line.startswith("With 5 %"))
    assert five == (
        "With 5 % of each row kept, KEN loses 40.0 points on average. A random choice loses 40.0. The best of 3 "
        "methods, KEN rescaled, loses 4.0."
    )
    (near,) = (line for line in lines if line.startswith("The smallest kept share"))
    assert "is 25 % of the body, with KEN rescaled." in near
    assert near.endswith("A random choice costs more at every kept share of the study.")
    (equal,) = (line for line in lines if line.startswith("At equal stored bytes"))
    assert "1 of 5 settings of other methods scores higher than KEN rescaled." in equal
    assert "LT-SFT with 5 % kept is 1.0 points above it, in 1 cell." in equal
    assert "LoRA with rank 1 is 6.7 points below it, in 1 cell." in equal
    (front,) = (line for line in lines if "best for their size" in line)
    assert "LoRA" not in front and "loses 0.1 points (KEN grid (layers) with 50 % kept)." in front
    assert any("Of these, 1 declined." in line for line in lines)


def test_the_readme_table_lists_the_best_methods_and_names_the_others(tmp_path):
    names = [f"method-{letter}" for letter in "abcdefghijklmn"]
    rows = controls()
    for index, name in enumerate(["ken", "random", *names]):
        rows += [score_row(method=name, budget=budget, f1=0.5 + 0.01 * index) for budget in (0.1, 0.5)]
    rows += [score_row(method="lora", budget=4, f1=0.9)]
    text = losses(Tables.compute(write_results(tmp_path, rows)))
    lines = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == ROWS
    assert lines[0] == "method-n" and lines[-2:] == ["Random", "KEN"]
    assert text.endswith("The report also has 5 other methods.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"family": "clan"}, "family 'clan', expected one of control, reset"),
        ({"unit": ""}, "without a unit"),
        ({"unit": "rank"}, "has 'ken' with unit share and rank"),
        ({"family": "other"}, "has 'ken' with family reset and other"),
    ],
)
def test_families_and_units_are_checked(tmp_path, change, expected):
    rows = [*controls(), score_row(), score_row(budget=0.5, **change)]
    with pytest.raises(UserError, match=expected):
        read_scores(write_results(tmp_path, rows))
