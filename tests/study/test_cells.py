"""One cell from checkpoint to scores, for all seven models: initial state, training, stored files, cached rows."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

import baselines
import ken
from baselines.base import Selection
from ken.errors import UserError
from study.cells.finetuned_cell import FinetunedCell
from study.cells.suggest import COLUMNS, suggest
from study.compress import compress
from study.finetune import finetune
from study.import_model import import_model
from study.models.classifiers import empty_classifier, load_classifier, load_tokenizer
from study.running import files
from study.training.examples import Examples, encode, load_task, predict, shuffled_batches
from tests.conftest import MODELS, SETTINGS
from tests.test_workflow import copy_checkout

EVALUATION = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1, 0.5], "draws": 1, "methods": {}}
METHODS = ["full", "none", "ken", "ken-rescaled", "random", "magnitude", "delta-magnitude"]


@pytest.mark.parametrize("model", MODELS)
def test_the_initial_state_is_the_checkpoint_with_a_new_head(model, checkpoints, finetuned_cells):
    initial = load_file(finetuned_cells[model] / "initial.safetensors")
    head = set(json.loads((finetuned_cells[model] / "manifest.json").read_text())["head"])
    checkpoint = load_file(checkpoints[model] / "model.safetensors")
    assert head and head < set(initial)
    for name, tensor in initial.items():
        if name not in head:
            stored = next(t for key, t in checkpoint.items() if name.endswith(key))
            assert torch.equal(tensor, stored.float())


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_of_the_body_is_trained(model, finetuned_cells):
    initial = load_file(finetuned_cells[model] / "initial.safetensors")
    tuned = load_file(finetuned_cells[model] / "model.safetensors")
    assert set(initial) == set(tuned)
    moved = [name for name in initial if not torch.equal(initial[name], tuned[name])]
    assert len(moved) > 0.8 * len(initial)


def test_fine_tuning_is_deterministic_and_depends_on_the_seed(tmp_path, checkpoints, task_folder):
    def run(seed, name):
        axes = {"model": "bert", "task": "words", "seed": seed}
        return finetune(checkpoints["bert"], task_folder, axes, SETTINGS, tmp_path / name)["sha256"]

    assert run(0, "a") == run(0, "b") != run(1, "c")


def test_the_best_epoch_on_validation_is_kept(tmp_path, checkpoints, task_folder):
    axes = {"model": "bert", "task": "words", "seed": 0}
    manifest = finetune(checkpoints["bert"], task_folder, axes, SETTINGS | {"epochs": 5}, tmp_path / "cell")
    curve = [entry["validation_weighted_f1"] for entry in manifest["history"]]
    assert manifest["best_epoch"] == 1 + int(np.argmax(curve))
    splits, classes = load_task(task_folder)
    tokenizer = load_tokenizer(tmp_path / "cell", 24)
    model = empty_classifier(tmp_path / "cell")
    model.load_state_dict(load_file(tmp_path / "cell" / "model.safetensors"))
    examples = encode(splits["validation"], classes, tokenizer)
    f1 = f1_score(examples.labels, predict(model, examples, 8), average="weighted")
    assert f1 == pytest.approx(max(curve))


def test_the_random_init_arm_saves_no_model(tmp_path, checkpoints, task_folder):
    axes = {"model": "bert", "task": "words", "seed": 0}
    manifest = finetune(checkpoints["bert"], task_folder, axes, SETTINGS, tmp_path / "cell", "random-init")
    assert manifest["arm"] == "random-init"
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["manifest.json"]


def test_batches_cover_every_row_once_and_predictions_keep_the_order(checkpoints):
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 60, size).tolist() for size in rng.integers(1, 20, 53)]
    examples = Examples(rows, np.arange(53), pad=0)
    batches = [batch["labels"].tolist() for batch in shuffled_batches(examples, 8, torch.Generator().manual_seed(0))]
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(53)) and order != list(range(53))
    tokenizer = load_tokenizer(checkpoints["bert"], 24)
    torch.manual_seed(0)
    model, _ = load_classifier(checkpoints["bert"], ["a", "b", "c"], tokenizer.pad_token_id)
    one_by_one = [int(model.eval()(input_ids=torch.tensor([row])).logits.argmax()) for row in rows]
    assert predict(model, examples, 8).tolist() == one_by_one


@pytest.mark.parametrize("model", MODELS)
def test_padding_does_not_change_the_logits(model, finetuned_cells):
    network = empty_classifier(finetuned_cells[model])
    network.load_state_dict(load_file(finetuned_cells[model] / "model.safetensors"))
    tokenizer = load_tokenizer(finetuned_cells[model], 24)
    rows = [tokenizer(text)["input_ids"] for text in ("A plum.", "A saw and one drill and one wrench here.", "")]
    batch = Examples(rows, np.zeros(3, dtype=int), tokenizer.pad_token_id).batch([0, 1, 2])
    del batch["labels"]
    with torch.inference_mode():
        together = network(**batch).logits
        if rows[2]:
            alone = torch.cat([network(input_ids=torch.tensor([row])).logits for row in rows])
            assert torch.allclose(together, alone, atol=1e-5)
        assert torch.isfinite(together).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_score_can_be_recomputed_from_its_file(model, tmp_path, finetuned_cells, task_folder):
    cell = FinetunedCell(finetuned_cells[model], task_folder, EVALUATION | {"kept_shares": [0.05, 3], "draws": 2})
    compress(cell, METHODS, tmp_path)
    initial = load_file(finetuned_cells[model] / "initial.safetensors")
    body = {name: tensor for name, tensor in initial.items() if name not in cell.manifest["head"]}
    for method in METHODS:
        scores = pd.read_csv(tmp_path / method / "scores.csv", keep_default_na=False)
        predictions = pd.read_parquet(tmp_path / method / "predictions.parquet")
        assert len(scores) == {"full": 1, "none": 1, "random": 4}.get(method, 2)
        for row in scores.itertuples():
            path = tmp_path / row.file
            assert row.status == "ok" and path.stat().st_size == row.stored_bytes
            network = empty_classifier(finetuned_cells[model])
            network.load_state_dict(ken.Subnetwork.load(path).apply(body))
            predicted = predict(network, cell.split("test"), 5)
            assert predicted.tolist() == predictions[row.file].tolist()
            assert row.weighted_f1 == pytest.approx(f1_score(cell.split("test").labels, predicted, average="weighted"))
    full = pd.read_csv(tmp_path / "full" / "scores.csv")
    assert full["weighted_f1"][0] == pytest.approx(cell.manifest["weighted_f1"]) and full["kept_share"][0] == 1


@pytest.mark.parametrize("model", MODELS)
def test_long_texts_are_truncated_to_the_model_length(model, checkpoints):
    tokenizer = load_tokenizer(checkpoints[model], 512)
    assert load_tokenizer(checkpoints[model], 7).model_max_length == 7
    frame = pd.DataFrame({"text": ["apple and plum " * 200], "label": ["a"]})
    examples = encode(frame, ["a", "b"], tokenizer)
    assert len(examples.ids[0]) == 24, "the checkpoint has 24 positions"
    torch.manual_seed(0)
    network, _ = load_classifier(checkpoints[model], ["a", "b"], tokenizer.pad_token_id)
    assert predict(network, examples, 1).shape == (1,)


def test_a_share_is_chosen_on_validation_and_its_file_evaluated_on_the_test_set(tmp_path, finetuned_cells, task_folder):
    settings = {"margin": 0.3, "confidence": 0.9, "resolution": 0.125}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    suggest(cell, {"methods": ["ken", "ken-rescaled"]} | settings, tmp_path / "a")
    suggestions = pd.read_csv(tmp_path / "a" / "suggestions.csv")
    curves = pd.read_csv(tmp_path / "a" / "curves.csv")
    assert suggestions["method"].tolist() == ["ken", "ken-rescaled"]
    for row in suggestions.itertuples():
        network = empty_classifier(finetuned_cells["bert"])
        network.load_state_dict(
            ken.Subnetwork.load(tmp_path / "a" / f"{row.method}.safetensors").apply(cell.pretrained)
        )
        predicted = predict(network, cell.split("test"), 5)
        expected = f1_score(cell.split("test").labels, predicted, average="weighted")
        assert row.weighted_f1 == pytest.approx(expected) and row.kept_share == pytest.approx(row.share, abs=0.05)
        evaluated = curves[(curves["method"] == row.method) & (curves["share"] == row.share)]
        assert evaluated["not_inferior"].all() and row.share in set(curves["share"])
    labels = cell.split("test").labels
    labels[:] = 1 - labels  # would change a choice that used the test set
    suggest(cell, {"methods": ["ken", "ken-rescaled"]} | settings, tmp_path / "b")
    assert pd.read_csv(tmp_path / "b" / "curves.csv").equals(curves)
    with pytest.raises(UserError, match="full does not rank all entries"):
        suggest(cell, {"methods": ["full"]} | settings, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_smallest_certified_file_is_evaluated_on_the_test_set(tmp_path, finetuned_cells, task_folder):
    settings = {"methods": [], "smallest_file": True, "margin": 0.5, "confidence": 0.8, "resolution": 0.125}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    suggest(cell, settings, tmp_path / "a")
    (row,) = pd.read_csv(tmp_path / "a" / "suggestions.csv").itertuples()
    curve, path = pd.read_csv(tmp_path / "a" / "curves.csv"), tmp_path / "a" / "smallest-file.safetensors"
    assert row.method == "smallest-file" and row.looks == len(curve)
    assert row.stored_bytes == path.stat().st_size
    smallest = curve.loc[curve[curve["not_inferior"]]["file_bytes"].idxmin()]
    assert (row.share, row.values, row.positions) == tuple(smallest[["share", "values", "positions"]])
    network = empty_classifier(finetuned_cells["bert"])
    network.load_state_dict(ken.Subnetwork.load(path).apply(cell.pretrained))
    test = cell.split("test")
    assert row.weighted_f1 == pytest.approx(f1_score(test.labels, predict(network, test, 5), average="weighted"))
    labels = cell.split("validation").labels
    labels[:] = 1 - predict(
        cell.model, cell.split("validation"), 5
    )  # now every change of an answer is a gain or a loss
    suggest(cell, settings | {"margin": 0.21, "confidence": 0.501}, tmp_path / "b")
    (row,) = pd.read_csv(tmp_path / "b" / "suggestions.csv").itertuples()
    assert math.isnan(row.share) == (not list((tmp_path / "b").glob("*.safetensors")))


def test_no_share_is_suggested_from_too_few_validation_rows(tmp_path, finetuned_cells, task_folder, capsys):
    settings = {"margin": 0.01, "confidence": 0.95, "resolution": 0.125}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    suggest(cell, {"methods": ["ken"]} | settings, tmp_path / "few")
    assert "8 validation rows are too few to suggest a share, 299 are needed" in capsys.readouterr().out
    (row,) = pd.read_csv(tmp_path / "few" / "suggestions.csv").to_dict("records")
    assert {key: row[key] for key in settings} == settings and row["method"] == "ken"
    others = [value for key, value in row.items() if key not in (*settings, *cell.axes, "method")]
    assert len(others) == 11 and all(map(math.isnan, others)) and set(COLUMNS) == set(row)
    assert pd.read_csv(tmp_path / "few" / "curves.csv").empty and not list(tmp_path.rglob("*.safetensors"))


def test_the_random_draws_differ_and_repeat(tmp_path, finetuned_cells, task_folder):
    for name in ("a", "b"):
        settings = EVALUATION | {"methods": {"random": {"budgets": [0.1], "draws": 2}}}
        compress(FinetunedCell(finetuned_cells["bert"], task_folder, settings), ["random"], tmp_path / name)
    draws = [files.sha256(tmp_path / name / f"random/draw{d}/0.1.safetensors") for name in ("a", "b") for d in (0, 1)]
    assert draws[:2] == draws[2:] and draws[0] != draws[1]


def test_only_new_budgets_and_lost_files_are_computed(tmp_path, finetuned_cells, task_folder):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    folder = tmp_path / "magnitude" / "draw0"
    compress(cell, ["magnitude"], tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    cell.settings["kept_shares"] = [0.1, 0.25, 0.5]
    compress(cell, ["magnitude"], tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert times.items() <= after.items() and "0.25.safetensors" in after
    (folder / "0.5.safetensors").unlink()
    (folder / "0.1.json").write_text("{")
    compress(cell, ["magnitude"], tmp_path)
    assert (folder / "0.5.safetensors").exists() and files.read_json(folder / "0.1.json")["row"]["budget"] == 0.1
    assert pd.read_csv(tmp_path / "magnitude" / "scores.csv")["budget"].tolist() == [0.1, 0.25, 0.5]
    cell.settings["kept_shares"] = [0.1, 0.5]


def test_files_of_scores_only_methods_are_deleted_and_recreated_on_demand(tmp_path, finetuned_cells, task_folder):
    def scores(**settings):
        cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | settings)
        compress(cell, ["magnitude", "ken"], tmp_path)
        return pd.read_csv(tmp_path / "magnitude" / "scores.csv").drop(columns=["seconds", "peak_mib"])

    def stored_files(method):
        return {path.name for path in (tmp_path / method).rglob("*.safetensors")}

    all_files = {"0.1.safetensors", "0.5.safetensors"}
    kept = scores()
    assert stored_files("magnitude") == stored_files("ken") == all_files
    without = scores(scores_only=["magnitude"])  # deletes existing files
    assert stored_files("magnitude") == set() and stored_files("ken") == all_files
    assert set(files.read_json(tmp_path / "magnitude" / "manifest.json")["sha256"]) == {
        "predictions.parquet",
        "scores.csv",
    }
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "magnitude" / "draw0").iterdir()}
    again = scores(scores_only=["magnitude"])
    assert records == {path: path.stat().st_mtime_ns for path in (tmp_path / "magnitude" / "draw0").iterdir()}
    for path in records:
        path.unlink()
    recomputed = scores(scores_only=["magnitude"])
    assert stored_files("magnitude") == set() and len(list((tmp_path / "magnitude" / "draw0").iterdir())) == 2
    recreated = scores()
    assert stored_files("magnitude") == all_files
    for table in (without, again, recomputed, recreated):
        pd.testing.assert_frame_equal(table, kept)


def test_an_interrupted_run_resumes(tmp_path, finetuned_cells, task_folder, monkeypatch):
    cell, store, budgets = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION), Selection.store, []

    def interrupt_at_half(self, cell, prepared, budget, path):
        budgets.append(budget)
        if budgets == [0.1, 0.5]:
            raise KeyboardInterrupt
        return store(self, cell, prepared, budget, path)

    monkeypatch.setattr(Selection, "store", interrupt_at_half)
    with pytest.raises(KeyboardInterrupt):
        compress(cell, ["magnitude"], tmp_path)
    assert not (tmp_path / "magnitude" / "scores.csv").exists()
    compress(cell, ["magnitude"], tmp_path)
    assert budgets == [0.1, 0.5, 0.5], "finished work is not repeated"
    assert (pd.read_csv(tmp_path / "magnitude" / "scores.csv")["status"] == "ok").all()


def test_declining_and_failing_methods_are_recorded_with_a_reason(tmp_path, finetuned_cells, task_folder, monkeypatch):
    class Declines(baselines.Method):
        name = "declines"

        def decline(self, cell):
            return "no layers of its kind"

        def store(self, cell, prepared, budget, path):
            raise AssertionError

        restore = store

    class Fails(Declines):
        name = "fails"

        def decline(self, cell):
            return None

        def store(self, cell, prepared, budget, path):
            raise ValueError("out of luck")

    for method in (Declines(), Fails()):
        monkeypatch.setitem(baselines.METHODS, method.name, method)
        monkeypatch.setitem(baselines.base.MODULES, method.name, "baselines.controls")
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    compress(cell, ["declines", "fails"], tmp_path)
    rows = [pd.read_csv(tmp_path / m / "scores.csv", keep_default_na=False).iloc[0] for m in ("declines", "fails")]
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("declined", "no layers of its kind"),
        ("failed", "ValueError: out of luck"),
    ]
    assert rows[0]["weighted_f1"] == ""


def test_successful_rows_are_kept_when_another_fails(tmp_path, finetuned_cells, task_folder, monkeypatch):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    store = Selection.store

    def fail_at_half(self, cell_of_method, prepared, budget, path):
        if budget == 0.5:
            raise ValueError("out of luck")
        return store(self, cell_of_method, prepared, budget, path)

    monkeypatch.setattr(Selection, "store", fail_at_half)
    for _ in range(2):
        compress(cell, ["magnitude"], tmp_path)
        scores = pd.read_csv(tmp_path / "magnitude" / "scores.csv", keep_default_na=False)
        assert scores["status"].tolist() == ["ok", "failed"]
        times = [path.stat().st_mtime_ns for path in (tmp_path / "magnitude" / "draw0").glob("*.safetensors")]
    assert times == [(tmp_path / scores["file"][0]).stat().st_mtime_ns]
    before = times[0]
    compress(cell, ["magnitude"], tmp_path)
    assert (tmp_path / scores["file"][0]).stat().st_mtime_ns == before


def test_a_damaged_or_empty_checkpoint_is_refused(tmp_path, checkpoints):
    with pytest.raises(UserError, match=r"holds no \*.safetensors"):
        import_model(tmp_path, "empty", tmp_path / "out")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in checkpoints["bert"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 2000 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match="damaged"):
        import_model(broken, "broken", tmp_path / "out")
    wordless = tmp_path / "wordless"
    wordless.mkdir()
    for path in checkpoints["bert"].iterdir():
        if "token" not in path.name:
            (wordless / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="wordless holds no tokenizer"):
        import_model(wordless, "wordless", tmp_path / "out")
    assert not (tmp_path / "out").exists()


CODE = """
import json, baselines
from study.cells.finetuned_cell import scoring_code
print(json.dumps({name: scoring_code(name) for name in baselines.METHODS}))
"""


def test_the_code_of_a_score_covers_what_it_depends_on(tmp_path):
    checkout = copy_checkout(tmp_path)

    def codes() -> dict[str, str]:
        completed = subprocess.run(
            [sys.executable, "-c", CODE], cwd=checkout, capture_output=True, text=True, check=True
        )
        return json.loads(completed.stdout)

    def changed(name: str) -> set[str]:
        path = checkout / name
        text = path.read_text()
        path.write_text(text + "\nCHANGED = 1\n")
        after = codes()
        path.write_text(text)
        return {method for method in before if after[method] != before[method]}

    before = codes()
    assert changed("baselines/bitdelta.py") == {"bitdelta"}
    assert {"delta-magnitude", "lt-sft"} <= changed("baselines/magnitude.py") < set(before) - {"ken", "random", "dare"}
    assert changed("study/training/metrics.py") == changed("ken/kde.py") == set(before)
    assert not changed("study/running/progress.py") and not changed("study/collect.py")


def test_a_row_computed_by_other_code_is_recomputed(tmp_path, finetuned_cells, task_folder, monkeypatch):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION)
    compress(cell, ["ken"], tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    compress(cell, ["ken"], tmp_path)
    assert times == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    monkeypatch.setattr("study.cells.finetuned_cell.scoring_code", lambda method: "other")
    compress(cell, ["ken"], tmp_path)
    assert all(
        time != path.stat().st_mtime_ns
        for time, path in zip(times, sorted(tmp_path.rglob("*.safetensors")), strict=True)
    )


def test_a_model_without_its_tokenizer_is_refused(checkpoints, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoints["bert"] / name, tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer: save it there"):
        load_tokenizer(tmp_path, 24)
    config = json.loads((checkpoints["bert"] / "config.json").read_text())
    for path in checkpoints["bert"].iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    with pytest.raises(UserError, match=r"a tokenizer of \d+ tokens, but 10 embeddings"):
        load_tokenizer(tmp_path, 24)
