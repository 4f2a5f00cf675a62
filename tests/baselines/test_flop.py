"""FLOP: gates compared with sampling and finite differences, factorised and compacted models, sizes and files."""

import math

import pytest
import torch
from torch import nn

from baselines import METHODS, Cell, flop
from study.cells.finetuned_cell import FinetunedCell
from tests.conftest import MODELS

METHOD = METHODS["flop"]
SETTINGS = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24}
ONE_RATE = SETTINGS | {"methods": {"flop": {"rate_factors": [4.0]}}}


@pytest.fixture(scope="module")
def cells(finetuned_cells, task_folder):
    return {model: FinetunedCell(folder, task_folder, ONE_RATE) for model, folder in finetuned_cells.items()}


def factorised(finetuned: FinetunedCell, log_alpha: str = "open") -> nn.Module:
    """The cell's initial model with gated layers, all gates open or of mixed values."""
    cell = finetuned.for_method(METHOD, draw=0)
    model = flop.factorise(cell.training.initial_model(), cell.linear_layers).eval()
    if log_alpha == "mixed":
        generator = torch.Generator().manual_seed(3)
        for layer in flop.gated_layers(model).values():
            layer.log_alpha.data = torch.randn(layer.log_alpha.shape, generator=generator) * 4
    return model


def logits(model: nn.Module, cell: FinetunedCell) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**cell.split("test").batch([0, 1, 2, 3])).logits


def hand_counted_size(state: dict, cell: Cell) -> float:
    """Size from the file: entries of the factors of all linear layers over the entries of the dense weights."""
    left = sum(state[f"{name}.{i}.weight"].numel() for name in cell.linear_layers for i in (0, 1))
    return left / sum(cell.pretrained[f"{name}.weight"].numel() for name in cell.linear_layers)


def test_open_probability_equals_the_frequency_of_open_draws():
    torch.manual_seed(0)
    log_alpha = torch.tensor([-6.0, -3.0, -1.5, 0.0, 1.0, 3.0], dtype=torch.float64)
    draws = flop.gates(log_alpha, torch.rand(400_000, 6, dtype=torch.float64))
    assert draws.min() == 0 and draws.max() == 1
    assert torch.allclose((draws > 0).double().mean(dim=0), flop.open_probability(log_alpha), atol=0.003)


def test_gates_follow_their_definition():
    values, uniform = [-4.0, -2.0, 0.3, 2.0, 5.0], [0.1, 0.9, 0.5, 0.02, 0.7]
    for value, u in zip(values, uniform, strict=True):
        noise = math.log(u) - math.log(1 - u)
        for logit, draw in (((noise + value) / (2 / 3), torch.tensor(u)), (value, None)):
            expected = min(1.0, max(0.0, 1.2 / (1 + math.exp(-logit)) - 0.1))
            assert float(flop.gates(torch.tensor(value), draw)) == pytest.approx(expected, abs=1e-6)


def test_expected_size_is_the_mean_size_of_drawn_models():
    torch.manual_seed(1)
    layers = [flop.GatedLinear(nn.Linear(6, 9)), flop.GatedLinear(nn.Linear(8, 4))]
    for layer in layers:
        nn.init.normal_(layer.log_alpha, std=2)
    counts = [
        (flop.gates(layer.log_alpha, torch.rand(100_000, len(layer.log_alpha))) > 0).sum(dim=1) for layer in layers
    ]
    sizes = (15 * counts[0] + 12 * counts[1]) / (54 + 32)
    assert sizes.mean().item() == pytest.approx(flop.expected_size(layers).item(), rel=0.003)


def test_gradient_of_the_expected_size_against_finite_differences():
    torch.manual_seed(2)
    layers = [flop.GatedLinear(nn.Linear(5, 7)).double(), flop.GatedLinear(nn.Linear(4, 4)).double()]
    for layer in layers:
        nn.init.normal_(layer.log_alpha, std=2)
    flop.expected_size(layers).backward()
    for layer in layers:
        for gate in range(len(layer.log_alpha)):
            sizes = []
            for step in (1e-5, -2e-5):
                layer.log_alpha.data[gate] += step
                sizes.append(flop.expected_size(layers).item())
            layer.log_alpha.data[gate] += 1e-5
            assert layer.log_alpha.grad[gate].item() == pytest.approx((sizes[0] - sizes[1]) / 2e-5, rel=1e-6)


