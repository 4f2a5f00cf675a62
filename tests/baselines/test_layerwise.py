"""SparseGPT and Wanda against column-by-column versions in float64, on language models of three architectures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from baselines.layerwise import LAYERWISE, prune_layers, sparsegpt, wanda
from baselines.layerwise.choice import apportioned
from study.models.language_models import linear_layers, load_language_model
from tests.oracles import layer_pruning as oracle

ROOT = Path(__file__).parents[2]
ORACLES = {"sparsegpt": oracle.sparsegpt, "wanda": oracle.wanda}
SIZE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def bloom():
    """A pre-trained model with layers of 96 columns (less than a block) and of 384 (three blocks)."""
    return load_language_model(ROOT / "checkpoints" / "bloom-560m")


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=2, intermediate_size=132)).eval()


def opt():
    """With one linear layer before the blocks and one after them, like OPT-350m."""
    torch.manual_seed(1)
    config = OPTConfig(**SIZE, ffn_dim=20, word_embed_proj_dim=12, max_position_embeddings=32)
    return OPTForCausalLM(config).eval()


MODELS = {"bloom": bloom, "llama": llama, "opt": opt}


def batches_for(model, count=3) -> list[dict]:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(model.config.vocab_size, (4, 10 + i), generator=generator) for i in range(count)]
    return [{"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each} for each in ids]


def groups_of(layers: list[str]) -> list[list[str]]:
    """Layers of one transformer block together, in order; OPT's projections before and after."""
    blocks = [[name for name in layers if f".{index}." in name] for index in (0, 1)]
    sides = [[name for name in layers if name.endswith(end)] for end in ("project_in", "project_out")]
    return [group for group in (sides[0], *blocks, sides[1]) if group]


@pytest.mark.parametrize(("structure", "sparsity"), [("element", 0.3), ("2:4", 0.5)])
@pytest.mark.parametrize("method", LAYERWISE)
@pytest.mark.parametrize("name", MODELS)
def test_pruned_models_against_the_oracle(name, method, structure, sparsity):
    model, other = MODELS[name]().double(), MODELS[name]().double()
    layers, batches = linear_layers(model), batches_for(model)
    dense = {layer: model.get_submodule(layer).weight.clone() for layer in layers}
    groups = groups_of(layers)
    assert sorted(layer for group in groups for layer in group) == sorted(layers)
    removed = prune_layers(model, layers, batches, LAYERWISE[method], structure, sparsity)
    expected = oracle.prune_model(other, groups, batches, ORACLES[method], structure, sparsity)
    for layer in layers:
        weight, bias = model.get_submodule(layer).weight.detach(), model.get_submodule(layer).bias
        values, mask = expected[layer]
        own = removed[layer][:, : weight.shape[1]]
        assert np.array_equal(own.numpy(), mask)
        np.testing.assert_allclose(weight.numpy(), values, rtol=1e-6, atol=1e-9)
        assert int(own.sum()) == round(sparsity * weight.numel()) and not weight[own].any()
        rest = removed[layer][:, weight.shape[1] :]
        assert rest.shape[1] == (bias is not None) and not rest.any(), "biases stay"
        changed = not torch.equal(weight[~own], dense[layer][~own])
        assert changed == (method == "sparsegpt"), "Wanda updates nothing"


def test_layers_are_calibrated_behind_pruned_blocks():
    """Pruning a block alone, with inputs of the dense model, gives other masks in the second block only."""
    model, alone = bloom(), bloom()
    layers, batches = linear_layers(model), batches_for(model)
    second = [name for name in layers if ".1." in name]
    both = prune_layers(model, layers, batches, LAYERWISE["wanda"], "element", 0.5)
    own = prune_layers(alone, second, batches, LAYERWISE["wanda"], "element", 0.5)
    assert all(not torch.equal(both[name], own[name]) for name in second)
    assert "forward" not in vars(model.transformer.h[0]) and not model.transformer.h[0]._forward_hooks


@pytest.mark.parametrize(("structure", "sparsity"), [("element", 0.5), ("2:4", 0.5)])
def test_updates_lower_the_error_of_the_outputs(structure, sparsity):
    generator = torch.Generator().manual_seed(0)
    mixing, weight = (torch.randn(n, 24, generator=generator, dtype=torch.float64) for n in (24, 10))
    x = torch.randn(500, 24, generator=generator, dtype=torch.float64) @ mixing
    values, removed = sparsegpt.prune(weight, x.T @ x / len(x), structure, sparsity)
    assert int(removed.sum()) == 120 and not values[removed].any()
    updated, only_removed = ((w - weight) @ x.T for w in (values, weight.masked_fill(removed, 0.0)))
    assert float(updated.norm()) < float(only_removed.norm())


@pytest.mark.parametrize(("sizes", "share"), [([96] * 7, 0.1), ([13, 128, 1], 0.37), ([5], 0.5)])
def test_shares_of_groups_add_up(sizes, share):
    counts = apportioned(sizes, share)
    assert int(counts.sum()) == round(sum(sizes) * share)
    assert all(abs(int(count) - size * share) < 1 for count, size in zip(counts, sizes, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("structure", ["element", "2:4"])
@pytest.mark.parametrize("method", LAYERWISE)
def test_a_gpu_prunes_the_same_entries(method, structure):
    results = {}
    for device in ("cpu", "cuda"):
        model = llama().double().to(device)
        batches = [{name: values.to(device) for name, values in batch.items()} for batch in batches_for(model)]
        removed = prune_layers(model, linear_layers(model), batches, LAYERWISE[method], structure, 0.5)
        assert all(mask.device.type == device for mask in removed.values())
        results[device] = removed, {name: model.get_submodule(name).weight.detach() for name in removed}
    for name in results["cpu"][0]:
        (mask, weight), (other, own) = ([part[name].cpu() for part in results[device]] for device in results)
        assert torch.equal(mask, other)
        torch.testing.assert_close(weight, own)


def test_inputs_that_cannot_be_used_are_refused():
    model = opt()
    layers, batches = linear_layers(model), batches_for(model)
    with pytest.raises(ValueError, match="multiple of 4 columns, found 6"):
        wanda.prune(torch.ones(3, 6), torch.ones(6), "2:4", 0.5)
    with pytest.raises(ValueError, match="all zero or not finite"):
        sparsegpt.prune(torch.ones(3, 4), torch.zeros(4, 4), "element", 0.5)
    model.model.decoder.layers[1] = model.model.decoder.layers[0]
    with pytest.raises(ValueError, match=r"decoder\.layers\.0 is called 2 times in a pass"):
        prune_layers(model, layers, batches, LAYERWISE["wanda"], "element", 0.5)
