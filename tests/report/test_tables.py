"""Numbers of the tables compared with plain loops and hand calculations."""

import csv
import math
import statistics
import subprocess
import sys
from collections import defaultdict

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.errors import UserError
from report.measurements import suggestions
from report.results import read_scores
from report.scores import reached_by_chance
from report.summary import sentences
from report.table import markdown_frame
from report.tables import Tables
from tests.report.conftest import single_row
from tests.report.synthetic import (
    arm,
    claim_row,
    controls,
    score_row,
    study_rows,
    suggestion,
    task_row,
    write_csv,
    write_evidence,
    write_results,
)


def summary_of(folder, **values):
    return single_row(Tables.compute(folder).scores_summary, **values)


def test_draws_are_averaged_before_seeds(tmp_path):
    # Seed 0 has draws 0.2 and 0.4, seed 1 has one draw of 0.7: seeds 0.3 and 0.7, not the mean of three rows.
    rows = controls(seed=0) + controls(seed=1)
    rows += [score_row(method="random", draw=draw, f1=f1) for draw, f1 in ((0, 0.2), (1, 0.4))]
    rows += [score_row(method="random", seed=1, draw=0, f1=0.7)]
    row = summary_of(write_results(tmp_path, rows), method="random")
    assert row.weighted_f1 == pytest.approx(0.5)
    assert row.weighted_f1_sd == pytest.approx(math.sqrt(2 * 0.2**2))
    assert (row.seeds, row.draws) == (2, 2)
    assert row.difference_points == pytest.approx(-40)


def test_differences_are_paired_by_seed(tmp_path):
    rows = controls(seed=0, full=0.9) + controls(seed=1, full=0.8)
    rows += [score_row(seed=0, f1=0.85), score_row(seed=1, f1=0.75)]
    row = summary_of(write_results(tmp_path, rows), method="ken")
    assert row.difference_points == pytest.approx(-5)
    assert row.difference_points_sd == pytest.approx(0, abs=1e-9)
    assert row.weighted_f1_sd > 0.05


f1s = st.floats(0, 1, allow_nan=False)
cells = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 2)),
    st.dictionaries(
        st.tuples(st.sampled_from(["ken", "none-such"]), st.sampled_from([0.05, 0.5]), st.integers(0, 2)), f1s
    ),
    min_size=1,
)


@settings(max_examples=8, deadline=None)
@given(cells, st.data())
def test_summary_and_overview_agree_with_plain_loops(tmp_path_factory, scored, data):
    fulls = {cell: data.draw(f1s) for cell in scored}
    rows = []
    for (model, task, seed), methods in scored.items():
        rows += controls(model, task, seed, full=fulls[model, task, seed])
        for (method, budget, draw), f1 in methods.items():
            rows.append(score_row(model, task, seed, draw, method, budget, f1))
    tables = Tables.compute(write_results(tmp_path_factory.mktemp("study"), rows))

    by_seed = defaultdict(list)
    for (model, task, seed), methods in scored.items():
        for (method, budget, _), f1 in methods.items():
            by_seed[model, task, method, budget, seed].append(f1)
    groups, everywhere = defaultdict(list), defaultdict(list)
    for (model, task, method, budget, seed), draws in by_seed.items():
        mean = sum(draws) / len(draws)
        groups[model, task, method, budget].append(mean)
        everywhere[method, budget].append(100 * (mean - fulls[model, task, seed]))

    summary = tables.scores_summary[~tables.scores_summary["method"].isin(["full", "none"])]
    assert len(summary) == len(groups)
    for row in summary.itertuples():
        values = groups[row.model, row.task, row.method, row.budget]
        assert row.weighted_f1 == pytest.approx(statistics.fmean(values))
        assert row.seeds == len(values)
        if len(values) > 1:
            assert row.weighted_f1_sd == pytest.approx(statistics.stdev(values), abs=1e-12)
        else:
            assert math.isnan(row.weighted_f1_sd)
    for row in tables.overview[~tables.overview["method"].isin(["full", "none"])].itertuples():
        values = everywhere[row.method, row.budget]
        assert row.cells == len(values)
        assert row.difference_points == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert row.within_1_point == pytest.approx(sum(value >= -1 - 1e-9 for value in values) / len(values))


