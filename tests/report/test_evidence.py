"""Claims, statistics, checks, spread, time and cost in the tables, figures and the page."""

import math
import re
import statistics

import numpy as np
import pandas as pd
import pytest

from ken.errors import UserError
from report import figures, page, style, summary
from report.measurements import checks, cost, differences, ranks, spread, timing, verdicts
from report.measurements.ranks import not_told_apart
from report.tables import Tables
from tests.report.conftest import build, pages_of
from tests.report.markup import Reader
from tests.report.synthetic import (
    arm,
    check_row,
    claim_row,
    comparison_row,
    controls,
    score_row,
    spread_row,
    whole_evidence,
    write_evidence,
    write_results,
)
from tests.report.test_figures import drawn


def tables_of(folder, **files) -> Tables:
    return Tables.compute(write_evidence(write_results(folder, controls()), **files))


def texts(sheet) -> list[list[str]]:
    return [[cell.text.replace("\xa0", " ") for cell in row] for row in sheet.rows]


# Tables against plain loops.


def test_comparisons_against_a_loop(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        comparison_row(
            method, budget, reference, seed, points=random.normal(), p=random.choice([0.01, 0.04, 0.05, 0.9])
        )
        for method in ("ken", "dare")
        for budget in (0.05, 0.25)
        for reference in ("full", "random")
        for seed in range(3)
    ]
    table = tables_of(tmp_path, comparisons=rows).comparisons
    assert len(table) == 8
    for averaged in table.itertuples():
        key = (averaged.method, averaged.budget, averaged.reference)
        own = [row for row in rows if (row["method"], row["budget"], row["reference"]) == key]
        assert averaged.seeds == len(own) == 3
        assert averaged.difference_points == pytest.approx(statistics.fmean(row["difference_points"] for row in own))
        significant = [row["difference_points"] for row in own if row["mcnemar_p_holm"] < 0.05]
        assert (averaged.better, averaged.worse) == (sum(p > 0 for p in significant), sum(p < 0 for p in significant))


def test_checks_are_averaged_over_cells_with_their_range(tmp_path):
    rows = [check_row(variant=2, f1=f1, seed=seed, share=0.2501) for seed, f1 in ((0, 0.8), (1, 0.86))]
    rows += [check_row("matrices", "query", 0.89, share=0.9, parameters=250)]
    table = tables_of(tmp_path, checks=rows).checks.set_index("check")
    bandwidth = table.loc["bandwidth"]
    assert (bandwidth["kept_share"], bandwidth["cells"], bandwidth["seeds"]) == (0.25, 2, 2)
    assert bandwidth["difference_points"] == pytest.approx(-7)
    assert bandwidth[["difference_points_min", "difference_points_max"]].tolist() == pytest.approx([-10, -4])
    assert bandwidth["none_points"] == pytest.approx(-60)
    # The body consists of the parameters that the other checks of the cell prune.
    assert table.loc["matrices", "parameter_share"] == pytest.approx(0.25)


def test_without_other_checks_the_matrices_make_up_the_body(tmp_path):
    rows = [check_row("matrices", kind, parameters=size) for kind, size in (("query", 300), ("others", 100))]
    assert tables_of(tmp_path, checks=rows).checks["parameter_share"].tolist() == [0.75, 0.25]


def test_spread_counts_against_a_loop(tmp_path):
    observed = [0.85, 0.9, 0.95, 1.1, 1.11, 1.5]
    tables = tables_of(tmp_path, spread=[spread_row(f"m{index}", value) for index, value in enumerate(observed)])
    for row in tables.spread.itertuples():
        assert row.matrices == 6
        assert (row.below, row.inside, row.above) == (1, 3, 2)
        assert row.difference == pytest.approx(statistics.fmean(observed) - 1)
        assert row.difference_max == pytest.approx(0.5)
    assert set(tables.spread["statistic"]) == {"neighbours", "entropy", "moran"}
    assert tables.spread_matrices["low"].tolist() == pytest.approx([-0.1] * 18)


