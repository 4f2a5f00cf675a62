"""Comparison of a run with its reference: intervals against formulas and simulation, and every kind of difference."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ken.errors import UserError
from report import compare
from report.compare import KIND, ROW, judged_rows, row_means, seed_spread
from report.results import read_scores
from tests.report.synthetic import (
    claim_row,
    controls,
    pairwise_row,
    score_row,
    study_rows,
    write_evidence,
    write_results,
)
from tests.steps import run_step

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "mini"


def write(folder: Path, rows: list[dict] | None = None, evidence: dict | None = None, **provenance) -> Path:
    """A results folder with the invented study, two means and three claims."""
    write_results(folder, rows or study_rows(), **provenance)
    default_evidence = {
        "pairwise": [pairwise_row(other="full", budget=budget, points=-5.0) for budget in (0.1, 0.5)],
        "claims": [claim_row("a"), claim_row("b", verdict="open"), claim_row("time", unit="slope")],
    }
    return write_evidence(folder, **default_evidence | (evidence or {}))


def changed(method: str, points: float, budget: float = 0.1, model: str | None = None) -> list[dict]:
    """Rows of the invented study with changed scores of a method at a budget."""
    rows = study_rows()
    for row in rows:
        if row["method"] == method and row["budget"] == budget and model in (None, row["model"]):
            row["weighted_f1"] += points / 100
    return rows


def status(results: Path, reference: Path, *options: object) -> int:
    with pytest.raises(SystemExit) as end:
        run_step(compare, results, reference, *options)
    return end.value.code


def test_a_run_agrees_with_itself(tmp_path, capsys):
    folder = write(tmp_path / "a")
    assert status(folder, folder) == 0
    shown = capsys.readouterr().out
    assert "agrees with the reference: 0 of 12 rows and 0 of 2 means" in shown
    assert "0 of 3 verdicts" in shown and "differ" not in shown


def test_the_committed_run_agrees_with_itself():
    comparison = compare.compare(REFERENCE, REFERENCE)
    assert (
        comparison.disagreements() == []
        and comparison.notes == []
        and len(comparison.rows) > 200
        and len(comparison.means) > 20
    )
    assert (comparison.rows["half_width"] > 0).all() and (comparison.rows["difference"] == 0).all()


def test_the_interval_of_a_row_against_its_formula(tmp_path):
    folder = write(tmp_path / "a", [*study_rows(), *controls("bert", "t2", 0, 0.7), *controls("bert", "t2", 1, 0.78)])
    means = row_means(read_scores(folder))
    rows = means.merge(means, on=ROW, suffixes=("_reference", "_here"))
    full = judged_rows(rows, seed_spread(means)).set_index("method").loc["full"]
    # Three pairs of model and task with two seeds: two are 2 points apart, one 8.
    sd = ((2 * (1**2 + 1**2) + (4**2 + 4**2)) / 3) ** 0.5
    half_width = 3.182446 * sd * (1 / 2 + 1 / 2) ** 0.5  # Student's t with 3 degrees of freedom, from a table
    assert full["half_width"].to_numpy() == pytest.approx(half_width, rel=1e-6)
    assert full["reference"].tolist() == pytest.approx([91, 81, 74])


def test_draws_are_averaged_before_seeds_are_compared(tmp_path):
    folder = write(tmp_path / "a")
    random = row_means(read_scores(folder)).query("method == 'random' and budget == 0.1 and model == 'bert'")
    assert random["points"].tolist() == pytest.approx([100 * (0.91 - 0.2 - 0.05)]) and random["seeds"].tolist() == [2]
    assert random["variance"].tolist() == pytest.approx([2.0])


def test_95_percent_of_rows_of_a_rerun_lie_inside_their_interval():
    generator = np.random.default_rng(0)
    methods, pairs, sd = 4000, 3, 2.5

    def drawn(seeds: int) -> pd.DataFrame:
        scores = 60 + sd * generator.standard_normal((methods, pairs, seeds))
        axes = pd.MultiIndex.from_product([range(methods), range(pairs)], names=["method", "model"]).to_frame(
            index=False
        )
        kind = {"task": "t", "unit": "share", "budget": 0.1}
        values = {"points": scores.mean(2).ravel(), "seeds": seeds, "variance": scores.var(2, ddof=1).ravel()}
        return axes.assign(**kind, **values).replace({"method": {0: "full"}})

    reference, rerun = drawn(2), drawn(3)
    rows = reference.merge(rerun, on=ROW, suffixes=("_reference", "_here"))
    assert judged_rows(rows, seed_spread(reference))["outside"].mean() == pytest.approx(0.05, abs=0.008)


def test_a_method_with_one_seed_uses_the_spread_of_the_fine_tuned_models(tmp_path):
    rows = [*study_rows(), *(score_row(model=model, method="lt-sft", budget=0.05) for model in ("bert", "bloom"))]
    spread = seed_spread(row_means(read_scores(write(tmp_path / "a", rows)))).set_index("method")
    assert spread.loc["lt-sft", "freedom"] == spread.loc["full", "freedom"] == 2
    assert spread.loc["lt-sft", "sd"] == spread.loc["full", "sd"] > 0


def test_one_seed_gives_a_note_instead_of_an_interval(tmp_path, capsys):
    one = [row for row in study_rows() if row["seed"] == 0]
    reference = write(tmp_path / "reference", one)
    assert status(write(tmp_path / "here", changed("ken", -30)), reference) == 0
    assert "12 rows have no interval: the reference has one seed." in capsys.readouterr().out


def test_a_single_row_outside_is_shown_and_taken_for_chance(tmp_path, capsys):
    reference, here = write(tmp_path / "reference"), write(tmp_path / "here", changed("ken", -20, 0.5, "bloom"))
    assert status(here, reference) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("bloom"))
    assert line.split() == ["bloom", "t1", "KEN", "50", "%", "79.0", "6.1", "59.0", "−20.0", "yes"]
    assert "1 of 12 rows" in shown and "bert" not in shown


def test_a_change_in_every_cell_is_reported(tmp_path, capsys):
    reference, here = write(tmp_path / "reference"), write(tmp_path / "here", changed("ken", -20))
    assert status(here, reference) == 1
    assert "2 of 12 rows are outside their intervals, more than chance explains" in capsys.readouterr().out


def test_a_single_mean_outside_its_bootstrap_interval_is_reported(tmp_path, capsys):
    reference = write(tmp_path / "reference")
    inside, outside = ({"pairwise": [pairwise_row(other="full", budget=0.1, points=points)]} for points in (-5.9, -6.1))
    assert status(write(tmp_path / "inside", evidence=inside), reference) == 0
    assert status(write(tmp_path / "outside", evidence=outside), reference) == 1
    assert "1 of 1 means over models and tasks are outside theirs (KEN\u00a010\u00a0%)" in capsys.readouterr().out


def test_means_over_another_number_of_pairs_are_not_compared(tmp_path, capsys):
    evidence = {"pairwise": [pairwise_row(other="full", budget=0.1, points=-60) | {"n": 2}]}
    assert status(write(tmp_path / "here", evidence=evidence), write(tmp_path / "reference")) == 0
    assert "No means over models and tasks are compared" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["left out", "failed"])
def test_rows_missing_from_the_run_are_reported(tmp_path, capsys, how):
    rows = study_rows()
    for row in [row for row in rows if row["method"] == "random" and row["budget"] == 0.5]:
        if how == "left out":
            rows.remove(row)
        else:
            row.update(status="failed", reason="no memory", weighted_f1="", macro_f1="", accuracy="")
    assert status(write(tmp_path / "here", rows), write(tmp_path / "reference")) == 1
    assert "2 rows of the reference have no score here (Random\u00a050\u00a0%)" in capsys.readouterr().out


def test_rows_missing_from_the_reference_are_not_compared(tmp_path):
    rows = [*study_rows(), score_row(method="dare", f1=0.1)]
    assert status(write(tmp_path / "here", rows), write(tmp_path / "reference")) == 0


def test_changed_verdicts_are_reported_and_count_except_on_timing(tmp_path, capsys):
    reference = write(tmp_path / "reference")
    slower = {"claims": [claim_row("a"), claim_row("time", unit="slope", verdict="open")]}
    assert status(write(tmp_path / "slower", evidence=slower), reference) == 0
    shown = capsys.readouterr().out
    assert "Claim time, all models: open, in the reference holds (measured in seconds" in shown
    other = {"claims": [claim_row("a", verdict="does not hold"), claim_row("b", verdict="open")]}
    assert status(write(tmp_path / "other", evidence=other), reference) == 1
    shown = capsys.readouterr().out
    assert "Claim a, all models: does not hold, in the reference holds." in shown
    assert "1 of 2 verdicts on claims changed" in shown and "Its config is another" not in shown
    assert status(write(tmp_path / "third", evidence=other, config={"seeds": [5]}), reference) == 1
    assert "Its config is another: see above." in capsys.readouterr().out


def test_different_configs_versions_and_machines_are_reported(tmp_path, capsys):
    reference = write(tmp_path / "reference", config={"seeds": [0, 1], "finetuning": {"epochs": 4}})
    here = write(
        tmp_path / "here", config={"seeds": [0, 1], "finetuning": {"epochs": 3}}, versions={"torch": "3.0"}, dirty=True
    )
    assert status(here, reference) == 0
    shown = capsys.readouterr().out
    assert "The configs differ: finetuning.epochs is 3, not 4." in shown
    assert "The versions of packages differ: torch is 3.0, not 2.13." in shown
    assert "This run was made with code that differs from its commit." in shown and "machines" not in shown


def test_a_comparison_of_nothing_does_not_agree(tmp_path, capsys):
    one = [row for row in study_rows() if row["seed"] == 0]
    here = write(tmp_path / "here", one)
    (here / "statistics" / "pairwise.csv").unlink()
    (here / "claims.csv").unlink()
    assert status(here, write(tmp_path / "reference", one)) == 1
    text = capsys.readouterr().out
    assert "nothing can be compared" in text and "none of the 3 verdicts of the reference" in text


def test_all_rows_can_be_printed_and_written_to_a_file(tmp_path, capsys):
    folder = write(tmp_path / "a")
    assert status(folder, folder, "--all", "--out", tmp_path / "rows.csv") == 0
    table = pd.read_csv(tmp_path / "rows.csv")
    assert len(table) == 12 and not table["outside"].any() and [*table.columns][:5] == ROW
    assert capsys.readouterr().out.count("bloom") == 6
    assert set(KIND) < set(table.columns)


def test_an_unfinished_study_is_refused(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(UserError, match="holds no finished study"):
        compare.compare(tmp_path, folder)
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"provenance\.json does not exist"):
        compare.compare(tmp_path / "b", folder)
    with pytest.raises(UserError, match="in common"):
        compare.compare(write_results(tmp_path / "c", controls("gpt", "t9")), folder)
