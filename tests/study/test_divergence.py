"""Trainings whose loss, weights or validation score become infinite or NaN: where they stop, and what is recorded."""

import json
import math

import pandas as pd
import pytest
import torch

from study.adapt_language_model import adapt
from study.cells.finetuned_cell import FinetunedCell
from study.cells.suggest import suggest
from study.checks import run_ablations
from study.collect import References, finetuning_table, read_scores, read_tables
from study.collect import suggest as suggest_columns
from study.compress import compress
from study.compress_language_model import Adapted, compress_all
from study.finetune import finetune
from study.inference import load_models
from study.pretrain import pretrain
from study.training import loop
from study.training.classification import train_classifier
from study.training.gradients import Gradients
from study.tune import tune
from tests.conftest import SETTINGS, SIZES
from tests.study.test_cells import EVALUATION

AXES = {"model": "bert", "task": "words", "seed": 0}
FAR_TOO_HIGH = SETTINGS | {"learning_rate": 1e38}
STEPS = 4  # of an epoch, with SETTINGS on the thirty rows of the task
DIVERGED = r"^the training diverged at step \d of epoch \d \(.* is not finite\): set a learning rate below \S+\.$"


def strict_json(path) -> dict:
    """The content of a JSON file, which may not hold NaN or Infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def nan_after(monkeypatch):
    """A function after which the loss of a training is NaN from some step on."""

    def patch(steps: int) -> None:
        compute, done = Gradients.compute, []

        def compute_or_nan(self, *arguments):
            done.append(compute(self, *arguments))
            return math.nan if len(done) > steps else done[-1]

        monkeypatch.setattr(Gradients, "compute", compute_or_nan)

    return patch


def train(examples, model, **changed):
    return train_classifier(model, examples["train"], examples["validation"], SETTINGS | changed, 3)


def test_a_training_stops_at_the_first_loss_that_is_not_finite(examples, new_model, monkeypatch):
    losses, compute = [], Gradients.compute

    def record(self, *arguments):
        losses.append(compute(self, *arguments))
        return losses[-1]

    monkeypatch.setattr(Gradients, "compute", record)
    with pytest.raises(loop.Diverged, match=DIVERGED):
        train(examples, new_model(), learning_rate=1e38)
    assert all(map(math.isfinite, losses[:-1])) and (not math.isfinite(losses[-1]) or len(losses) == STEPS)


def test_the_best_epoch_before_the_divergence_is_used(examples, new_model, nan_after, capsys):
    whole, record = train(examples, new_model(), epochs=3)
    nan_after(2 * STEPS + 1)
    kept, diverged = train(examples, new_model(), epochs=3)
    assert diverged["history"] == record["history"][:2] and diverged["best_epoch"] <= 2
    sentence = diverged["diverged"]
    assert "at step 2 of epoch 3 (its loss is not finite)" in sentence and sentence in capsys.readouterr().out
    assert sentence.endswith(f"The best epoch before that, {diverged['best_epoch']}, is used.")
    assert all(parameter.isfinite().all() for parameter in kept.parameters()) and "diverged" not in record
    if record["best_epoch"] == diverged["best_epoch"]:
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), kept.parameters(), strict=True))


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(examples, new_model, monkeypatch):
    model = new_model()
    step = torch.optim.AdamW.step

    def spoil(self, *arguments):
        step(self, *arguments)
        if self.state[model.classifier.bias]["step"] == STEPS:
            with torch.no_grad():
                model.classifier.bias[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(loop.Diverged, match=r"at step 4 of epoch 1 \(a weight is not finite\)"):
        train(examples, model, epochs=1)


@pytest.fixture(scope="module")
def diverged_cell(tmp_path_factory, checkpoints, task_folder):
    folder = tmp_path_factory.mktemp("diverged") / "finetuned"
    finetune(checkpoints["bert"], task_folder, AXES, FAR_TOO_HIGH, folder)
    return folder


def test_a_cell_that_diverged_at_once_is_marked_as_failed(diverged_cell):
    manifest = strict_json(diverged_cell / "manifest.json")
    assert manifest["status"] == "failed" and "below 1e+38" in manifest["reason"]
    assert manifest["head"] and "history" not in manifest and "weighted_f1" not in manifest
    names = {path.name for path in diverged_cell.iterdir()}
    assert {"initial.safetensors", "config.json", "tokenizer.json"} <= names and "model.safetensors" not in names
    assert [path.name for path in diverged_cell.parent.iterdir()] == ["finetuned"], "no state to resume from is left"


def test_every_step_on_a_failed_cell_ends_with_its_reason(diverged_cell, finetuned_cells, task_folder, tmp_path):
    settings = EVALUATION | {"methods": {"lora": {"budgets": [1]}}}
    cell = FinetunedCell(diverged_cell, task_folder, settings)
    methods = ["full", "none", "ken", "random", "lora", "llm-surgeon"]
    compress(cell, methods, tmp_path / "compressed")
    references = References(cell.split("test").labels)
    for method in methods:
        rows = read_scores(tmp_path / "compressed" / method, references)
        assert len(rows) and (rows["status"] == "failed").all() and (rows["reason"] == cell.failure).all()
        strict_json(tmp_path / "compressed" / method / "manifest.json")
    assert not list(tmp_path.rglob("*.safetensors"))
    search = {"margin": 0.3, "confidence": 0.9, "resolution": 0.25}
    suggest(cell, {"methods": ["ken"]} | search, tmp_path / "failed")
    suggest(
        FinetunedCell(finetuned_cells["bert"], task_folder, settings), {"methods": ["ken"]} | search, tmp_path / "fine"
    )
    paths = [tmp_path / name / "suggestions.csv" for name in ("failed", "fine")]
    assert len(read_tables(paths, suggest_columns.COLUMNS)) == 1
    assert read_tables(paths[:1], suggest_columns.COLUMNS).empty
    assert load_models(cell, ["ken"], tmp_path / "compressed") == []
    assert run_ablations(cell, {}, tmp_path / "checks").empty


def test_the_table_of_trainings_says_which_diverged(diverged_cell, finetuned_cells):
    fine, both = finetuning_table([finetuned_cells["bert"]]), finetuning_table([finetuned_cells["bert"], diverged_cell])
    assert "note" not in fine and both["note"][0] == "" and "diverged" in both["note"][1]
    assert both["weighted_f1"].isna().tolist() == [False, True]
    assert both.to_csv(index=False).splitlines()[1].startswith(fine.to_csv(index=False).splitlines()[1])


def test_scores_and_files_of_an_earlier_training_do_not_stay(finetuned_cells, diverged_cell, task_folder, tmp_path):
    compress(FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION), ["ken"], tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    compress(FinetunedCell(diverged_cell, task_folder, EVALUATION), ["ken"], tmp_path)
    assert {path.name for path in (tmp_path / "ken").rglob("*") if path.is_file()} == {
        "manifest.json",
        "predictions.parquet",
        "scores.csv",
    }


def test_the_control_from_random_weights_may_diverge(checkpoints, task_folder, tmp_path):
    manifest = finetune(checkpoints["bert"], task_folder, AXES, FAR_TOO_HIGH, tmp_path / "cell", "random-init")
    assert manifest["status"] == "failed" and finetuning_table([tmp_path / "cell"])["weighted_f1"].isna().all()


@pytest.mark.parametrize("method", ["lora", "flop", "lt-sft"])
def test_rows_of_methods_that_train_fail_with_a_sentence(method, finetuned_cells, task_folder, tmp_path):
    options = {"budgets": [1 if method == "lora" else 0.5], "rate_factors": [1e38]}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"methods": {method: options}})
    compress(cell, ["ken", method], tmp_path)
    row = pd.read_csv(tmp_path / method / "scores.csv", keep_default_na=False).iloc[0]
    assert row["status"] == "failed" and pd.Series([row["reason"]]).str.match(DIVERGED).all()
    assert (pd.read_csv(tmp_path / "ken" / "scores.csv")["status"] == "ok").all()


def test_a_method_uses_the_learning_rates_that_do_not_diverge(finetuned_cells, task_folder, tmp_path, capsys):
    options = {"lora": {"budgets": [1], "rate_factors": [1e38, 1]}}
    compress(FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"methods": options}), ["lora"], tmp_path)
    row = pd.read_csv(tmp_path / "lora" / "scores.csv").iloc[0]
    assert row["status"] == "ok" and row["learning_rate"] == SETTINGS["learning_rate"]
    assert "the training diverged" in capsys.readouterr().out


def test_a_row_of_a_training_that_diverged_later_has_a_note(finetuned_cells, task_folder, tmp_path, nan_after):
    options = {"lora": {"budgets": [1], "rate_factors": [1]}}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"methods": options})
    nan_after(STEPS)
    compress(cell, ["lora"], tmp_path)
    row = pd.read_csv(tmp_path / "lora" / "scores.csv").iloc[0]
    assert row["status"] == "ok" and "The best epoch before that, 1, is used." in row["reason"]


def test_the_search_for_a_learning_rate_goes_on(checkpoints, task_folder):
    grid = {"learning_rates": [1e38, 2e-3], "epochs": [1], "seed": 0}
    table = tune("bert", checkpoints["bert"], [task_folder], ["pretrained"], grid, SETTINGS)
    assert table["learning_rate"].tolist() == [2e-3, 1e38]
    assert table["mean_over_tasks"].isna().tolist() == [False, True]


def test_an_adaptation_that_diverges_at_once_gives_failed_rows(checkpoint, text_folder, tmp_path):
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e38, "max_length": 24}
    axes = {"model": "bloom-560m", "seed": 0}
    adapt(checkpoint, text_folder, axes, settings, tmp_path / "adapted")
    manifest = strict_json(tmp_path / "adapted" / "manifest.json")
    assert manifest["best_epoch"] == 0 and "The best epoch before that, 0, is used." in manifest["diverged"]
    settings = {"kept_shares": [0.1], "draws": 1, "max_length": 24, "batch_size": 4, "methods": {}}
    adapted = Adapted(checkpoint, tmp_path / "adapted", text_folder, axes, settings, tmp_path / "rows")
    ((row, losses),) = compress_all(adapted, ["ken"])
    assert (row.status, row.reason, losses) == ("failed", manifest["diverged"], [])


def test_a_pretraining_that_diverges_ends_with_a_sentence(texts, tmp_path):
    settings = {"tokens": 2000, "learning_rate": 1e38, "batch_size": 4, "max_length": 24}
    settings |= {"vocabulary": 320, "mask_share": 0.2, "seed": 0}
    with pytest.raises(loop.Diverged, match=DIVERGED):
        pretrain(texts, "bert", SIZES["bert"], settings, tmp_path / "model")
    assert not (tmp_path / "model").exists()
