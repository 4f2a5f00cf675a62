"""Methods without training compared with plain loops."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.neighbors import KernelDensity

from baselines import METHODS, Cell
from baselines.dropout import Dare, Della
from baselines.magnitude import global_masks
from ken import selection
from ken.selection import kept_count
from tests.baselines.storing import store_and_restore
from tests.oracles import selection as oracle


def small_cell(rows=6, n=40, seed=0) -> Cell:
    """A cell with two body tensors and a head; in `skeleton`, the first tensor belongs to a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    pretrained = {
        "layer.weight": torch.randn(rows, n, generator=generator),
        "norm.bias": torch.randn(n, generator=generator),
    }
    finetuned = {name: base + 0.1 * torch.randn(base.shape, generator=generator) for name, base in pretrained.items()}
    finetuned["head.weight"] = torch.randn(2, n, generator=generator)
    skeleton = torch.nn.ModuleDict({"layer": torch.nn.Linear(n, rows), "head": torch.nn.Linear(n, 2)})
    return Cell(pretrained, finetuned, seed=3, skeleton=skeleton)


def largest(scores: dict, count: int) -> set:
    """(tensor, index) of the highest scores over all tensors, in plain Python."""
    entries = [(-value, t, i, name) for t, (name, tensor) in enumerate(scores.items())
              for i, value in enumerate(tensor.reshape(-1).tolist())]  # fmt: skip
    return {(name, i) for _, _, i, name in sorted(entries)[:count]}


@pytest.mark.parametrize("name", ["delta-global", "magnitude-zero"])
@pytest.mark.parametrize("budget", [0.1, 0.5, 1, 7])
def test_global_selections_against_a_loop(name, budget, tmp_path):
    cell = small_cell()
    report, state = store_and_restore(METHODS[name], cell, budget, tmp_path / "file")
    zero = name == "magnitude-zero"
    scores = {key: (cell.finetuned[key] - (0 if zero else base)).abs() for key, base in cell.pretrained.items()}
    count = sum(len(base.reshape(-1, 40)) * kept_count(40, budget) for base in cell.pretrained.values())
    kept = largest(scores, count)
    assert report.kept == len(kept)
    for key, base in cell.pretrained.items():
        others = torch.zeros(base.shape) if zero else base
        for i, value in enumerate(state[key].reshape(-1).tolist()):
            source = cell.finetuned[key] if (key, i) in kept else others
            assert value == source.reshape(-1)[i].item()


