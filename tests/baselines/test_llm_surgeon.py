"""LLM Surgeon compared with explicit Kronecker products, and its methods on all seven models."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import BloomConfig, BloomForCausalLM

from baselines import METHODS, module_of
from baselines.estimates import ModelShapes
from baselines.llm_surgeon import costs, curvature, needs, schedule, updates
from baselines.llm_surgeon.curvature import estimate
from baselines.llm_surgeon.factors import Factors
from baselines.llm_surgeon.schedule import Settings, joined, kept_counts, prune
from ken.selection import as_rows, kept_count
from study.cells.finetuned_cell import FinetunedCell
from study.running.code import dependencies
from tests.baselines.storing import store_and_restore
from tests.conftest import MODELS

NAMES = ["llm-surgeon", "surgeon-delta", "surgeon-delta-updated"]
ROWS, INPUTS = 5, 7
SETTINGS = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24, "methods": {}}


class Toy(nn.Module):
    """A classifier with an embedding, two linear layers (the first with a bias) and mean pooling over tokens."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(11, 8)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, input_ids, labels, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.second(torch.tanh(self.first(self.embedding(input_ids)))) * mask[..., None]
        pooled = states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return SimpleNamespace(loss=functional.cross_entropy(self.head(pooled), labels))


LAYERS = ["first", "second"]


def toy_batches(count: int = 6) -> list[dict]:
    """Padded batches of two sequences; the padding tokens are random."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for i in range(count):
        mask = torch.ones(2, 5, dtype=torch.int64)
        mask[0, 3 + i % 2 :] = 0
        ids = torch.randint(11, (2, 5), generator=generator)
        labels = torch.randint(3, (2,), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


def linear_names(model: nn.Module) -> list[str]:
    """Names of the linear layers of a language model without its output layer."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]