def test_exactly_one_point_is_within_one_point(tmp_path):
    rows = [*controls(full=0.86), score_row(f1=0.85)]
    overview = Tables.compute(write_results(tmp_path, rows)).overview
    assert overview.loc[overview["method"] == "ken", "within_1_point"].item() == 1


def test_suggestions_are_averaged_over_seeds_with_their_loss_on_test(tmp_path):
    chosen = [suggestion(seed=0, share=0.4, f1=0.88), suggestion(seed=1, share=0.6, f1=0.91)]
    tables = Tables.compute(write_results(tmp_path / "a", controls(), suggestions=chosen))
    (row,) = tables.suggestions.itertuples()
    assert (row.seeds, row.share, row.share_min, row.share_max) == (2, 0.5, 0.4, 0.6)
    assert (row.loss_points, row.loss_points_max) == (pytest.approx(0.5), pytest.approx(2))
    (sentence,) = (line for line in sentences(tables) if "chosen on validation" in line)
    assert (
        "at most 2 points at 95" in sentence and "KEN keeps 50" in sentence and "loses 0.5 points on test" in sentence
    )
    assert Tables.compute(write_results(tmp_path / "b", controls())).suggestions.empty


def test_how_often_the_promise_of_the_smallest_file_held(tmp_path):
    names = ("smallest-file", "smallest-file", "smallest-file", "ken")
    chosen = [
        suggestion(seed=seed, method=name, f1=f1)
        for seed, (name, f1) in enumerate(zip(names, (0.88, 0.87, 0.9, 0.9), strict=True))
    ]
    chosen.append(
        {
            key: "" if key in ("share", "stored_bytes", "weighted_f1") else value
            for key, value in suggestion(seed=4, method="smallest-file").items()
        }
    )
    tables = Tables.compute(write_results(tmp_path, controls(), suggestions=chosen))
    row = tables.suggestions.set_index("method").loc["smallest-file"]
    assert (row["seeds"], row["held"], row["loss_points_max"]) == (3, 2, pytest.approx(3))
    (line,) = (line for line in suggestions.sentences(tables) if "certifies a file in 3 of 4 cells" in line)
    assert "2 of 3 lose no more than was allowed; the worst loses 3.0 points." in line and "at most 2 points" in line


def test_a_search_that_certified_nothing_is_not_called_too_small(tmp_path):
    none = {
        key: "" if key in ("share", "stored_bytes", "weighted_f1") else value for key, value in suggestion().items()
    }
    tables = Tables.compute(write_results(tmp_path, study_rows(), suggestions=[none, suggestion(task="t2")]))
    section = suggestions.page(tables)["section"]
    assert "validation rows" not in section.text
    assert ["nothing certified" in [cell.text for cell in row] for row in section.table.rows] == [True, False]
    tables = Tables.compute(write_results(tmp_path / "none", study_rows(), suggestions=[none]))
    assert suggestions.sentences(tables) == ["No search on validation had a result."]


def test_chance_depends_on_the_number_of_scored_texts():
    tasks = pd.DataFrame({"task": ["t"], "majority_share": [0.5], "majority_weighted_f1": [1 / 3], "test": [40_000]})
    assert reached_by_chance(tasks, tasks["test"])["t"] == pytest.approx(1 / 3 + 0.005)
    assert reached_by_chance(tasks, pd.Series([400]))["t"] == pytest.approx(1 / 3 + 0.05)


def test_suggestions_from_too_few_validation_rows_claim_nothing(tmp_path):
    named = ("model", "task", "seed", "method", "margin", "confidence")
    few = {key: value if key in named else "" for key, value in suggestion(task="t2").items()}
    tables = Tables.compute(write_results(tmp_path / "a", study_rows(), suggestions=[suggestion(), few]))
    section = suggestions.page(tables)["section"]
    assert "It takes at least 149 validation rows to show a loss of at most 2 points" in section.text
    cells = [[cell.text for cell in row] for row in section.table.rows]
    assert ["too few validation rows" in row for row in cells] == [False, True]
    (sentence,) = suggestions.sentences(tables)
    assert "nan" not in sentence and "KEN keeps 40" in sentence
    tables = Tables.compute(write_results(tmp_path / "b", study_rows(), suggestions=[few]))
    (sentence,) = suggestions.sentences(tables)
    assert sentence.startswith(
        "No share could be chosen on validation: there are too few validation rows. It takes at least 149"
    )