def test_cost_against_a_loop(tmp_path):
    seconds = {0: (2.0, 4.0), 1: (1.0, 3.0)}
    rows = [row for seed in seconds for row in controls(seed=seed)]
    for seed, times in seconds.items():
        rows += [
            score_row(seed=seed, budget=budget, seconds=second, peak_mib=300 + seed)
            for budget, second in zip((0.1, 0.5), times, strict=True)
        ]
    rows.append(score_row(method="lora", budget=4, seconds=30))
    rows.append(score_row(method="dare", f1=None, status="failed", reason="no memory"))
    arms = [arm("bert", "t1", seed, "pretrained", 0.9) | {"seconds": time} for seed, time in ((0, 10), (1, 40))]
    arms.append(arm("bert", "t1", 0, "random-init", 0.5) | {"seconds": 1000})
    table = Tables.compute(write_results(tmp_path, rows, arms)).cost.set_index("method")
    assert list(table.index) == ["fine-tuning", "ken", "lora"]
    assert table.loc["fine-tuning", ["cells", "seconds", "relative"]].tolist() == [2, 25, 1]
    assert table.loc["ken", ["cells", "files", "seconds", "peak_mib"]].tolist() == [2, 4, 2.5, 301]
    assert table.loc["ken", "relative"] == pytest.approx(math.sqrt(3 / 10 * 2 / 40))
    assert table.loc["lora", "relative"] == pytest.approx(3)
    sentence = cost.cost_sentence(table.reset_index())
    assert "with KEN takes 0.12 times as long as fine-tuning" in sentence
    assert "LoRA, which trains instead, takes 3 times as long." in sentence


@pytest.mark.parametrize(
    ("ranks", "difference", "expected"),
    [
        ([1, 2, 3], 0.5, []),
        ([1, 2, 3], 1.0, []),  # a difference equal to the critical one is significant
        ([1, 2, 3], 1.5, [(0, 1), (1, 2)]),
        ([1, 2, 3], 5, [(0, 2)]),
        ([1, 1.2, 4, 4.1, 4.2], 0.5, [(0, 1), (2, 4)]),
        ([], 1, []),
    ],
)
def test_groups_within_the_critical_difference(ranks, difference, expected):
    assert not_told_apart(ranks, difference) == expected


def test_every_pair_within_the_critical_difference_shares_a_group():
    random = np.random.default_rng(1)
    for _ in range(50):
        ranks = sorted(random.uniform(1, 8, size=8))
        groups = not_told_apart(ranks, 1.5)
        for i in range(8):
            for j in range(i + 1, 8):
                together = any(first <= i and j <= last for first, last in groups)
                assert together == (ranks[j] - ranks[i] < 1.5)


def test_evidence_tables_survive_a_round_trip(wide_study):
    computed, restored = Tables.compute(wide_study), Tables.read(wide_study)
    for name in ("claims", "comparisons", "pairwise", "ranks", "checks", "spread", "spread_matrices", "timing", "cost"):
        left, right = getattr(restored, name), getattr(computed, name)
        assert list(left.columns) == list(right.columns) and len(left) == len(right) > 0, name
        numbers = right.select_dtypes("number").columns
        np.testing.assert_allclose(left[numbers].to_numpy(float), right[numbers].to_numpy(float), atol=1e-6)


# The page.


def test_the_order_of_the_sections(wide_study):
    first, appendix = page.render(wide_study)
    order = re.findall(r'<section id="(\w+)"', first)
    assert order == ["verdicts", "size", "choice", "cost", "kept", "models", "run"]
    nav = first[: first.index("<main>")]
    assert re.findall(r'<a href="#(\w+)">', nav) == ["answer", *order]
    order = re.findall(r'<section id="(\w+)">', appendix)
    wanted = ["means", "bytes", "statistics", "checks", "cost", "run", "scores", "models", "details"]
    assert [name for name in order if name in wanted] == wanted
    assert order[-1] == "provenance"
    assert re.findall(r'<li><a href="#(\w+)">', appendix) == order


def test_verdicts_show_words_marks_intervals_and_rules(wide_study):
    html = pages_of(wide_study)
    text = Reader(html).text.replace("\xa0", " ")
    for wanted in ("The text of each.", "The rule of own.", "Because of missing all models."):
        assert wanted in text
    assert "bert −3.50 −4.50 to −2.50 ✗ does not hold" in text
    assert "bert ✗ does not hold n = 4. Because of each bert." in text
    assert "± different from case to case" in text
    assert "±0.00 −1.00 to +1.00 ✗ does not hold" in text
    assert "0.97 0.90 to 1.04" in text
    assert text.index("Claims of the paper") < text.index("bert −3.50") < text.rindex("Claims of this suite")