def random_factors(seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    g, a = (torch.randn(n, n + 3, dtype=torch.float64, generator=generator) for n in (ROWS, INPUTS))
    return Factors(g @ g.T, a @ a.T)


def random_deviation(seed: int = 5) -> torch.Tensor:
    return torch.randn(ROWS, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_force(deviation: torch.Tensor, factors: Factors, removed: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Minimiser of ½ δᵀ F δ with D + δ = 0 on the removed entries, from the explicit Fisher matrix; and its cost."""
    fisher, start = torch.kron(factors.g, factors.a).numpy(), deviation.reshape(-1).numpy()
    removed_entries = removed.reshape(-1).numpy()
    change = np.where(removed_entries, -start, 0.0)
    change[~removed_entries] = np.linalg.solve(
        fisher[np.ix_(~removed_entries, ~removed_entries)], -(fisher @ change)[~removed_entries]
    )
    cost = 0.5 * change @ fisher @ change
    return torch.from_numpy(np.where(removed_entries, 0.0, start + change)).view(deviation.shape), float(cost)


def mask_of(rows=(), columns=(), elements=()) -> torch.Tensor:
    mask = torch.zeros(ROWS, INPUTS, dtype=torch.bool)
    mask[list(rows)] = True
    mask[:, list(columns)] = True
    for i, j in elements:
        mask[i, j] = True
    return mask


def close(actual, expected, tolerance: float = 1e-8) -> bool:
    actual, expected = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (actual, expected))
    return float((actual - expected).norm()) <= tolerance * float(expected.norm())


def test_factors_against_plain_loops():
    model, batches = Toy().double(), toy_batches()
    factors = estimate(model, LAYERS, batches)
    sums = {name: [0.0, 0.0] for name in LAYERS}
    positions = 0
    for batch in batches:
        for ids, mask, label in zip(*(batch[key] for key in ("input_ids", "attention_mask", "labels")), strict=True):
            tokens = [int(token) for token, attended in zip(ids, mask, strict=True) if attended]
            noise = [[torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (12, 6)] for _ in tokens]
            inputs, pooled = [], 0.0
            for token, (first, second) in zip(tokens, noise, strict=True):
                x = model.embedding.weight[token]
                hidden = torch.tanh(model.first.weight @ x + model.first.bias + first)
                pooled = pooled + (model.second.weight @ hidden + second) / len(tokens)
                inputs.append((torch.cat([x, torch.ones(1, dtype=torch.float64)]), hidden))
            logits = model.head.weight @ pooled + model.head.bias
            (torch.logsumexp(logits, 0) - logits[label]).backward()
            positions += len(tokens)
            for layer_inputs, gradients in zip(inputs, noise, strict=True):
                for name, a, g in zip(LAYERS, layer_inputs, gradients, strict=True):
                    sums[name][0] = sums[name][0] + torch.outer(g.grad, g.grad)
                    sums[name][1] = sums[name][1] + torch.outer(a.detach(), a.detach())
    for name in LAYERS:
        assert close(factors[name].g, sums[name][0] / positions**0.5)
        assert close(factors[name].a, sums[name][1] / positions**0.5)


def test_damping_adds_a_multiple_of_the_mean_diagonal():
    factors = random_factors()
    damped = factors.damped(0.5, 0.1)
    assert close(damped.g, factors.g + 0.5 * factors.g.diagonal().mean() * torch.eye(ROWS))
    assert close(damped.a, factors.a + 0.1 * factors.a.diagonal().mean() * torch.eye(INPUTS))
    zero = Factors(torch.zeros(3, 3), torch.eye(2)).damped(0.1, 0.1)
    assert torch.equal(zero.g, 0.1 * torch.eye(3)), "factors of zero can be inverted too"


def test_factors_of_a_language_model_use_its_own_loss():
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=13, hidden_size=8, n_layer=1, n_head=2)).double()
    layers = linear_names(model)
    ids = torch.tensor([[3, 5, 7, 2]])
    padded = {"input_ids": torch.tensor([[3, 5, 7, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}
    factors = estimate(model, layers, [padded | {"labels": padded["input_ids"]}])
    outputs = {}
    for name in layers:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda module, given, output, name=name: outputs.update({name: (given[0], output)}))
    logits = model(input_ids=ids).logits[0, :-1].log_softmax(dim=1)
    loss = -logits[torch.arange(3), ids[0, 1:]].mean()
    for name in layers:
        given, output = outputs[name]
        g = torch.autograd.grad(loss, output, retain_graph=True)[0][0]
        a = torch.cat([given[0], torch.ones(4, 1)], dim=1)
        assert close(factors[name].a, a.T @ a / 2)
        assert close(factors[name].g, g.T @ g / 2, 1e-5), "transformers computes the loss in float32"


@pytest.mark.parametrize("model", MODELS)
def test_one_token_gives_the_outer_product_of_its_gradient(model, finetuned_cells, task_folder):
    finetuned = FinetunedCell(finetuned_cells[model], task_folder, SETTINGS)
    cell = finetuned.for_method(METHODS["llm-surgeon"], 0)
    live = METHODS["llm-surgeon"].finetuned_model(cell).double()
    batch = {"input_ids": torch.tensor([[9, 0, 0]]), "labels": torch.tensor([1])}
    batch["attention_mask"] = torch.tensor([[1, 0, 0]])
    factors = estimate(live, cell.linear_layers, [batch])
    live(input_ids=batch["input_ids"][:, :1], labels=batch["labels"]).loss.backward()
    checked = 0
    for name in cell.linear_layers:
        layer = live.get_submodule(name)
        if "pos_" in name or layer.weight.grad is None:  # DeBERTa has several relative positions per token
            continue
        gradient = joined(layer.weight.grad, None if layer.bias is None else layer.bias.grad)[:4].reshape(-1)
        fisher = torch.kron(factors[name].g[:4, :4], factors[name].a)
        assert torch.allclose(fisher, torch.outer(gradient, gradient), atol=1e-12)
        checked += float(gradient.norm()) > 0
    assert checked >= 4


def test_element_row_and_column_costs_against_brute_force():
    factors, deviation = random_factors(), random_deviation()
    inverse_curvature = costs.curvature(factors)
    elements, rows = costs.element_costs(deviation, inverse_curvature), costs.row_costs(deviation, inverse_curvature)
    columns = costs.column_costs(deviation, inverse_curvature)
    for i in range(ROWS):
        assert close(rows[i], brute_force(deviation, factors, mask_of(rows=[i]))[1])
        for j in range(INPUTS):
            assert close(elements[i, j], brute_force(deviation, factors, mask_of(elements=[(i, j)]))[1])
    for j in range(INPUTS):
        assert close(columns[j], brute_force(deviation, factors, mask_of(columns=[j]))[1])


@pytest.mark.parametrize("kind", ["obd", "l-obd", "magnitude"])
def test_costs_without_an_update_are_a_quadratic_form(kind):
    factors, deviation = random_factors(), random_deviation()
    g, a = (torch.eye(n, dtype=torch.float64) for n in (ROWS, INPUTS))
    g, a = (factors.g if kind == "obd" else g), (a if kind == "magnitude" else factors.a)
    fisher = torch.kron(g, a)

    def rise(mask: torch.Tensor) -> torch.Tensor:
        change = (deviation * mask).reshape(-1)
        return 0.5 * change @ fisher @ change

    curvature_of_kind = costs.flat() if kind == "magnitude" else costs.curvature(factors, kind)
    for i in range(ROWS):
        assert close(costs.row_costs(deviation, curvature_of_kind)[i], rise(mask_of(rows=[i])))
    for j in range(INPUTS):
        assert close(costs.column_costs(deviation, curvature_of_kind)[j], rise(mask_of(columns=[j])))
        assert close(costs.element_costs(deviation, curvature_of_kind)[2, j], rise(mask_of(elements=[(2, j)])))


@pytest.mark.parametrize(
    "rows, columns", [([1], []), ([], [4]), ([0, 3], []), ([], [2, 5, 6]), ([1, 4], [0, 3]), ([0, 1, 2, 3, 4], [1])]
)
def test_updates_of_rows_and_columns_against_brute_force(rows, columns):
    factors, deviation = random_factors(), random_deviation()
    mask = mask_of(rows, columns)
    updated = updates.remove_structures(deviation, factors, mask.all(dim=1), mask.all(dim=0))
    expected, _ = brute_force(deviation, factors, mask)
    assert torch.allclose(updated, expected, rtol=1e-8, atol=1e-10) and (updated[mask] == 0).all()
    joint = updates.remove_elements(deviation, factors, factors.inverses(), mask, 1e-12)
    assert torch.allclose(joint, expected, rtol=1e-7, atol=1e-9), "the general solver agrees"


def test_updates_of_rows_or_columns_alone_have_their_closed_forms():
    factors, w = random_factors(), random_deviation()
    g, a = np.linalg.inv(factors.g.numpy()), np.linalg.inv(factors.a.numpy())
    r, c, no = [1, 3], [0, 2, 6], torch.zeros
    rows = w.numpy() - g[:, r] @ np.linalg.inv(g[np.ix_(r, r)]) @ w.numpy()[r]
    columns = w.numpy() - w.numpy()[:, c] @ np.linalg.inv(a[np.ix_(c, c)]) @ a[c]
    updated = updates.remove_structures(w, factors, mask_of(rows=r).all(dim=1), no(INPUTS, dtype=torch.bool))
    assert torch.allclose(updated, torch.from_numpy(rows), atol=1e-9)
    updated = updates.remove_structures(w, factors, no(ROWS, dtype=torch.bool), mask_of(columns=c).all(dim=0))
    assert torch.allclose(updated, torch.from_numpy(columns), atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 6, 20, 30, 34, ROWS * INPUTS])
def test_updates_of_free_elements_against_brute_force(count, monkeypatch):
    factors, deviation = random_factors(2), random_deviation(3)
    indices = torch.randperm(ROWS * INPUTS, generator=torch.Generator().manual_seed(count))[:count]
    mask = torch.zeros(ROWS * INPUTS, dtype=torch.bool).scatter(0, indices, True).view(ROWS, INPUTS)
    expected, _ = brute_force(deviation, factors, mask)
    for few_kept in (0.0, updates.FEW_KEPT, 1.1):  # either unknown
        monkeypatch.setattr(updates, "FEW_KEPT", few_kept)
        updated = updates.remove_elements(deviation, factors, factors.inverses(), mask, 1e-12)
        assert torch.allclose(updated, expected, rtol=1e-7, atol=1e-9) and (updated[mask] == 0).all()


@pytest.mark.parametrize("elements", [[(0, 1), (0, 4), (2, 2), (3, 0), (4, 6)], [(i, i) for i in range(5)]])
def test_the_update_of_elements_in_several_rows_is_joint(elements):
    factors, deviation, mask = random_factors(), random_deviation(), mask_of(elements=elements)
    expected, least = brute_force(deviation, factors, mask)
    updated = updates.remove_elements(deviation, factors, factors.inverses(), mask, 1e-9)
    assert close(updated, expected, 1e-6) and (updated[mask] == 0).all()
    by_rows = deviation.clone()
    for element in elements:
        by_rows += brute_force(deviation, factors, mask_of(elements=[element]))[0] - deviation
    assert not close(by_rows.masked_fill(mask, 0), expected, 0.01), "separate updates are another solution"
    change = (updates.remove_elements(deviation, factors, factors.inverses(), mask) - deviation).reshape(-1)
    rise = float(0.5 * change @ torch.kron(factors.g, factors.a) @ change)
    assert least * (1 - 1e-9) <= rise < least * 1.0001, "the default tolerance is as good"


def test_an_update_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(updates, "MAX_ITERATIONS", 2)
    mask = mask_of(rows=[0, 1], columns=[3])
    with pytest.raises(ValueError, match="not converged after 2 iterations: choose a larger damping"):
        updates.remove_elements(random_deviation(), random_factors(), random_factors().inverses(), mask)


def test_the_exact_fisher_matrix_of_linear_regression_gives_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, INPUTS - 1, dtype=torch.float64, generator=generator)
    x = torch.cat([x, torch.ones(60, 1)], dim=1)
    y = torch.randn(60, ROWS, dtype=torch.float64, generator=generator)
    fitted = torch.linalg.lstsq(x, y).solution.T
    factors = Factors(torch.eye(ROWS, dtype=torch.float64), x.T @ x)  # unit noise: the Fisher matrix is I ⊗ XᵀX
    mask = mask_of(columns=[1], elements=[(0, 0), (0, 3), (2, 5), (4, 0), (4, 2)])
    updated = updates.remove_elements(fitted, factors, factors.inverses(), mask, 1e-12)
    rise = 0.0
    for i in range(ROWS):
        expected = np.zeros(INPUTS)
        free = (~mask[i]).numpy()
        expected[free] = np.linalg.lstsq(x.numpy()[:, free], y.numpy()[:, i], rcond=None)[0]
        assert np.allclose(updated[i].numpy(), expected, rtol=1e-8, atol=1e-10)
        rise += 0.5 * ((y[:, i] - x @ updated[i]).square().sum() - (y[:, i] - x @ fitted[i]).square().sum()).item()
    assert rise == pytest.approx(brute_force(fitted, factors, mask)[1], rel=1e-8)


def test_without_curvature_every_structure_is_pruned_by_magnitude():
    w = random_deviation()
    identity = Factors(torch.eye(ROWS, dtype=torch.float64), torch.eye(INPUTS, dtype=torch.float64))
    for flat in (costs.curvature(identity), costs.flat()):
        assert close(costs.element_costs(w, flat), w.square() / 2)
        assert close(costs.row_costs(w, flat), w.norm(dim=1).square() / 2)
        assert close(costs.column_costs(w, flat), w.norm(dim=0).square() / 2)
    mask = mask_of(rows=[1], columns=[2])
    assert close(updates.remove_structures(w, identity, mask.all(dim=1), mask.all(dim=0)), w.masked_fill(mask, 0))
    assert close(updates.remove_elements(w, identity, identity.inverses(), mask), w.masked_fill(mask, 0))
    groups = costs.semi_structured_costs(w[:4, :4].square())
    for costs_of_row, row in zip(groups, w[:4, :4].tolist(), strict=True):
        smallest = sorted(range(4), key=lambda j: abs(row[j]))[:2]
        assert {j for j in range(4) if costs_of_row[j] < torch.inf} == set(smallest)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).weight.detach().clone() for name in LAYERS}


@pytest.mark.parametrize("kind", costs.KINDS)
@pytest.mark.parametrize("kept", [0, 1, 50, 77, 168])
def test_the_number_of_kept_elements_is_exact(kept, kind):
    model = Toy()
    before = weights(model)
    removed = prune(model, LAYERS, toy_batches(2), kept, Settings(kind=kind, shots=2, update=kind == "obs"))
    now = weights(model)
    assert sum(int(tensor.count_nonzero()) for tensor in now.values()) == kept
    for name, tensor in now.items():
        assert torch.equal(tensor == 0, removed[name][:, : tensor.shape[1]])
        if kind != "obs":
            assert torch.equal(tensor, before[name] * (tensor != 0))
    if kind == "magnitude":
        flat = sorted((abs(value), name) for name in LAYERS for value in before[name].reshape(-1).tolist())
        assert sum(int((now[name] == 0).sum()) for name in LAYERS[:1]) == sum(
            n == "first" for _, n in flat[: 168 - kept]
        )


@pytest.mark.parametrize("shots", [1, 3])
def test_2_4_keeps_two_of_every_four_elements(shots):
    model = Toy()
    prune(model, LAYERS, toy_batches(2), 84, Settings(structure="2:4", shots=shots))
    for tensor in weights(model).values():
        assert (tensor.reshape(-1, 4).count_nonzero(dim=1) == 2).all()
    model = Toy()
    prune(model, LAYERS, toy_batches(2), 120, Settings(structure="2:4", shots=shots))
    now = weights(model).values()
    assert sum(int(tensor.count_nonzero()) for tensor in now) == 120
    assert all((tensor.reshape(-1, 4).count_nonzero(dim=1) >= 2).all() for tensor in now)


@pytest.mark.parametrize("kept", [0, 20, 60, 84, 130, 160])
@pytest.mark.parametrize("shots", [1, 3])
def test_structured_pruning_meets_the_size_within_one_row_or_column(kept, shots):
    model = Toy()
    prune(model, LAYERS, toy_batches(2), kept, Settings(structure="row-column", shots=shots))
    left = 0
    for name, tensor in weights(model).items():
        rows, columns = tensor.any(dim=1), tensor.any(dim=0)
        assert torch.equal(tensor != 0, rows[:, None] & columns), "the remaining entries form a smaller matrix"
        bias = model.get_submodule(name).bias
        if bias is not None and columns.any():
            assert torch.equal(bias != 0, rows), "the bias of a removed row is removed"
        left += int(rows.sum() * columns.sum())
    assert kept - 12 < left <= kept


def test_one_threshold_over_rows_and_columns_against_a_loop():
    generator = torch.Generator().manual_seed(4)
    sizes = {"one": (4, 6), "two": (7, 3)}
    rows, columns = (
        {name: torch.rand(size[axis], generator=generator) for name, size in sizes.items()} for axis in (0, 1)
    )
    for count in (0, 1, 9, 25, 44, 45):
        removed = updates.cheapest_structures(rows, columns, count)
        for threshold in sorted([-1.0, *torch.cat([*rows.values(), *columns.values()]).tolist()]):
            masks = {name: (rows[name][:, None] <= threshold) | (columns[name] <= threshold) for name in sizes}
            if sum(int(mask.sum()) for mask in masks.values()) >= count:
                break
        for name, mask in masks.items():
            assert torch.equal(removed[name][0][:, None] | removed[name][1], mask)


@pytest.mark.parametrize("count", [0, 1, 57, 400, 555, 599])
def test_the_threshold_is_that_of_a_sort(count):
    generator = torch.Generator().manual_seed(count)
    flat = torch.rand(600, dtype=torch.float64, generator=generator) ** 9
    flat[:100] = flat[100:200]  # ties
    flat[200:230], flat[599] = 0.0, torch.inf
    flat[300:400] = 1 + torch.arange(100) * 2.0**-52  # equal but for the last bits
    flat = flat[torch.randperm(600, generator=generator)]
    parts = {"one": flat[:210].view(7, 30), "two": flat[210:].view(30, 13)}
    removed = updates.cheapest_elements(parts, count)
    chosen = torch.cat([removed[name].reshape(-1) for name in parts]).nonzero()[:, 0].tolist()
    assert chosen == sorted(np.argsort(flat.numpy(), kind="stable")[:count].tolist())


def test_costs_that_are_no_numbers_are_refused():
    for wrong in (-1.0, torch.nan, -torch.nan):
        with pytest.raises(ValueError, match="negative or not a number: check the weights"):
            updates.cheapest_elements({"one": torch.tensor([[1.0, wrong]])}, 1)
    with pytest.raises(ValueError, match="2 entries cannot be removed from 1: keep more"):
        updates.cheapest_elements({"one": torch.tensor([[1.0, torch.inf]])}, 2)


def test_ties_are_removed_in_order():
    tied = {"one": torch.ones(2, 3), "two": torch.ones(2, 2)}
    removed = updates.cheapest_elements(tied, 7)
    assert removed["one"].all() and removed["two"].tolist() == [[True, False], [False, False]]


def test_the_schedule_is_linear_and_ends_at_the_target():
    assert kept_counts(100, 20, 4) == [80, 60, 40, 20]
    for total, kept, shots in ((168, 77, 5), (10, 9, 3), (7, 0, 2)):
        counts = kept_counts(total, kept, shots)
        shares = [1 - t * (1 - kept / total) / shots for t in range(1, shots + 1)]
        assert counts[-1] == kept and all(abs(n - s * total) <= 0.5001 for n, s in zip(counts, shares, strict=True))


@pytest.mark.parametrize("structure", schedule.STRUCTURES)
def test_factors_in_a_file_give_the_same_model(structure, monkeypatch):
    pruned = []
    for held_bytes in (curvature.HELD_BYTES, 300):
        monkeypatch.setattr(schedule, "estimate", partial(estimate, held_bytes=held_bytes))
        model = Toy()
        prune(model, LAYERS, toy_batches(2), 90, Settings(structure, shots=2))
        pruned.append(weights(model))
    assert all(torch.equal(pruned[0][name], pruned[1][name]) for name in LAYERS)
    store = estimate(Toy(), LAYERS, toy_batches(2), held_bytes=300)
    assert len(store) == 2 and all(store[name].g.dtype == torch.float32 for name in store)
    exact = estimate(Toy().double(), LAYERS, toy_batches(2))
    assert all(
        close(store[name].g, exact[name].g, 1e-6) and close(store[name].a, exact[name].a, 1e-6) for name in store
    )


def test_curvature_is_estimated_again_after_each_shot(monkeypatch):
    masks_before = []

    def spy(model, layers, batches):
        masks_before.append({name: model.get_submodule(name).weight == 0 for name in layers})
        return estimate(model, layers, batches)

    monkeypatch.setattr(schedule, "estimate", spy)
    batches = toy_batches(2)
    removed = prune(Toy(), LAYERS, batches, 48, Settings(shots=3))
    assert [sum(int(mask.sum()) for mask in masks.values()) for masks in masks_before] == [0, 40, 80]
    after = {name: removed[name][:, : masks_before[0][name].shape[1]] for name in LAYERS}
    for masks, later in zip(masks_before, [*masks_before[1:], after], strict=True):
        assert all((masks[name] <= later[name]).all() for name in LAYERS), "removed entries stay removed"
    count, model = len(masks_before), Toy()
    known = prune(model, LAYERS, batches, 48, Settings(shots=3), factors=estimate(Toy(), LAYERS, batches))
    assert len(masks_before) == count + 2 and all(torch.equal(known[name], removed[name]) for name in LAYERS)


def test_shots_by_hand():
    batches, settings = toy_batches(2), Settings(shots=2, tolerance=1e-9)
    model, expected = Toy(), Toy()
    prune(model, LAYERS, batches, 100, settings)
    for count in (34, 68):
        damped = {name: estimated.damped(0.1, 0.01) for name, estimated in estimate(expected, LAYERS, batches).items()}
        before = {name: schedule.matrix(expected.get_submodule(name)) for name in LAYERS}
        scored = []
        for name, w in before.items():
            g, a = torch.linalg.inv(damped[name].g).diagonal(), torch.linalg.inv(damped[name].a).diagonal()
            columns = expected.get_submodule(name).weight.shape[1]
            scored += [
                (float(w[i, j]) ** 2 / float(g[i] * a[j]), name, i, j) for i in range(len(w)) for j in range(columns)
            ]
        removed_entries = {entry[1:] for entry in sorted(scored)[:count]}
        for name, w in before.items():
            mask = torch.tensor([[(name, i, j) in removed_entries for j in range(w.shape[1])] for i in range(len(w))])
            schedule.write(expected.get_submodule(name), brute_force(w, damped[name], mask)[0])
    for name in LAYERS:
        pruned, wanted = (schedule.matrix(m.get_submodule(name)) for m in (model, expected))
        assert torch.equal(pruned == 0, wanted == 0) and torch.allclose(pruned, wanted, rtol=1e-4, atol=1e-6)


def test_pruning_towards_target_values_resets_to_them():
    targets = {name: schedule.matrix(Toy(seed=7).get_submodule(name)) for name in LAYERS}
    for update in (True, False):
        model = Toy()
        settings = Settings(update=update, biases=True, shots=2)
        before = {name: schedule.matrix(model.get_submodule(name)) for name in LAYERS}
        removed = prune(model, LAYERS, toy_batches(2), 90, settings, targets)
        assert sum(int((~mask).sum()) for mask in removed.values()) == 90
        for name, mask in removed.items():
            after = schedule.matrix(model.get_submodule(name))
            assert torch.equal(after[mask], targets[name][mask])
            assert torch.equal(after[~mask], before[name][~mask]) != update


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match="unknown structure"):
        Settings(structure="blocks")
    with pytest.raises(ValueError, match="at least one shot"):
        Settings(shots=0)
    with pytest.raises(ValueError, match="unknown kind"):
        costs.curvature(random_factors(), "obt")
    with pytest.raises(ValueError, match="multiple of 4"):
        costs.semi_structured_costs(torch.ones(2, 6))
    with pytest.raises(ValueError, match="cannot be removed"):
        prune(Toy(), LAYERS, toy_batches(1), 80, Settings(structure="2:4", shots=1))
    with pytest.raises(ValueError, match="at least one sequence"):
        estimate(Toy(), LAYERS, [])
    with pytest.raises(ValueError, match="larger damping"):
        Factors(torch.ones(2, 2), torch.eye(2)).inverses()


@pytest.fixture(scope="module")
def cells(finetuned_cells, task_folder):
    return {model: FinetunedCell(folder, task_folder, SETTINGS) for model, folder in finetuned_cells.items()}


@pytest.fixture
def quick(monkeypatch):
    """Few texts and shots."""
    for name in NAMES:
        monkeypatch.setattr(type(METHODS[name]), "sequences", 6)
    monkeypatch.setattr(type(METHODS["llm-surgeon"]), "settings", Settings(shots=2))


@pytest.mark.parametrize("model", MODELS)
def test_llm_surgeon_prunes_the_linear_weights_alone(model, cells, tmp_path, quick):
    cell = cells[model].for_method(METHODS["llm-surgeon"], 0)
    report, state = store_and_restore(METHODS["llm-surgeon"], cell, 0.5, tmp_path / "file")
    linear = {f"{layer}.weight" for layer in cell.linear_layers}
    kept = sum(int(state[name].count_nonzero()) for name in linear)
    assert kept == sum(len(state[name]) * kept_count(state[name].shape[1], 0.5) for name in linear)
    assert report.kept == kept + sum(base.numel() for name, base in cell.pretrained.items() if name not in linear)
    updated = linear | {name.replace("weight", "bias") for name in linear}
    for name, tensor in state.items():
        assert name in updated or torch.equal(tensor, cell.finetuned[name])
    changed = [name for name in linear if (state[name] != cell.finetuned[name])[state[name] != 0].any()]
    assert len(changed) > len(linear) / 2, "remaining entries are updated"


@pytest.mark.parametrize("model", MODELS)
def test_surgeon_delta_resets_by_cost_in_linear_layers_and_by_size_elsewhere(model, cells, tmp_path, quick):
    cell = cells[model].for_method(METHODS["surgeon-delta"], 0)
    report, state = store_and_restore(METHODS["surgeon-delta"], cell, 0.25, tmp_path / "file")
    again, updated = store_and_restore(METHODS["surgeon-delta-updated"], cell, 0.25, tmp_path / "updated")
    rows = [as_rows(base).shape for base in cell.pretrained.values()]
    assert report.kept == again.kept == sum(height * kept_count(n, 0.25) for height, n in rows)
    largest = restored_by_size(cell, tmp_path / "size")
    linear = {f"{layer}.{part}" for layer in cell.linear_layers for part in ("weight", "bias")}
    for name, base in cell.pretrained.items():
        reset = state[name] == base
        assert torch.equal(state[name], torch.where(reset, base, cell.finetuned[name]))
        moved = (updated[name] != state[name]) & reset & (cell.finetuned[name] != base)
        assert not moved.any(), "the same entries are reset"
        if name not in linear:
            assert torch.equal(state[name], largest[name]) and torch.equal(updated[name], largest[name])


def restored_by_size(cell, path):
    METHODS["delta-magnitude"].store(cell, METHODS["delta-magnitude"].prepare(cell), 0.25, path)
    return METHODS["delta-magnitude"].restore(cell.pretrained, path)


def test_surgeon_delta_keeps_the_costliest_entries(cells, tmp_path, quick):
    cell = cells["bert"].for_method(METHODS["surgeon-delta"], 0)
    prepared = METHODS["surgeon-delta"].prepare(cell)
    _, state = store_and_restore(METHODS["surgeon-delta"], cell, 0.25, tmp_path / "file")
    kept, reset = [], []
    for layer in cell.linear_layers:
        tuned, base, stored = (
            joined(tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])
            for tensors in (cell.finetuned, cell.pretrained, state)
        )
        g, a = (
            np.linalg.inv(factor.numpy() + damping * factor.diagonal().mean().item() * np.eye(len(factor))).diagonal()
            for factor, damping in ((prepared[layer].g, 0.1), (prepared[layer].a, 0.01))
        )
        scores = 0.5 * (tuned - base).numpy() ** 2 / np.outer(g, a)
        is_kept = (stored == tuned).numpy() & (tuned != base).numpy()
        kept += scores[is_kept].tolist()
        reset += scores[~is_kept].tolist()
    assert min(kept) >= max(reset) * (1 - 1e-9)


@pytest.mark.parametrize("structure", schedule.STRUCTURES)
def test_a_language_model_is_pruned_by_its_own_loss(structure):
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=13, hidden_size=8, n_layer=1, n_head=2))
    layers = linear_names(model)
    ids = torch.randint(13, (4, 6))
    linear = [model.get_submodule(name).weight for name in layers]
    total = sum(weight.numel() for weight in linear)
    with torch.no_grad():
        prune(model, layers, [{"input_ids": ids, "labels": ids}], total // 2, Settings(structure, shots=2))
    assert total // 2 - 32 < sum(int(weight.count_nonzero()) for weight in linear) <= total // 2
    assert model(input_ids=ids, labels=ids).loss.isfinite()


def test_memory_is_planned_for_factors_masks_and_one_open_layer():
    linear = {"layer": (30, 20), "other": (10, 40)}
    shapes = ModelShapes({"layer.weight": (30, 20), "other.weight": (10, 40)}, head=0, linear=linear)
    usual = METHODS["delta-magnitude"].memory_bytes(shapes)
    factors, largest = 30**2 + 21**2 + 10**2 + 41**2, 10**2 + 41**2
    once = 4 * factors + 2 * 1000 + 8 * (3 * largest + 6 * 600)
    for name, times in zip(NAMES, (2, 1, 1), strict=True):  # several shots estimate the curvature again
        assert METHODS[name].memory_bytes(shapes) - usual == times * once + 4 * 1000
    large = {"layer": (100_000, 100_000)}
    assert needs.memory_bytes(large | {"other": (10_000, 10_000)}) - needs.memory_bytes(large) == 2 * 10_000**2
    many = {str(index): (10_000, 10_000) for index in range(20)}
    assert needs.memory_bytes(many) < curvature.HELD_BYTES + 20 * 2 * 10_000**2 + 8 * (6 * 10_001**2 + 6 * 10_000**2)


@pytest.mark.parametrize("options", [{}, {"structure": "row-column"}, {"costs": "obd"}, {"costs": "l-obd"}])
def test_operations_are_planned_for_inverses_and_updates(options, monkeypatch):
    """The planned operations are those of the matrix products and inverses that a shot makes."""
    counted, settings = [0.0], Settings(shots=1).with_options(options)
    inverse = schedule.inverse

    def counting(factor):
        counted[0] += len(factor) ** 3
        return inverse(factor)

    monkeypatch.setattr(schedule, "inverse", counting)
    model = Toy()
    factors = estimate(model, LAYERS, toy_batches(1))
    with FlopCounterMode(display=False) as counter:
        prune(model, LAYERS, toy_batches(1), 84, settings, factors=factors)
    counted[0] += counter.get_total_flops()
    planned = needs.shot_flops({"first": (12, 9), "second": (6, 12)}, settings)
    assert (planned == 0) == (counted[0] == 0) and planned / 8 <= counted[0] <= 2 * planned


def test_a_method_of_a_package_depends_on_its_modules():
    names = {path.name for path in dependencies(module_of("surgeon-delta"))}
    assert {"curvature.py", "costs.py", "updates.py", "schedule.py", "method.py", "magnitude.py"} <= names


@pytest.mark.parametrize("name", NAMES)
def test_a_body_without_linear_layers_is_declined(name):
    assert "no linear layer" in METHODS[name].decline(SimpleNamespace(linear_layers=[]))


def test_padding_is_ignored():
    batch = toy_batches(1)[0]
    changed = batch | {"input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 0)}
    one, other = (estimate(Toy(), LAYERS, [given]) for given in (batch, changed))
    assert all(torch.equal(one[name].a, other[name].a) and torch.equal(one[name].g, other[name].g) for name in LAYERS)
    assert [len(sequence["input_ids"][0]) for sequence in curvature.sequences(batch)] == batch["attention_mask"].sum(
        1
    ).tolist()