def test_pretraining_gain_uses_seeds_with_both_arms(tmp_path):
    arms = [arm("bert", "t1", 0, "pretrained", 0.9), arm("bert", "t1", 0, "random-init", 0.7)]
    arms += [arm("bert", "t1", 1, "pretrained", 0.5)]
    gain = Tables.compute(write_results(tmp_path, controls(), arms)).pretraining_gain
    assert gain[["seeds", "random_init", "pretrained"]].to_numpy().tolist() == [[1, 0.7, 0.9]]
    assert gain["gain_points"].item() == pytest.approx(20)


def test_without_random_init_the_table_is_empty(tmp_path):
    assert Tables.compute(write_results(tmp_path, controls())).pretraining_gain.empty


def test_declined_rows_stay_in_every_table(tmp_path):
    rows = [*controls(), score_row(f1=None, status="declined", reason="rows are too short")]
    rows += [score_row(method="ken", budget=0.5, f1=0.8)]
    tables = Tables.compute(write_results(tmp_path, rows))
    assert tables.not_ok[["method", "status", "reason"]].to_numpy().tolist() == [
        ["ken", "declined", "rows are too short"]
    ]
    declined = tables.scores_summary[tables.scores_summary["budget"] == 0.1].iloc[0]
    assert (declined.seeds, declined.declined, math.isnan(declined.weighted_f1)) == (0, 1, True)
    overview = tables.overview[tables.overview["budget"] == 0.1].iloc[0]
    assert (overview.cells, overview.without_score) == (0, 1)


@pytest.mark.parametrize(
    ("f1", "majority_share", "majority", "tfidf", "test", "learned"),
    [
        (0.86, 0.28, 0.06, 0.88, 500, True),
        (0.17, 0.28, 0.06, 0.63, 500, False),  # far below TF-IDF
        (0.345, 0.28, 0.06, 0.63, 500, True),  # half way
        (0.344, 0.28, 0.06, 0.63, 500, False),
        (0.06, 0.28, 0.06, 0.63, 500, False),  # one class for all texts
        (0.50, 0.5, 0.34, 0.34, 100, True),  # TF-IDF learns nothing, the model does
        (0.43, 0.5, 0.34, 0.34, 100, False),  # 0.34 + 2 * 0.05 is chance
        (0.45, 0.5, 0.34, 0.20, 100, True),
        (0.50, 0.5, 0.34, "", 100, True),  # the reference was left out
        (0.43, 0.5, 0.34, "", 100, False),
        (0.985, 0.98, 0.97, 0.97, 1000, True),
    ],
)
def test_a_model_has_learned_if_it_is_above_chance_and_half_way_to_tfidf(
    tmp_path, f1, majority_share, majority, tfidf, test, learned
):
    folder = write_results(tmp_path, [*controls(full=f1), *controls(seed=1, full=1.0)])
    references = {"majority_share": majority_share, "majority_weighted_f1": majority, "tfidf_weighted_f1": tfidf}
    write_csv(folder / "tasks.csv", [task_row("t1") | references | {"test": test}])
    row = single_row(Tables.compute(folder).finetuned)
    assert (row.seeds, row.learned) == (2, 2 if learned else 1)


def test_tables_survive_a_round_trip(study):
    computed = Tables.compute(study)
    computed.write(study / "tables")
    restored = Tables.read(study)
    assert restored.counts == computed.counts
    for name in ("scores_summary", "overview", "pretraining_gain", "finetuned", "not_ok"):
        left, right = getattr(restored, name), getattr(computed, name)
        assert list(left.columns) == list(right.columns)
        assert len(left) == len(right)
        assert (left["method"].tolist() == right["method"].tolist()) if "method" in left else True
    # The method "none" must not be read as a missing value.
    assert "none" in set(restored.scores_summary["method"])


def test_single_seed_has_an_empty_spread_and_no_nan_in_files(tmp_path):
    folder = write_results(tmp_path, [*controls(), score_row()])
    Tables.compute(folder).write(folder / "tables")
    with open(folder / "tables" / "scores_summary.csv", newline="") as file:
        assert {row["weighted_f1_sd"] for row in csv.DictReader(file)} == {""}
    for path in (folder / "tables").iterdir():
        assert "nan" not in path.read_text().lower(), path


def test_markdown_escapes_cell_borders(tmp_path):
    folder = write_results(tmp_path, controls(task="a|b\nc"))
    lines = markdown_frame(Tables.compute(folder).finetuned).splitlines()
    assert len(lines) == 3
    assert "a\\|b c" in lines[2]


