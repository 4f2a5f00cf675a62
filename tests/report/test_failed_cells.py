"""A study in which the training of some cells diverged: the others are compared, the report names the failed ones."""

import pandas as pd
import pytest

from ken.errors import UserError
from report import kenviz, page, spread, summary
from report.results import F1_COLUMNS, read_scores
from report.tables import Tables
from tests.report.conftest import build
from tests.report.synthetic import wide_rows, write_results
from tests.steps import run_step

REASON = "the training diverged at step 3 of epoch 1 (its loss is not finite): set a learning rate below 5."
MEASURED = (*F1_COLUMNS, "kept", "kept_share", "parameters", "stored_bytes", "seconds", "peak_mib")


def with_failed(*cells: tuple[str, int]) -> list[dict]:
    """Rows of the study of `wide_rows` in which the training of some (model, seed) failed."""
    failed = dict.fromkeys(MEASURED, "") | {"status": "failed", "reason": REASON}
    return [row | failed if (row["model"], row["seed"]) in cells else row for row in wide_rows()]


def test_the_other_cells_are_compared_and_the_failed_one_is_named(tmp_path):
    folder = write_results(tmp_path / "study", with_failed(("bloom", 1)))
    html = build(folder)
    tables = Tables.read(folder)
    assert tables.cells == 3 and any("on average over 3 cells" in line for line in summary.sentences(tables))
    sentence = f"The training of 1 cell failed, which is left out of all means. bloom on t1, seed 1: {REASON[:-1]}."
    assert sentence in summary.sentences(tables) and html.index(sentence) < html.index('<section id="verdicts">')
    ken = tables.overview[(tables.overview["method"] == "ken")]
    assert (ken["cells"] == 3).all() and (ken["without_score"] == 0).all()


def test_a_model_without_any_fine_tuned_cell_is_in_the_report(tmp_path):
    folder = write_results(tmp_path / "study", with_failed(("bloom", 0), ("bloom", 1)))
    html = build(folder)
    assert "The training of 2 cells failed" in html and "on average over 2 cells" in html


def test_a_study_whose_trainings_all_failed_ends_with_the_reason(tmp_path):
    rows = with_failed(*((model, seed) for model in ("bert", "bloom") for seed in (0, 1)))
    with pytest.raises(UserError, match=r"no cell has a fine-tuned model.*set a learning rate below 5"):
        read_scores(write_results(tmp_path, rows))


@pytest.fixture
def not_stored(tmp_path):
    """Where the sub-network of a failed row would be."""
    path = tmp_path / "bert" / "words" / "seed0" / "compressed" / "ken" / "draw0" / "0.25.safetensors"
    path.parent.mkdir(parents=True)
    row = {"file": "ken/draw0/0.25.safetensors", "status": "failed", "reason": REASON}
    pd.DataFrame([row]).to_csv(path.parent.with_name("scores.csv"), index=False)
    return path


def test_kenviz_shows_why_there_is_no_sub_network(not_stored, tmp_path):
    folder = tmp_path / "results"
    stem, explorer = folder / "figures" / "kenviz", folder / "report" / "kenviz.html"
    run_step(kenviz, "--subnetwork", not_stored, "--out", stem, "--explorer", explorer)
    assert page.kenviz_picture(folder)["reason"] == REASON and REASON in explorer.read_text()
    assert all(stem.with_suffix(f".{kind}").exists() for kind in ("svg", "png", "pdf", "json"))
    other = not_stored.with_name("0.5.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        run_step(kenviz, "--subnetwork", other, "--out", stem)


def test_sub_networks_of_failed_methods_are_not_compared(not_stored, stored, tmp_path):
    explorer = tmp_path / "report" / "kenviz.html"
    run_step(
        kenviz, "--subnetwork", stored, "--out", tmp_path / "kenviz", "--explorer", explorer, "--compared", not_stored
    )
    assert explorer.exists()


def test_the_spread_of_failed_rows_is_skipped(not_stored, capsys):
    assert spread.spread_table([not_stored], 10).empty and REASON in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be read as a sub-network"):
        spread.spread_table([not_stored.with_name("0.5.safetensors")], 10)
