"""Compressed models are scored on a sample of the test texts, and in another precision than float32."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from baselines import METHODS
from ken.errors import UserError
from report.scores import unlearned_cells
from report.statistics import read_sample
from study.cells.finetuned_cell import FinetunedCell
from study.cells.scoring import COMPARED
from study.cells.suggest import suggest
from study.collect import References, read_references, read_scores
from study.compress import compress
from study.definition import method_settings
from study.running import files, scratch
from tests.report.synthetic import model_row

EVALUATION = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1, 0.5], "draws": 1, "methods": {}}
METHODS_RUN = ["full", "none", "ken", "magnitude"]


@pytest.fixture(scope="module")
def sampled(finetuned_cells, task_folder, tmp_path_factory):
    """A study with one cell whose models are scored on four of the test texts; its folder and the cell."""
    results = tmp_path_factory.mktemp("sampled")
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"scored_texts": 4})
    out = results.joinpath("cells", *map(str, (cell.axes["model"], cell.axes["task"])), f"seed{cell.axes['seed']}")
    compress(cell, METHODS_RUN, out / "compressed")
    (results / "tasks").mkdir()
    (results / "tasks" / cell.axes["task"]).symlink_to(task_folder)
    return results, out / "compressed", cell


def test_all_models_are_scored_on_the_same_texts_and_controls_on_all_as_well(sampled, finetuned_cells, task_folder):
    _, out, cell = sampled
    labels, rows = cell.split("test").labels, cell.scored_rows
    assert len(rows) == 4 < len(labels)
    whole = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    compress(whole, METHODS_RUN, out.parent / "whole")
    for method in METHODS_RUN:
        scores = pd.read_csv(out / method / "scores.csv", keep_default_na=False)
        predictions = pd.read_parquet(out / method / "predictions.parquet")
        on_all = pd.read_parquet(out.parent / "whole" / method / "predictions.parquet")
        assert predictions["text"].tolist() == rows.tolist() and (scores["texts"] == 4).all()
        for row in scores.itertuples():
            assert predictions[row.file].tolist() == on_all[row.file].to_numpy()[rows].tolist()
            expected = f1_score(labels[rows], predictions[row.file], average="weighted")
            assert row.weighted_f1 == pytest.approx(expected)
            if method in ("full", "none"):
                assert row.all_texts_weighted_f1 == pytest.approx(
                    f1_score(labels, on_all[row.file], average="weighted")
                )
                whole_table = pd.read_parquet(out / method / "all_texts.parquet")
                assert whole_table[row.file].tolist() == on_all[row.file].tolist()
        assert (out / method / "all_texts.parquet").exists() == (method in ("full", "none"))
    full = pd.read_csv(out / "full" / "scores.csv")
    assert full["all_texts_weighted_f1"][0] == pytest.approx(cell.manifest["weighted_f1"])


def test_the_collected_scores_are_checked_against_both(sampled, task_folder):
    _, out, cell = sampled
    references = read_references(task_folder, cell.axes["task"], 4)
    assert references.rows.tolist() == cell.scored_rows.tolist()
    for method in METHODS_RUN:
        assert len(read_scores(out / method, references))
    others = References(references.labels, np.arange(4))
    with pytest.raises(UserError, match="is of other test texts"):
        read_scores(out / "ken", others)
    folder = out / "full"
    table = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    original = {name: (folder / name).read_bytes() for name in ("scores.csv", "manifest.json")}
    files.write_csv(folder / "scores.csv", table.assign(all_texts_weighted_f1=0.1))
    manifest = files.read_json(folder / "manifest.json")["sha256"]
    files.write_json(
        folder / "manifest.json", {"sha256": manifest | {"scores.csv": files.sha256(folder / "scores.csv")}}
    )
    with pytest.raises(UserError, match=r"says all_texts_weighted_f1 0\.1 at budget 1\.0, its predictions give"):
        read_scores(folder, references)
    for name, content in original.items():
        (folder / name).write_bytes(content)


def test_the_statistics_are_of_the_scored_texts(sampled):
    results, out, _ = sampled
    tables = [pd.read_csv(out / method / "scores.csv", keep_default_na=False) for method in METHODS_RUN]
    files.write_csv(results / "scores.csv", pd.concat(tables))
    files.write_csv(results / "models.csv", pd.DataFrame([model_row("bert")]))
    sample = read_sample(results)
    assert all(correct.shape == (1, 4) for correct in sample.correct)
    for row in sample.rows[sample.rows["method"] == "ken"].itertuples():
        table = tables[2]
        assert row.weighted_f1 == table.loc[table["budget"] == row.budget, "weighted_f1"].item()


def test_a_row_is_scored_again_when_the_number_of_texts_changes(sampled, finetuned_cells, task_folder, tmp_path):
    few = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"scored_texts": 2})
    compress(few, ["full"], tmp_path)
    compress(FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION), ["full"], tmp_path)
    assert not (tmp_path / "full" / "all_texts.parquet").exists()
    assert "text" not in pd.read_parquet(tmp_path / "full" / "predictions.parquet")


def test_a_suggested_share_is_compared_with_the_full_model_on_the_same_texts(sampled, tmp_path):
    _, out, cell = sampled
    settings = {"methods": ["ken"], "margin": 0.9, "confidence": 0.6, "resolution": 0.5}
    suggest(cell, settings, tmp_path / "suggested")
    (row,) = pd.read_csv(tmp_path / "suggested" / "suggestions.csv").to_dict("records")
    assert row["full_weighted_f1"] == pytest.approx(pd.read_csv(out / "full" / "scores.csv")["weighted_f1"][0])


def test_whether_a_model_has_learned_is_judged_on_all_texts():
    tasks = pd.DataFrame([{"task": "t", "majority_share": 0.5, "majority_weighted_f1": 0.3, "test": 100,
                           "tfidf_weighted_f1": 0.7}])  # fmt: skip
    row = {"model": "m", "task": "t", "seed": 0, "method": "full", "status": "ok", "weighted_f1": 0.1}
    assert unlearned_cells(pd.DataFrame([row | {"all_texts_weighted_f1": 0.9}]), tasks).empty
    assert len(unlearned_cells(pd.DataFrame([row | {"all_texts_weighted_f1": np.nan}]), tasks)) == 1


@pytest.mark.parametrize("model", ["bert", "deberta", "bloom-560m"])
def test_another_precision_is_compared_with_float32(model, finetuned_cells, task_folder, tmp_path):
    cell = FinetunedCell(finetuned_cells[model], task_folder, EVALUATION | {"precision": "bfloat16"})
    exact = FinetunedCell(finetuned_cells[model], task_folder, EVALUATION)
    compress(cell, METHODS_RUN, tmp_path / "bfloat16")
    compress(exact, METHODS_RUN, tmp_path / "float32")
    for method in METHODS_RUN:
        rows, other = (pd.read_csv(tmp_path / name / method / "scores.csv") for name in ("bfloat16", "float32"))
        assert set(rows["precision"]) == {"tf32" if model == "deberta" else "bfloat16"}
        assert set(other["precision"]) == {"float32"} and other["changed_share"].isna().all()
        if method not in COMPARED:
            assert rows["changed_share"].isna().all()
            continue
        assert rows["float32_weighted_f1"].tolist() == pytest.approx(other["weighted_f1"].tolist())
        tables = [pd.read_parquet(tmp_path / name / method / "predictions.parquet") for name in ("bfloat16", "float32")]
        for row in rows.itertuples():
            changed = (tables[0][row.file] != tables[1][row.file]).mean()
            assert row.changed_share == pytest.approx(changed)


def test_files_of_which_only_scores_are_kept_are_written_in_memory(finetuned_cells, task_folder, tmp_path, monkeypatch):
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv(scratch.VARIABLE, str(memory))
    written = []
    restore = type(METHODS["ken"]).restore_into

    def watched(self, model, pretrained, path):
        written.append(path)
        return restore(self, model, pretrained, path)

    monkeypatch.setattr(type(METHODS["ken"]), "restore_into", watched)
    settings = EVALUATION | {"scores_only": ["ken"]}
    compress(FinetunedCell(finetuned_cells["bert"], task_folder, settings), ["ken", "magnitude"], tmp_path / "out")
    ken, magnitude = written[:2], written[2:]
    assert all(path.is_relative_to(memory) and not path.exists() for path in ken)
    assert all(path.is_relative_to(tmp_path / "out") and path.exists() for path in magnitude)
    assert not list(memory.iterdir())
    rows = pd.read_csv(tmp_path / "out" / "ken" / "scores.csv")
    assert (rows["stored_bytes"] > 0).all() and rows["sha256"].str.len().eq(64).all()
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "ken" / "draw0").iterdir())]
    compress(FinetunedCell(finetuned_cells["bert"], task_folder, settings), ["ken"], tmp_path / "out")
    assert before == [path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "ken" / "draw0").iterdir())]


def test_methods_are_run_at_the_kept_shares_of_a_task():
    shares, of_task = [16, 0.1, 0.5], [0.1, 0.5]
    assert method_settings.budgets(METHODS["ken"], {}, shares, of_task) == [0.1, 0.5]
    assert method_settings.budgets(METHODS["ken"], {"budgets": [0.5, 0.75]}, shares, of_task) == [0.5]
    assert method_settings.budgets(METHODS["ken"], {}, shares) == shares
    for name in ("full", "none", "lora", "flop", "bitdelta", "lt-sft"):
        method = METHODS[name]
        assert method_settings.budgets(method, {}, shares, of_task) == method_settings.budgets(method, {}, shares)
