"""Options of LLM Surgeon: independent updates, the low-rank correction, compacted layers, settings by name."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from baselines import METHODS
from baselines.llm_surgeon import curvature, schedule, updates
from baselines.llm_surgeon.compaction import compact, hidden_units, with_shapes
from baselines.llm_surgeon.correction import correct
from baselines.llm_surgeon.schedule import VARIANTS, Settings, prune, shots_of
from study.cells.finetuned_cell import FinetunedCell
from tests.baselines.test_llm_surgeon import (
    INPUTS,
    LAYERS,
    ROWS,
    Toy,
    brute_force,
    linear_names,
    mask_of,
    random_deviation,
    random_factors,
    toy_batches,
)
from tests.conftest import MODELS

SETTINGS = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24}
SIZE = {"vocab_size": 13, "hidden_size": 8}


def language_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(**SIZE, n_layer=2, n_head=1)).eval()
    if kind == "opt":
        config = OPTConfig(**SIZE, num_hidden_layers=2, num_attention_heads=2, ffn_dim=12, word_embed_proj_dim=8)
        return OPTForCausalLM(config).eval()
    config = LlamaConfig(**SIZE, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    return LlamaForCausalLM(config).eval()


def token_batch() -> dict:
    ids = torch.randint(13, (2, 6), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "labels": ids}


def test_independent_updates_are_the_sum_of_single_element_updates():
    factors, deviation = random_factors(), random_deviation()
    elements = [(0, 1), (0, 4), (2, 2), (3, 0), (4, 6)]
    mask = mask_of(elements=elements)
    expected = deviation + sum(brute_force(deviation, factors, mask_of(elements=[p]))[0] - deviation for p in elements)
    updated = updates.remove_elements_independently(deviation, factors.inverses(), mask)
    assert torch.allclose(updated, expected.masked_fill(mask, 0), atol=1e-9) and (updated[mask] == 0).all()


@pytest.mark.parametrize(("rows", "columns"), [([1], []), ([], [4]), ([0, 3], [2, 5])])
def test_independent_updates_of_rows_and_columns_against_brute_force(rows, columns):
    factors, deviation = random_factors(), random_deviation()
    mask = mask_of(rows, columns)
    alone = [mask_of(rows=[r]) for r in rows] + [mask_of(columns=[c]) for c in columns]
    expected = deviation + sum(brute_force(deviation, factors, one)[0] - deviation for one in alone)
    flags = (torch.zeros(ROWS, dtype=torch.bool), torch.zeros(INPUTS, dtype=torch.bool))
    flags[0][rows] = flags[1][columns] = True
    updated = updates.remove_structures_independently(deviation, factors.inverses(), *flags)
    assert torch.allclose(updated, expected.masked_fill(mask, 0), atol=1e-8)


def test_several_shots_pass_through_intermediate_sparsities():
    counts = [130, 100, 60]
    model, batches = Toy(), toy_batches(2)
    for count, removed in zip(counts, shots_of(model, LAYERS, batches, counts, Settings()), strict=True):
        weights = [model.get_submodule(name).weight for name in LAYERS]
        assert sum(int(weight.count_nonzero()) for weight in weights) == count
        assert (
            sum(int((~mask[:, : w.shape[1]]).sum()) for mask, w in zip(removed.values(), weights, strict=True)) == count
        )
    alone = Toy()
    prune(alone, LAYERS, batches, 60, Settings(shots=1))
    assert not torch.equal(alone.first.weight, model.first.weight)


def test_magnitude_does_not_estimate_curvature(monkeypatch):
    monkeypatch.setattr(schedule, "estimate", None)
    model, before = Toy(), Toy()
    prune(model, LAYERS, toy_batches(1), 84, Settings().with_options({"costs": "magnitude"}))
    flat = torch.cat([before.get_submodule(name).weight.flatten() for name in LAYERS]).abs()
    threshold = flat.sort().values[83]
    for name in LAYERS:
        weight = before.get_submodule(name).weight
        assert torch.equal(model.get_submodule(name).weight, weight * (weight.abs() > threshold))


def test_a_low_rank_correction_lowers_the_loss_and_keeps_removed_entries_at_zero():
    batches, removed = toy_batches(), {}
    model = Toy()
    removed = prune(model, LAYERS, batches, 60, Settings(shots=1))
    before = {name: model.get_submodule(name).weight.detach().clone() for name in LAYERS}
    others = {name: tensor.clone() for name, tensor in model.state_dict().items() if "weight" not in name}

    def loss() -> float:
        with torch.no_grad():
            return sum(float(model(**batch).loss) for batch in batches)

    start = loss()
    for _ in range(5):
        correct(model, removed, batches, rank=2, rate=0.02)
    assert loss() < start
    for name in LAYERS:
        layer = model.get_submodule(name)
        assert type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter), "the correction is merged"
        gone = removed[name][:, : layer.weight.shape[1]]
        assert (layer.weight[gone] == 0).all() and not torch.equal(layer.weight, before[name])
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())


def test_a_correction_has_the_requested_rank():
    model = Toy()
    nothing = {name: torch.zeros(schedule.matrix(model.get_submodule(name)).shape).bool() for name in LAYERS}
    before = model.first.weight.detach().clone()
    correct(model, nothing, toy_batches(), rank=2, rate=0.05)
    assert torch.linalg.matrix_rank((model.first.weight - before).detach(), rtol=1e-4) == 2


def test_corrections_are_applied_between_shots(monkeypatch):
    calls = []
    monkeypatch.setattr(schedule.correction, "correct", lambda model, removed, *rest: calls.append(rest[1:]))
    settings = Settings(shots=3, low_rank=4, low_rank_rate=0.5)
    prune(Toy(), LAYERS, toy_batches(1), 60, settings)
    assert calls == [(4, 0.5)] * 2, "none after the last shot"


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("bloom", [("dense_h_to_4h",), "dense_4h_to_h"]),
        ("opt", [("fc1",), "fc2"]),
        ("llama", [("gate_proj", "up_proj"), "down_proj"]),
    ],
)
def test_hidden_units_are_those_of_the_feed_forward_layers(kind, groups):
    model = language_model(kind)
    units = hidden_units(model, linear_names(model), token_batch())
    shown = [([name.rpartition(".")[2] for name in writers], reader.rpartition(".")[2]) for writers, reader in units]
    assert len(units) == 2
    for writers, reader in shown:
        assert sorted(writers) == sorted(groups[0]) and reader == groups[1]


@pytest.mark.parametrize("kind", ["bloom", "opt", "llama"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_compacted_language_model_has_the_logits_of_the_masked_one(kind, share):
    model, batch = language_model(kind), token_batch()
    layers = linear_names(model)
    total = sum(model.get_submodule(name).weight.numel() for name in layers)
    removed = prune(model, layers, [batch], round(share * total), Settings("row-column", shots=2))
    smaller = compact(model, removed, batch)
    with torch.no_grad():
        assert torch.allclose(smaller(**batch).logits, model(**batch).logits, atol=1e-5)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (smaller, model)]
    dead = any(removed[reader].all(dim=0).any() for _, reader in hidden_units(model, layers, batch))
    assert (sizes[0] < sizes[1]) == dead or sizes[0] < sizes[1]
    if share == 0.5:
        assert sizes[0] < sizes[1]
    again = with_shapes(language_model(kind), smaller.state_dict())
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, smaller(**batch).logits)


@pytest.fixture(scope="module")
def cells(finetuned_cells, task_folder):
    options = {"structure": "row-column", "shots": 2, "sequences": 6, "budgets": [0.5]}
    settings = SETTINGS | {"methods": {"llm-surgeon": options}}
    return {model: FinetunedCell(folder, task_folder, settings) for model, folder in finetuned_cells.items()}


@pytest.mark.parametrize("model", MODELS)
def test_classifiers_are_stored_with_smaller_layers(model, cells, tmp_path):
    finetuned = cells[model]
    method = finetuned.method("llm-surgeon")
    assert method.settings.structure == "row-column" and method.sequences == 6 and method.form == "compiled"
    assert METHODS["llm-surgeon"].settings.structure == "element", "the registered method is unchanged"
    finetuned.reset_model()
    cell = finetuned.for_method(method, 0)
    kept = sum(len(cell.pretrained[f"{name}.weight"]) * (cell.pretrained[f"{name}.weight"].shape[1] // 2)
               for name in cell.linear_layers)  # fmt: skip
    masked, removed = method.pruned(cell, None, kept)
    report = method.store(cell, None, 0.5, tmp_path / "file")
    smaller = method.restore_into(copy.deepcopy(finetuned.model), cell.pretrained, tmp_path / "file")
    sizes = {name: module.weight.shape for name, module in smaller.named_modules() if isinstance(module, nn.Linear)}
    changed = [name for name in cell.linear_layers if sizes[name] != cell.pretrained[f"{name}.weight"].shape]
    assert changed, "feed-forward layers are smaller"
    assert report.parameters == sum(parameter.numel() for parameter in smaller.parameters())
    assert report.kept < sum(tensor.numel() for tensor in cell.pretrained.values())
    batch = next(iter(cell.training.examples(4)))
    with torch.no_grad():
        assert torch.allclose(smaller.eval()(**batch).logits, masked.eval()(**batch).logits, atol=1e-4)
    assert removed.keys() == set(cell.linear_layers)


def test_options_use_the_names_of_the_config():
    base = Settings()
    assert base.with_options({}) == base
    assert base.with_options({"costs": "obd"}) == Settings(kind="obd", update=False)
    assert base.with_options({"costs": "obs"}) == base
    assert base.with_options({"updates": "independent"}) == Settings(correlated=False)
    assert base.with_options({"costs": "l-obd", "updates": "correlated"}) == Settings(kind="l-obd")
    assert Settings(update=False).with_options({"shots": 3}) == Settings(update=False, shots=3)
    for options in VARIANTS.values():
        base.with_options(options)
    with pytest.raises(ValueError, match="unknown updates"):
        base.with_options({"updates": "all"})
    with pytest.raises(ValueError, match="unknown structure"):
        base.with_options({"structure": "blocks"})
    with pytest.raises(ValueError, match="low-rank correction"):
        base.with_options({"costs": "obd", "low_rank": 2})
    with pytest.raises(ValueError, match="has no option 'structure'"):
        METHODS["ken"].configured({"structure": "element"})


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("bloom", set()),
        ("opt", {"k_proj", "v_proj", "q_proj"}),
        ("llama", {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
    ],
)
@pytest.mark.parametrize("held_bytes", [curvature.HELD_BYTES, 300])
def test_layers_with_the_same_inputs_share_a_factor(kind, shared, held_bytes):
    model, batches = language_model(kind), [token_batch()]
    layers = linear_names(model)
    store = curvature.estimate(model, layers, batches, held_bytes)
    sharing = Counter(store.source_of.values())
    assert {name.rpartition(".")[2] for name in layers if sharing[store.source_of[name]] > 1} == shared
    for name in layers:
        alone = curvature.estimate(model, [name], batches)[name]
        assert torch.equal(store[name].a, alone.a) and torch.equal(store[name].g, alone.g)
    sizes = curvature.factor_sizes({name: (len(store[name].g), len(store[name].a)) for name in layers}, store.source_of)
    assert sum(sizes.values()) == sum(
        len(store[n].g) ** 2 + (store.source_of[n] == n) * len(store[n].a) ** 2 for n in layers
    )


def test_batching_unpadded_sequences_gives_the_same_curvature():
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(**SIZE, n_layer=1, n_head=2)).double()
    layers, batch = linear_names(model), token_batch()
    together = schedule.estimate(model, layers, [batch])
    rows = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(2)]
    apart = schedule.estimate(model, layers, rows)
    for name in layers:
        assert torch.allclose(together[name].g, apart[name].g, rtol=1e-6, atol=1e-12)
        assert torch.allclose(together[name].a, apart[name].a, rtol=1e-9)