@pytest.mark.parametrize("budget", [0.25, 0.999, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shrunk_update_against_a_loop(budget, dtype, tmp_path):
    cell = small_cell()
    cell = dataclasses.replace(
        cell,
        pretrained={name: base.to(dtype) for name, base in cell.pretrained.items()} | {"ids": torch.arange(6)},
        finetuned={name: tensor.to(dtype) for name, tensor in cell.finetuned.items()} | {"ids": torch.arange(6) + 1},
    )
    report, state = store_and_restore(METHODS["shrink"], cell, budget, tmp_path / "file")
    for name in ("layer.weight", "norm.bias"):
        factor = kept_count(40, budget) / 40
        pairs = zip(cell.finetuned[name].reshape(-1).tolist(), cell.pretrained[name].reshape(-1).tolist(), strict=True)
        expected = torch.tensor([w0 + factor * (w - w0) for w, w0 in pairs], dtype=torch.float64)
        near = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 0}
        assert torch.allclose(state[name].reshape(-1).double(), expected, **near)
    for name in ("ids", "head.weight"):
        assert torch.equal(state[name], cell.finetuned[name]), "no update to shrink"
    assert report.kept == 6 * 40 + 40, "every entry is stored"


def test_a_shrunk_update_is_the_mean_of_random_resets(tmp_path):
    cell = small_cell()
    total = torch.zeros(6, 40)
    for seed in range(400):
        _, drawn = store_and_restore(METHODS["random"], dataclasses.replace(cell, seed=seed), 10, tmp_path / "file")
        total += drawn["layer.weight"]
    _, state = store_and_restore(METHODS["shrink"], cell, 10, tmp_path / "file")
    update = cell.finetuned["layer.weight"] - cell.pretrained["layer.weight"]
    assert ((total / 400 - state["layer.weight"]).abs() < 5 * (0.25 * 0.75 / 400) ** 0.5 * update.abs() + 1e-5).all()


def test_bitdelta_against_a_loop(tmp_path):
    cell = small_cell()
    cell.finetuned["layer.weight"][0, :3] = cell.pretrained["layer.weight"][0, :3]  # no update: stored as negative
    report, state = store_and_restore(METHODS["bitdelta"], cell, 1, tmp_path / "file")
    base, tuned = (tensors["layer.weight"].double() for tensors in (cell.pretrained, cell.finetuned))
    size = sum(abs(float(w) - float(w0)) for w, w0 in zip(tuned.reshape(-1), base.reshape(-1), strict=True)) / 240
    for w, w0, value in zip(tuned.reshape(-1), base.reshape(-1), state["layer.weight"].reshape(-1), strict=True):
        assert float(value) == pytest.approx(float(w0) + (size if w > w0 else -size), rel=1e-5)
    for name in ("norm.bias", "head.weight"):
        assert torch.equal(state[name], cell.finetuned[name]), "kept in full"
    assert report.kept == 40 + 1
    stored = load_file(tmp_path / "file")
    assert stored["signs.layer.weight"].numel() == 240 / 8, "one bit per entry"


def test_bitdelta_declines_a_body_without_linear_layers():
    cell = dataclasses.replace(small_cell(), skeleton=torch.nn.ModuleDict({"other": torch.nn.LayerNorm(40)}))
    assert "no linear layer" in METHODS["bitdelta"].decline(cell)


def test_dare_drops_at_random_and_rescales_the_rest(tmp_path):
    cell = small_cell(rows=200, n=50)
    report, state = store_and_restore(METHODS["dare"], cell, 0.25, tmp_path / "file")
    base, tuned = cell.pretrained["layer.weight"].double(), cell.finetuned["layer.weight"].double()
    keep = kept_count(50, 0.25) / 50
    moved = state["layer.weight"] != cell.pretrained["layer.weight"]
    expected = torch.where(moved, base + (tuned - base) / keep, base)
    assert torch.allclose(state["layer.weight"].double(), expected, atol=1e-6)
    standard_error = (keep * (1 - keep) / moved.numel()) ** 0.5
    assert abs(moved.double().mean() - keep) < 5 * standard_error
    assert abs(report.kept / cell.body_size - keep) < 0.02


@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 33])
def test_probabilities_of_dare_and_della(n, share):
    update = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    assert (Dare().keep_probabilities(update, share) == share).all()
    probabilities = Della().keep_probabilities(update, share)
    assert (probabilities > 0).all() and (probabilities <= 1).all()
    if n > 1:
        assert torch.allclose(probabilities.mean(1), torch.full((5,), share), atol=1e-6), "the budget is met on average"
        order = update.abs().argsort(dim=1)
        assert (probabilities.gather(1, order).diff(dim=1) >= 0).all(), "larger updates are kept more often"


def test_mean_update_is_unchanged_by_della(tmp_path):
    cell = small_cell(rows=1, n=30)
    total = torch.zeros(1, 30)
    for seed in range(400):
        _, state = store_and_restore(METHODS["della"], dataclasses.replace(cell, seed=seed), 0.5, tmp_path / "file")
        total += state["layer.weight"] - cell.pretrained["layer.weight"]
    update = cell.finetuned["layer.weight"] - cell.pretrained["layer.weight"]
    assert ((total / 400 - update).abs() < 5 * update.abs() / 400**0.5 + 1e-6).all()


