"""Time and memory of restored models: which models in which forms, and the meaning of the numbers."""

import dataclasses

import pytest
import torch
from torch import nn

from baselines import METHODS
from study import inference
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.training.examples import predict

SETTINGS = {
    **{"kept_shares": [0.25, 0.5], "draws": 1, "batch_size": 16, "max_length": 24},
    "methods": {
        "lora": {"budgets": [2], "rate_factors": [1]},
        "svd": {"budgets": [3]},
        "svd-allocated": {"budgets": [0.2]},
    },
}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory, finetuned_cells, task_folder):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, SETTINGS)
    folder = tmp_path_factory.mktemp("compressed")
    compress(cell, ["full", "ken", "lora", "svd", "svd-allocated"], folder)
    return cell, folder


def test_restored_models_match_their_files(compressed):
    cell, folder = compressed
    models = inference.load_models(cell, ["ken", "lora", "bitdelta"], folder)
    assert [(m.method, m.budget, m.form) for m in models] == [
        ("full", 1.0, "dense"), ("ken", 0.25, "restored"), ("lora", 2, "merged"), ("lora", 2, "beside"),
    ]  # fmt: skip
    test = cell.split("test")
    for entry in models:
        method = METHODS[entry.method]
        path = folder / entry.method / "draw0" / f"{entry.budget}.safetensors"
        expected = cell.new_model()
        expected.load_state_dict(method.restore(cell.pretrained, path))
        assert predict(entry.model, test, 8).tolist() == predict(expected, test, 8).tolist()


@pytest.mark.parametrize(("name", "budget"), [("svd", 3), ("svd-allocated", 0.2)])
def test_factors_next_to_the_weights_give_the_logits_of_the_merged_model(compressed, name, budget):
    cell, folder = compressed
    merged, unmerged = inference.load_models(cell, [name], folder)[1:]
    assert [(m.budget, m.form) for m in (merged, unmerged)] == [(budget, "merged"), (budget, "beside")]
    parameters = [sum(parameter.numel() for parameter in entry.model.parameters()) for entry in (merged, unmerged)]
    assert parameters[0] < parameters[1]
    batch = cell.split("test").first(10).batch(range(10))
    logits = [entry.model.eval()(**batch).logits for entry in (merged, unmerged)]
    assert torch.allclose(*logits, atol=1e-5) and not torch.equal(logits[0], logits[0][:1].expand(10, -1))
    ranks = {name: len(factor) for name, factor in unmerged.model.named_parameters() if ".lora_A." in name}
    assert len(ranks) == len(cell.for_method(METHODS[name], 0).linear_layers) or name == "svd-allocated"


def test_an_unmerged_adapter_leaves_unchanged_rows_of_a_layer(compressed, tmp_path):
    cell, _ = compressed
    method, view = METHODS["svd"], cell.for_method(METHODS["svd"], 0)
    name = f"{view.linear_layers[0]}.weight"
    tuned = view.finetuned[name].clone()
    tuned[2:5] = view.pretrained[name][2:5]
    view = dataclasses.replace(view, finetuned=view.finetuned | {name: tuned})
    method.store(view, method.prepare(view), 2, tmp_path / "file")
    models = [cell.new_model(), cell.new_model()]
    models[0].load_state_dict(method.restore(cell.pretrained, tmp_path / "file"))
    models[1].load_state_dict(cell.initial)
    models[1] = method.unmerged_adapter(models[1], view, tmp_path / "file")
    batch = cell.split("test").first(10).batch(range(10))
    assert torch.allclose(*(model.eval()(**batch).logits for model in models), atol=1e-5)
    factor = next(value for key, value in models[1].named_parameters() if f"{view.linear_layers[0]}.lora_B" in key)
    assert not factor[2:5].any() and factor[0].any()


def test_rows(compressed):
    cell, folder = compressed
    models = inference.load_models(cell, ["ken", "lora"], folder)
    rows = inference.measure(models, cell.split("test").first(10), 5, passes=2)
    dense, ken, merged, unmerged = rows
    assert dense["relative_time"] == 1 and all(row["milliseconds_per_text"] > 0 for row in rows)
    assert dense["parameters"] == ken["parameters"] == merged["parameters"] < unmerged["parameters"]
    assert dense["peak_mib"] == ken["peak_mib"] == merged["peak_mib"] < unmerged["peak_mib"]
    assert all(row["texts"] == 10 for row in rows)


def test_peak_memory_is_parameters_plus_two_activations():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(10, 3000, bias=False), nn.Linear(3000, 2, bias=False)

        def forward(self, input_ids, attention_mask):
            hidden = self.first(torch.ones(len(input_ids), 10))
            return type("Output", (), {"logits": self.second(torch.relu(hidden))})

    class Rows:
        def __len__(self):
            return 500

        ids = [[1]] * 500

        def batch(self, rows):
            ids = torch.ones(len(rows), 1, dtype=torch.int64)
            return {"input_ids": ids, "attention_mask": ids.clone(), "labels": ids[:, 0]}

    parameters = 4 * (10 * 3000 + 3000 * 2)
    expected = parameters + 4 * 2 * 500 * 3000  # before and after the activation
    assert inference.peak_bytes(Chain(), Rows(), 500) == pytest.approx(expected, rel=0.02)