def test_gates_are_drawn_in_training_only():
    torch.manual_seed(3)
    layer = flop.GatedLinear(nn.Linear(6, 6))
    nn.init.zeros_(layer.log_alpha)
    inputs = torch.randn(2, 6)
    assert not torch.equal(layer(inputs), layer(inputs))
    same = layer(inputs[:1].expand(2, 6))
    assert torch.allclose(same[0], same[1]), "one draw per pass"
    layer.eval()
    assert torch.equal(layer(inputs), layer(inputs))


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_lost_before_pruning(model, cells):
    dense = cells[model].for_method(METHOD, draw=0).training.initial_model()
    gated = factorised(cells[model])
    layers = flop.gated_layers(gated)
    assert list(layers) == cells[model].for_method(METHOD, draw=0).linear_layers
    assert all(len(layer.log_alpha) == min(len(layer.p), layer.q.shape[1]) for layer in layers.values())
    assert torch.allclose(logits(gated, cells[model]), logits(dense, cells[model]), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_compacted_model_has_the_logits_of_the_gated_one(model, cells):
    gated = factorised(cells[model], "mixed")
    layers = flop.gated_layers(gated)
    alive = {name: flop.gates(layer.log_alpha) > 0 for name, layer in layers.items()}
    assert 0.2 < torch.cat(list(alive.values())).float().mean() < 0.8
    expected = logits(gated, cells[model])
    plain = flop.with_layers(gated, {name: layer.compact(alive[name]) for name, layer in layers.items()})
    assert not flop.gated_layers(plain) and flop.gated_layers(gated)
    assert torch.allclose(logits(plain, cells[model]), expected, atol=1e-5)


@pytest.mark.parametrize("target", [0.2, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("model", MODELS)
def test_the_highest_gates_survive_up_to_the_size(model, target, cells):
    gated = factorised(cells[model], "mixed")
    layers = flop.gated_layers(gated)
    worst, layer = max(layers.items(), key=lambda item: item[1].unit)
    layer.log_alpha.data -= 100
    alive = flop.surviving(layers, target)
    dense = sum(layer.dense for layer in layers.values())
    units = [layer.unit for layer in layers.values()]
    size = sum(layer.unit * int(alive[name].sum()) for name, layer in layers.items())
    assert abs(size - target * dense) <= min(units) / 2
    assert size == pytest.approx(target * dense, rel=0.02)
    assert alive[worst].nonzero().tolist() == [[int(layer.log_alpha.argmax())]], "every layer keeps one gate"
    kept, pruned = [], []
    for name, layer in layers.items():
        scores = layer.log_alpha.tolist()
        top = scores.index(max(scores))
        kept += [(scores[i], layer.unit) for i in range(len(scores)) if alive[name][i] and i != top]
        pruned += [(scores[i], layer.unit) for i in range(len(scores)) if not alive[name][i]]
    highest = max(score for score, _ in pruned)
    assert sum(unit for score, unit in kept if score < highest) < 2 * max(units), (
        "lower gates only fill the remaining size"
    )
    for unit in units:
        lowest = min((score for score, u in kept if u == unit), default=math.inf)
        assert lowest >= max((score for score, u in pruned if u == unit), default=-math.inf)


def test_impossible_sizes_are_refused(cells):
    for target in (0.01, 1.9):
        with pytest.raises(ValueError, match="no pruning gives size"):
            flop.SizeControl(factorised(cells["bert"]), target)


def test_parameter_groups_of_gates_and_weights(cells):
    model = factorised(cells["bert"])
    weights, learned = flop.SizeControl(model, 0.5).parameter_groups(model, 1e-3)
    assert {id(p) for p in learned["params"]} == {id(layer.log_alpha) for layer in flop.gated_layers(model).values()}
    assert learned["weight_decay"] == 0 and learned["lr"] != 1e-3 and "lr" not in weights
    trained = [id(parameter) for parameter in weights["params"] + learned["params"]]
    assert len(set(trained)) == len(trained) and set(trained) == {id(p) for p in model.parameters()}


def test_the_lagrangian_by_hand(cells):
    model = factorised(cells["bert"])
    hooks = flop.SizeControl(model, 0.5)
    start = flop.expected_size(hooks.layers.values()).item()
    assert start > 1, "full-rank factors are larger than the dense weights"
    assert hooks.candidate(model, 0.49) is None
    linear, quadratic = hooks.multipliers
    for progress in (0.0, 0.2, 0.7):
        next(iter(hooks.layers.values())).log_alpha.data -= 1
        gap = flop.expected_size(hooks.layers.values()).item() - (start + (0.5 - start) * min(1, progress / 0.5))
        assert hooks.penalty(progress).item() == pytest.approx(linear * gap + quadratic * gap**2, rel=1e-4)
        hooks.after_step(progress + 0.1)
        step = hooks.multiplier_rate * {0.0: 0.1, 0.2: 0.2, 0.7: 0.5}[progress]
        linear, quadratic = linear + step * gap, quadratic + step * gap**2
        assert hooks.multipliers == pytest.approx((linear, quadratic), rel=1e-4)


@pytest.mark.parametrize(("steps", "target"), [(250, 0.25), (250, 0.75), (1000, 0.5)])
def test_the_expected_size_converges_to_the_target(steps, target):
    torch.manual_seed(0)
    model = nn.Sequential(flop.GatedLinear(nn.Linear(24, 24)), nn.Tanh(), flop.GatedLinear(nn.Linear(24, 48)))
    wanted = nn.Linear(24, 48)
    hooks = flop.SizeControl(model, target)
    optimizer = torch.optim.AdamW(hooks.parameter_groups(model, 1e-3), 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        inputs = torch.randn(8, 24)
        loss = (model(inputs) - wanted(inputs).detach()).square().mean() + hooks.penalty(step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hooks.after_step((step + 1) / steps)
    assert flop.expected_size(hooks.layers.values()).item() == pytest.approx(target, abs=0.05)


@pytest.mark.parametrize("model", MODELS)
def test_a_file_restores_the_trained_model(model, cells, tmp_path, monkeypatch):
    finetuned, fits = cells[model], []
    cell = finetuned.for_method(METHOD, draw=0)
    best_fit = METHOD.best_fit

    def remember(*args):
        fits.append(best_fit(*args))
        return fits[-1]

    monkeypatch.setattr(METHOD, "best_fit", remember, raising=False)
    finetuned.reset_model()
    before = {name: tensor.clone() for name, tensor in finetuned.model.state_dict().items()}
    for budget in METHOD.budgets:
        report = METHOD.store(cell, None, budget, tmp_path / "file")
        restored = METHOD.restore_into(finetuned.model, finetuned.pretrained, tmp_path / "file")
        assert torch.equal(logits(restored, finetuned), logits(fits[-1].model, finetuned))
        state = METHOD.restore(finetuned.pretrained, tmp_path / "file")
        assert all(torch.equal(state[name], tensor) for name, tensor in restored.state_dict().items())
        assert hand_counted_size(state, cell) == pytest.approx(budget, rel=0.02)
        head = set(finetuned.manifest["head"])
        assert head <= set(state)
        assert report.parameters == sum(parameter.numel() for parameter in restored.parameters())
        assert report.kept == report.parameters - sum(state[name].numel() for name in head)
        assert report.fitted.validation_weighted_f1 == fits[-1].validation_weighted_f1
        assert report.fitted.learning_rate == fits[-1].learning_rate
    assert all(torch.equal(before[name], tensor) for name, tensor in finetuned.model.state_dict().items())


def test_the_file_depends_only_on_the_seed(cells, tmp_path):
    finetuned = cells["bert"]
    first = finetuned.for_method(METHOD, draw=0)
    other = finetuned.for_method(METHOD, draw=1)
    for cell, name in ((first, "one"), (first, "again"), (other, "other")):
        METHOD.store(cell, None, 0.5, tmp_path / name)
    one, again, another = ((tmp_path / name).read_bytes() for name in ("one", "again", "other"))
    assert one == again != another


def test_a_body_without_linear_layers_is_declined(cells):
    assert METHOD.decline(cells["bert"].for_method(METHOD, draw=0)) is None
    embedding = nn.Embedding(4, 2)
    state = embedding.state_dict()
    assert "no linear layer" in METHOD.decline(Cell(state, state, seed=0, skeleton=embedding))