def test_sentences_state_the_numbers_of_the_tables(study):
    text = " ".join(sentences(Tables.compute(study))).replace("\xa0", " ")
    # ken loses 20 and 40 points at 10 %, 1 and 2 at 50 %; random loses 5 more than 20 and than 1, from its second draw.
    assert "With 10 % of each row kept, KEN loses 30.0 points on average. A random choice loses 25.0. No method" in text
    assert "With 50 % of each row kept, KEN loses 1.5 points on average. A random choice loses 6.0. No method" in text
    assert "No method stays within 1 point" in text
    assert "weighted F1 of 0.860 on average over 4 cells" in text
    assert "models lose 10.0 points of weighted F1 on average" in text


def test_methods_with_unknown_names_are_supported(tmp_path):
    rows = [row | {"method": "lottery"} if row["method"] == "ken" else row for row in study_rows()]
    tables = Tables.compute(write_results(tmp_path, rows))
    assert "lottery" in set(tables.overview["method"])
    assert any("lottery" in sentence for sentence in sentences(tables))


def changed_file(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text()))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("scores.csv", lambda text: text.replace("weighted_f1", "f1", 1), "has no column 'weighted_f1'"),
        ("scores.csv", lambda text: "", "is not a CSV table"),
        ("scores.csv", lambda text: text.splitlines()[0] + "\n", "has no rows"),
        ("scores.csv", lambda text: text.replace("0.9,0.9,0.9", "high,0.9,0.9", 1), "'high' in column 'weighted_f1'"),
        ("scores.csv", lambda text: text.replace("0.9,0.9,0.9", ",0.9,0.9", 1), "with status ok in row 1"),
        ("scores.csv", lambda text: text.replace("0.9,0.9,0.9", "9,0.9,0.9", 1), "expected 0 to 1"),
        ("scores.csv", lambda text: text.replace(",ok,", ",fine,", 1), "has the status 'fine'"),
        ("scores.csv", lambda text: text + text.splitlines()[-1] + "\n", "twice"),
        ("scores.csv", lambda text: text.replace(",full,", ",all,"), "no score of the control 'full'"),
        ("finetuning.csv", lambda text: text.replace("arm", "leg", 1), "has no column 'arm'"),
        ("tasks.csv", lambda text: text.replace("tfidf", "bayes", 1), "has no column 'tfidf_weighted_f1'"),
        ("models.csv", lambda text: text.replace("sha256", "md5", 1), "has no column 'sha256'"),
    ],
)
def test_malformed_inputs_give_one_line_messages(study, name, change, expected):
    with pytest.raises(UserError, match=expected) as raised:
        Tables.compute(changed_file(study, name, change))
    assert str(study / name) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "column", "value", "expected"),
    [
        ("scores.csv", "seed", 0.5, "not whole numbers"),
        ("scores.csv", "stored_bytes", -5, "no stored bytes"),
        ("scores.csv", "stored_bytes", "", "no stored bytes"),
        ("tasks.csv", "majority_share", "", "no valid majority_share for the task t1"),
        ("tasks.csv", "test", 0, "no valid test for the task t1"),
        ("tasks.csv", "task", "t3", "lacks the task t1"),
        ("claims.csv", "verdict", "maybe", "has the verdict 'maybe', expected one of holds"),
        ("claims.csv", "low", "", "interval with one end"),
        ("claims.csv", "subject", "bert", "the claim a twice for bert"),
    ],
)
def test_impossible_values_give_one_line_messages(tmp_path, name, column, value, expected):
    folder = write_results(tmp_path, controls())
    write_evidence(folder, claims=[claim_row("a", subject="bert"), claim_row("a", subject="all")])
    table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    table.loc[table.index[-1], column] = str(value)
    table.to_csv(folder / name, index=False)
    with pytest.raises(UserError, match=expected) as raised:
        Tables.compute(folder)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_missing_file_ends_with_status_1_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "report.tables", "--results", str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 1
    assert (
        completed.stderr.strip() == f"error: {tmp_path}/scores.csv does not exist: run the step that writes it first."
    )


def test_additional_columns_are_kept(tmp_path):
    rows = [row | {"file": "f", "key": "k"} for row in controls()]
    assert {"file", "key"} <= set(read_scores(write_results(tmp_path, rows)).columns)