def test_the_page_shows_the_numbers_of_the_tables(wide_study):
    tables = Tables.read(wide_study)
    rows = texts(differences.comparisons_table(tables))
    # Seeds −4 and −5 against full, both significant at 5 % kept and none at 25 %; 50 % is not in the file.
    assert rows[0] == ["Full", "bert", "t1", "KEN", "−4.5", "−4.5", ""]
    assert [cell.behind for cell in differences.comparisons_table(tables).rows[0][4:]] == ["2/2", "0/2", ""]
    assert rows[1] == ["Random", "bert", "t1", "KEN", "+2.5", "+2.5", ""]
    assert texts(differences.pairwise_table(tables))[1] == [
        *("25 %", "KEN", "Random", "+0.2", "−0.8 to +1.2", "0.020", "0.200", "6"),
    ]
    assert texts(checks.bandwidth_table(tables.checks))[0] == ["1", "25 %", "0.810", "−9.0", "−9.0", "2"]
    assert texts(checks.zero_table(tables.checks))[0] == ["KEN", "25 %", "−10.0", "−50.0", "+40.0", "1"]
    assert texts(checks.matrices_table(tables.checks))[0] == ["embeddings", "600", "60 %", "−20.0", "−20.0", "1"]
    assert texts(spread.page(tables)["table"])[0] == [
        *("KEN", "kept neighbours", "10", "2", "6", "2", "+0.0500", "+0.3000"),
    ]
    assert texts(ranks.ranks_table(tables)) == [
        ["KEN", "1.00", "2.50"], ["Random", "2.00", "3.00"], ["KEN rescaled", "3.00", "1.00"],
    ]  # fmt: skip
    html = pages_of(wide_study)
    shown = (differences.comparisons_table(tables), cost.page(tables)["section"].table, timing.page(tables)["table"])
    for sheet in shown:
        for row in sheet.rows:
            for cell in row:
                assert f">{cell.text}" in html


def test_sentences_of_the_checks(wide_study):
    text = Reader(pages_of(wide_study)).text.replace("\xa0", " ")
    assert "factors from 1 to 4. With 25 % kept, the best and the worst factor differ by 3.0 points" in text
    assert "With 25 % kept, KEN loses 40.0 more points if the rest is set to zero" in text
    assert "With 25 % kept, Magnitude loses 40.0 more points." in text
    assert "“embeddings” loses most: 20.0 points. It has 60 % of the body's entries." in text
    assert "By Moran's I, KEN lies inside the interval of random choices in 6 of 10 matrices." in text
    assert "It lies above it, which means clusters, in 2, and below it in 2." in text
    assert "With 25 % kept, KEN rescaled has the best average rank of 3 methods: 1.0. All others are sig" in text
    assert "KEN grows fastest with size: to the power of 0.97 (0.90 to 1.04)." in text
    assert "mean over n = 2 cells, 2 seeds" in text
    assert "n = 10 matrices a method, 2 models, 1 seed" in text


def test_the_sentences_name_ken_random_and_the_best(wide_study):
    text = " ".join(summary.sentences(Tables.read(wide_study))).replace("\xa0", " ")
    assert (
        "With 25 % of each row kept, KEN loses 10.0 points on average. A random choice loses 10.0. The best of 3 "
        "methods, KEN rescaled, loses 1.0."
    ) in text
    assert (
        "The smallest kept share that costs at most 1 point on average is 25 % of the body, with KEN rescaled. KEN "
        "costs more at every kept share of the study."
    ) in text


def test_parts_that_were_not_run_are_listed_with_their_config_key(built_study):
    html = pages_of(built_study)
    text = Reader(html).text
    for key in ("checks.bandwidth_factors", "checks.zero", "checks.matrices", "spread.methods", "timing.heights"):
        assert re.search(rf"(was|were) not run in this study; {key} in the config switches it on", text), key
    assert "The claims were not judged in this study" in text
    assert "Not computed in this study" in text
    assert "kenviz.html" not in html


@pytest.mark.parametrize("name", [*whole_evidence(), None])
def test_every_file_may_be_missing_or_empty(tmp_path, name):
    files = whole_evidence()
    folder = write_evidence(write_results(tmp_path / "study", controls()), **files)
    for path in [file for file in folder.rglob("*.csv") if name in (None, file.stem) and file.stem in files]:
        if name is None:
            path.write_text("\n")
        else:
            path.unlink()
    tables = Tables.compute(folder)
    tables.write(folder / "tables")
    assert all(getattr(tables, other).empty == (name in (None, other)) for other in files)
    if name is None:
        for figure in ("ranks", "bandwidth", "matrices", "spread", "timing"):
            drawing = figures.drawings(tables)[figure]
            assert not drawing.shown and len(drawn(drawing.draw).axes) == 0  # only a note


def test_a_page_without_optional_files(tmp_path):
    html = build(write_results(tmp_path / "study", controls()))
    # On the page: bytes, summary, time and the one model. In the appendix: time and the model.
    assert html.count("<figure>") == html.count('<svg role="img"') == 6


def test_a_factor_must_be_a_number(tmp_path):
    with pytest.raises(UserError, match="'wide' in column 'variant'"):
        tables_of(tmp_path, checks=[check_row(variant="wide")])


def test_the_explorer_is_linked_only_below_the_kenviz_picture(wide_study, built_study):
    assert "".join(page.render(wide_study)).count('href="kenviz.html"') == 0  # it has no KENviz picture
    (built_study / "report" / "kenviz.html").write_text("the explorer")
    try:
        assert "".join(page.render(built_study)).count('href="kenviz.html"') == 1
    finally:
        (built_study / "report" / "kenviz.html").unlink()