def test_ken_delta_keeps_the_updates_of_lowest_density(tmp_path):
    cell = small_cell()
    _, state = store_and_restore(METHODS["ken-delta"], cell, 10, tmp_path / "file")
    base, tuned = cell.pretrained["layer.weight"], cell.finetuned["layer.weight"]
    for row, before, stored in zip(tuned, base, state["layer.weight"], strict=True):
        update = (row - before).double().numpy()
        h = 1.06 * update.std() * len(update) ** -0.2
        density = KernelDensity(bandwidth=h).fit(update[:, None]).score_samples(update[:, None])
        kept = np.argsort(density, kind="stable")[:10]
        assert set(np.flatnonzero((stored != before).numpy())) == set(kept)


def test_the_released_code_in_both_scopes(tmp_path):
    cell = small_cell()
    cell = dataclasses.replace(
        cell,
        pretrained={"layer.0.weight": cell.pretrained["layer.weight"], "norm.bias": cell.pretrained["norm.bias"]},
        finetuned={"layer.0.weight": cell.finetuned["layer.weight"], "norm.bias": cell.finetuned["norm.bias"]},
    )
    for name, pruned in (("ken-grid", ("layer.0.weight", "norm.bias")), ("ken-grid-layers", ("layer.0.weight",))):
        _, state = store_and_restore(METHODS[name], cell, 8, tmp_path / "file")
        for key, tensor in state.items():
            mask = selection.select(cell.finetuned[key], cell.pretrained[key], 8, "ken-grid")
            chosen = torch.where(mask, cell.finetuned[key], cell.pretrained[key])
            assert torch.equal(tensor, chosen if key in pruned else cell.finetuned[key])


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in METHODS
        if name.endswith("-rescaled") and not METHODS[name].needs_data and METHODS[name].scope == "all"
    ],
)
def test_every_selection_can_be_rescaled(name, tmp_path):
    cell = small_cell()
    (tmp_path / "plain").mkdir()
    _, plain = store_and_restore(
        METHODS[name.removesuffix("-rescaled")], dataclasses.replace(cell), 10, tmp_path / "plain" / "file"
    )
    _, state = store_and_restore(METHODS[name], cell, 10, tmp_path / "file")
    base, tuned = cell.pretrained["layer.weight"].double(), cell.finetuned["layer.weight"].double()
    kept = plain["layer.weight"] != cell.pretrained["layer.weight"]
    expected = torch.where(kept, base + 4 * (tuned - base), base)
    atol = 1e-6 if METHODS[name].coding.exact else 1e-4
    assert torch.allclose(state["layer.weight"].double(), expected, atol=atol)


@pytest.mark.parametrize("name", ["ken", "seeded-rescaled-3bit", "rounded"])
def test_a_model_that_training_did_not_change_is_stored(name, tmp_path):
    cell = small_cell()
    unchanged = dataclasses.replace(cell, finetuned=dict(cell.pretrained))
    _, state = store_and_restore(METHODS[name], unchanged, 0.25, tmp_path / "file")
    assert all(torch.equal(state[key], tensor) for key, tensor in cell.pretrained.items())


@pytest.mark.parametrize("budget", [0.01, 0.3, 3, 1.0])
def test_masks_of_the_whole_model_keep_the_highest_scores_and_of_equal_ones_the_first(budget):
    torch.manual_seed(0)
    scores = {"a": torch.randn(5, 7).round(), "b": torch.randn(3, 4, 2), "c": torch.zeros(3), "d": torch.zeros(0)}
    masks = global_masks(scores, budget, torch.device("cpu"))
    flat = torch.cat([tensor.flatten() for tensor in scores.values()]).tolist()
    count = sum(rows * kept_count(n, budget) for rows, n in ((5, 7), (3, 8), (1, 3)))
    kept = torch.cat([masks[name].flatten() for name in scores])
    assert set(kept.nonzero()[:, 0].tolist()) == oracle.highest(flat, count)
    assert all(masks[name].shape == tensor.shape for name, tensor in scores.items())


def test_random_scores_are_drawn_on_the_cpu_and_moved_to_the_device_of_the_rows():
    rows, generator = torch.empty(2, 5, device="meta"), torch.Generator().manual_seed(0)
    assert selection.CRITERIA["random"](rows, rows, generator).device == rows.device
