"""Methods that train: which entries change, what is stored, and the choice of the learning rate."""

import pytest
import torch
from safetensors.torch import load_file

from baselines import METHODS
from baselines.magnitude import global_masks
from baselines.masked_training import Masked
from baselines.training import Fitted
from study.cells.finetuned_cell import FinetunedCell

SETTINGS = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24, "methods": {}}


@pytest.fixture(scope="module")
def finetuned(finetuned_cells, task_folder):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, SETTINGS)
    cell.settings["methods"] = {name: {"rate_factors": [1.0]} for name in ("lora", "lt-sft", "fish")}
    return cell


@pytest.mark.parametrize("name", ["lt-sft", "fish"])
def test_only_selected_entries_and_the_head_change(name, finetuned, tmp_path):
    method, cell = METHODS[name], finetuned.for_method(METHODS[name], 0)
    scores = method.prepare(cell)
    masks = global_masks(scores, 0.25)
    method.store(cell, scores, 0.25, tmp_path / "file")
    state = method.restore(finetuned.pretrained, tmp_path / "file")
    for key, base in finetuned.pretrained.items():
        assert torch.equal(state[key][~masks[key]], base[~masks[key]])
    moved = sum(int((state[key] != base).sum()) for key, base in finetuned.pretrained.items())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert 0.5 * kept < moved <= kept
    assert any(not torch.equal(state[key], finetuned.initial[key]) for key in finetuned.manifest["head"])


def test_weight_decay_does_not_change_masked_entries():
    model = torch.nn.Linear(4, 3)
    mask = torch.rand(3, 4) < 0.5
    hooks = Masked(model, {"weight": mask})
    before = model.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 4)).square().sum().backward()
        assert (model.weight.grad[~mask] == 0).all(), "gradient clipping ignores masked entries"
        optimizer.step()
        hooks.after_step(0.5)
    assert torch.equal(model.weight[~mask], before[~mask])
    assert (model.weight[mask] != before[mask]).all()


def test_fish_scores_are_mean_squared_gradients_of_single_texts(finetuned):
    cell = finetuned.for_method(METHODS["fish"], 0)
    scores = METHODS["fish"].scores(cell)
    model = cell.training.initial_model()
    key = next(name for name in scores if name.endswith("query.weight"))
    expected = torch.zeros_like(scores[key])
    train = finetuned.split("train")
    for row in range(len(train)):
        model.zero_grad()
        model(**train.batch([row])).loss.backward()
        expected += dict(model.named_parameters())[key].grad ** 2
    assert torch.allclose(scores[key], expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("model", ["bert", "deberta", "electra", "bloom-560m"])
def test_lora_merges_as_peft_does(model, finetuned_cells, task_folder, tmp_path):
    finetuned = FinetunedCell(finetuned_cells[model], task_folder, SETTINGS)
    method, cell = METHODS["lora"], finetuned.for_method(METHODS["lora"], 0)
    report = method.store(cell, None, 2, tmp_path / "file")
    state = method.restore(finetuned.pretrained, tmp_path / "file")
    adapter = method.unmerged_adapter(cell.training.initial_model(), cell, tmp_path / "file")
    merged = adapter.merge_and_unload().state_dict()
    assert set(merged) == set(state)
    assert all(torch.allclose(state[key], merged[key], atol=1e-6) for key in state)
    changed = {key for key, base in finetuned.pretrained.items() if not torch.equal(state[key], base)}
    assert changed == {f"{layer}.weight" for layer in cell.linear_layers}
    sizes = [sum(finetuned.pretrained[f"{layer}.weight"].shape) for layer in cell.linear_layers]
    assert report.kept == 2 * sum(sizes)
    stored = load_file(tmp_path / "file")
    head = {key: tensor for key, tensor in stored.items() if ".lora_" not in key}
    assert set(head) == set(finetuned.manifest["head"])


def test_an_unmerged_adapter_has_the_logits_of_the_merged_one(finetuned, tmp_path):
    method, cell = METHODS["lora"], finetuned.for_method(METHODS["lora"], 0)
    method.store(cell, None, 2, tmp_path / "file")
    batch = finetuned.split("test").batch([0, 1, 2])
    adapter = method.unmerged_adapter(cell.training.initial_model(), cell, tmp_path / "file").eval()
    merged = method.restore_into(cell.training.initial_model(), finetuned.pretrained, tmp_path / "file").eval()
    with torch.no_grad():
        assert torch.allclose(adapter(**batch).logits, merged(**batch).logits, atol=1e-5)


def test_the_best_learning_rate_on_validation_is_chosen(finetuned):
    method, tried = METHODS["lora"], []

    class Scripted:
        learning_rate_multipliers = (1.0, 2.0, 3.0, 4.0)

        def fit(self, model, hooks, multiplier):
            tried.append((multiplier, float(torch.rand(1))))
            return Fitted(model, multiplier, {1.0: 0.5, 2.0: 0.7, 3.0: 0.7, 4.0: 0.1}[multiplier])

    best = method.best_fit(Scripted(), 1, lambda: ("model", "hooks"))
    assert best.learning_rate == 2.0, "the first of equal ones"
    assert [multiplier for multiplier, _ in tried] == [1.0, 2.0, 3.0, 4.0]
    assert len({draw for _, draw in tried}) == 1, "every rate uses the same random draws"


def test_training_without_changes_reproduces_the_fine_tuned_model(finetuned):
    """Trained with hooks that change nothing, the initial model becomes the fine-tuned one."""
    training = finetuned.for_method(METHODS["lora"], 0).training
    from baselines.training import TrainingHooks

    torch.manual_seed(0)
    fitted = training.fit(training.initial_model(), TrainingHooks(), 1.0)
    for name, tensor in fitted.model.state_dict().items():
        assert torch.allclose(tensor, finetuned.finetuned[name], atol=1e-6), name
    assert fitted.validation_weighted_f1 == finetuned.manifest["validation_weighted_f1"]