def test_inputs_are_listed_with_full_hashes(wide_study):
    html = pages_of(wide_study)
    weights = pd.read_csv(wide_study / "models.csv")["sha256"]
    assert "ab" * 32 in html and len(weights) > 1 and all(each in html for each in weights)
    assert page.sha256(wide_study / "scores.csv") in html
    assert "0123abcd</code>, without other changes" in html


def test_estimates_in_their_units():
    def text(unit, estimate, low=None, high=None):
        row = claim_row(unit=unit, estimate=estimate)
        row |= {name: float("nan") if value is None else value for name, value in (("low", low), ("high", high))}
        return tuple(part.replace("\xa0", " ") for part in verdicts.estimate(type("Row", (), row)))

    assert text("nats", 0.0028, 0.0018, 0.0038) == ("+0.003", "+0.002 to +0.004")
    assert text("points", -0.004, -1.234, 1) == ("±0.00", "−1.23 to +1.00")
    assert text("slope", -0.1, -0.5, 0.3) == ("−0.10", "−0.50 to 0.30")
    assert text("points", 2.0) == ("+2.00", "")
    assert text("points", float("nan")) == ("", "")


# The figures.


def test_ranks_draw_the_ranked_methods_of_budgets_with_enough_pairs(wide_study):
    tables = Tables.read(wide_study)
    (axes,) = drawn(ranks.draw_ranks, ranks.with_picture(tables.ranks)).axes  # 5 % has too few pairs
    names = [text.get_text() for text in axes.texts]
    assert [name for name in names if not re.fullmatch(r"\d| CD.*", name)] == [
        "KEN rescaled 1.0",
        "KEN 2.5",
        "Random 3.0",
    ]
    assert " CD 1.00" in names
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 3]
    assert len(bars) == 1  # KEN and Random
    assert min(bars[0]) == pytest.approx(2.5, abs=0.05) and max(bars[0]) == pytest.approx(3, abs=0.05)


def test_labels_of_the_ranks_do_not_overlap(tmp_path):
    from tests.report.synthetic import rank_rows

    names = [name for name in style.FIXED if "-" not in name]
    rows = [
        row
        for budget in (0.02, 0.05, 0.25)
        for row in rank_rows(
            budget, n=14, difference=4, **{name: 1.3 + 0.8 * index for index, name in enumerate(names)}
        )
    ]
    figure = drawn(ranks.draw_ranks, tables_of(tmp_path, ranks=rows).ranks)
    boxes = [text.get_window_extent() for axes in figure.axes for text in (*axes.texts, axes.title) if text.get_text()]
    boxes += [axes._left_title.get_window_extent() for axes in figure.axes]
    boxes = [box for box in boxes if box.width]
    assert len(boxes) > 3 * len(names)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    assert not any(one.overlaps(two) for index, one in enumerate(boxes) for two in boxes[:index])


def test_bandwidth_and_matrices_draw_the_means(wide_study):
    tables = Tables.read(wide_study)
    (axes,) = drawn(figures.drawings(tables)["bandwidth"].draw).axes
    line = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xydata(), [[1, -9], [2, -8], [4, -6]])
    (axes,) = drawn(figures.drawings(tables)["matrices"].draw).axes
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), [-2, -0.5, -20], atol=1e-9)
    labels = [text.get_text().replace("\xa0", " ") for text in axes.get_yticklabels()]
    assert labels == ["feed-forward (15 %)", "query (25 %)", "embeddings (60 %)"]


def test_spread_fills_the_dots_outside_the_interval(wide_study):
    figure = drawn(figures.drawings(Tables.read(wide_study))["spread"].draw)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        filled = [line for line in dots if line.get_markerfacecolor() != "white"]
        assert sum(len(line.get_xdata()) for line in dots) == 10
        assert sorted(np.concatenate([line.get_ydata() for line in filled])) == pytest.approx([-0.2, -0.2, 0.3, 0.3])
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["bert", "bloom"]


def test_timing_draws_every_measurement_and_a_linear_one(wide_study):
    left, right = drawn(figures.drawings(Tables.read(wide_study))["timing"].draw).axes
    lines = {line.get_label(): line.get_xydata() for line in left.lines}
    np.testing.assert_allclose(lines["KEN"], [[1000, 0.001], [2000, 0.002], [4000, 0.004]])
    np.testing.assert_allclose(lines["linear (slope 1)"], [[1000, 0.001], [4000, 0.004]])
    assert sorted(right.lines[0].get_xdata()) == [8, 16, 32]
    assert left.get_xscale() == right.get_yscale() == "log"
