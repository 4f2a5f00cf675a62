"""Sub-networks: bit-for-bit round trips, the rules and scopes, refusals, and file sizes near the entropy bound."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import ken
from ken import positions, selection, sources
from ken.subnetwork import Subnetwork
from ken.tensors import entries_at, indices_of
from tests.oracles.selection import log2_choices

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = {"emb.weight": (30, 16), "layer.0.w": (16, 16), "layer.0.conv": (4, 3, 2, 2), "layer.1.b": (16,), "scale": ()}


def models(dtype=torch.float32, seed=0):
    """Pre-trained body, and a fine-tuned body with a head and an integer buffer."""
    torch.manual_seed(seed)
    pretrained = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    finetuned = {name: tensor + torch.randn(tensor.shape).to(dtype) for name, tensor in pretrained.items()}
    buffer = {"ids": torch.arange(7)}
    return pretrained | buffer, finetuned | buffer | {"classifier.w": torch.randn(2, 16).to(dtype)}


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(actual, expected):
    return (
        actual.dtype == expected.dtype and actual.shape == expected.shape and torch.equal(bits(actual), bits(expected))
    )


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_entries_are_those_that_torch_selects(share, dtype):
    torch.manual_seed(0)
    mask, values = torch.rand(7, 33) < share, torch.randn(7, 33).to(dtype)
    for chosen, tensor in ((mask, values), (mask.T, values.T), (mask[:0], values[:0]), (mask[0, 0], values[0, 0])):
        assert torch.equal(indices_of(chosen), chosen.reshape(-1).nonzero()[:, 0])
        assert same(entries_at(tensor, chosen), tensor.masked_select(chosen))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 5, 1000, 0.02, 0.5, 1.0])
def test_save_load_and_apply_are_bit_exact(tmp_path, dtype, k):
    pretrained, finetuned = models(dtype)
    untouched = {name: tensor.clone() for name, tensor in pretrained.items()}
    subnetwork = Subnetwork.extract(pretrained, finetuned, k)
    subnetwork.save(tmp_path / "sub.safetensors")
    loaded = Subnetwork.load(tmp_path / "sub.safetensors")
    restored = loaded.apply(pretrained)
    assert restored.keys() == finetuned.keys()
    for name, tensor in finetuned.items():
        if name in SHAPES:
            mask = selection.select(tensor, pretrained[name], k)
            assert torch.equal(mask, loaded.masks[name])
            assert same(restored[name], torch.where(mask, tensor, pretrained[name]))
        else:
            assert same(restored[name], tensor)
        restored[name].zero_()
    assert all(same(pretrained[name], untouched[name]) for name in pretrained)
    assert (loaded.method, loaded.k, loaded.rule, loaded.scope) == ("ken", k, "reset", "all")
    assert os.listdir(tmp_path) == ["sub.safetensors"]


def test_special_values_keep_their_bits(tmp_path):
    patterns = torch.tensor([0x7FC00001, -1, 0x7F800000, -(2**31), 1, 0], dtype=torch.int32).view(torch.float32)
    pretrained, finetuned = {"w": torch.zeros(1, 6)}, {"w": patterns[None]}
    mask = torch.tensor([[True, True, True, True, True, False]])
    Subnetwork.from_masks(pretrained, finetuned, {"w": mask}).save(tmp_path / "s")
    assert same(Subnetwork.load(tmp_path / "s").apply(pretrained)["w"], finetuned["w"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 40), st.integers(1, 60), st.floats(0, 1))
def test_any_mask_survives_a_round_trip(tmp_path_factory, seed, rows, n, share):
    torch.manual_seed(seed)
    pretrained, finetuned = {"w": torch.randn(rows, n)}, {"w": torch.randn(n, rows).t()}
    mask = torch.rand(rows, n) < share
    path = tmp_path_factory.getbasetemp() / "any"
    Subnetwork.from_masks(pretrained, finetuned, {"w": mask}).save(path)
    loaded = Subnetwork.load(path)
    assert torch.equal(loaded.masks["w"], mask)
    assert same(loaded.apply(pretrained)["w"], torch.where(mask, finetuned["w"], pretrained["w"]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3000), st.floats(0, 1))
def test_positions_survive_coding(seed, size, share):
    mask = np.random.default_rng(seed).random(size) < share**2
    coded = positions.encode(mask)
    assert np.array_equal(positions.decode(coded, size, int(mask.sum())), mask)
    assert len(coded.data) <= (size + 7) // 8 + 1


def test_positions_that_do_not_fit_are_refused():
    coded = positions.encode(np.arange(500) % 50 == 3)
    for size, kept in ((500, 9), (400, 10), (500, 11)):
        with pytest.raises(ValueError, match="coded positions"):
            positions.decode(coded, size, kept)
    with pytest.raises(ValueError, match="unknown coding"):
        positions.decode(positions.Coded("morse", 0, b""), 5, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.10, 0.25, 0.50, 0.75])
def test_size_is_near_the_entropy_bound(tmp_path, dtype, share):
    """A body of 24 tensors, half of them short, stays within 10 % of values + log2 C(n, k) bits a row."""
    torch.manual_seed(0)
    shapes = {f"encoder.layer.{i}.attention.self.query.weight": (128, 128) for i in range(12)}
    shapes |= {f"encoder.layer.{i}.attention.self.query.bias": (128,) for i in range(12)}
    pretrained = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    finetuned = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    subnetwork = Subnetwork.extract(pretrained, finetuned, share)
    subnetwork.save(tmp_path / "s")
    k = selection.kept_count(128, share)
    bound = subnetwork.kept_body * dtype.itemsize + log2_choices(128, k) / 8 * subnetwork.total_body / 128
    assert (tmp_path / "s").stat().st_size <= 1.10 * bound


def test_files_are_deterministic(tmp_path):
    pretrained, finetuned = models()
    for name in "ab":
        Subnetwork.extract(pretrained, finetuned, 3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_ranking_can_be_used_for_every_budget():
    pretrained, finetuned = models()
    ranks = selection.rank_tensors(finetuned, pretrained)
    for k in (1, 4, 0.25, 1.0):
        ranked = Subnetwork.from_ranks(pretrained, finetuned, ranks, k)
        direct = Subnetwork.extract(pretrained, finetuned, k)
        assert all(torch.equal(ranked.masks[name], direct.masks[name]) for name in SHAPES)
        assert all(same(ranked.values[name], direct.values[name]) for name in SHAPES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rescale_against_a_loop(dtype):
    pretrained, finetuned = models(dtype)
    restored = Subnetwork.extract(pretrained, finetuned, 5, rule="rescale").apply(pretrained)
    reset = Subnetwork.extract(pretrained, finetuned, 5)
    precision = np.float64 if dtype == torch.float64 else np.float32
    for name in ("emb.weight", "layer.0.w", "layer.0.conv", "layer.1.b"):
        rows = [selection.as_rows(tensor[name]) for tensor in (pretrained, finetuned, reset.masks)]
        expected = rows[0].clone()
        for row, (base, tuned, mask) in enumerate(zip(*rows, strict=True)):
            for column in mask.nonzero()[:, 0].tolist():
                start, end = precision(base[column].item()), precision(tuned[column].item())
                factor = precision(len(mask) / int(mask.sum()))
                expected[row, column] = torch.tensor(start + factor * (end - start)).to(dtype)
        assert same(restored[name], expected.reshape(SHAPES[name]))
    assert same(restored["scale"], finetuned["scale"])


def test_rescale_leaves_fully_kept_rows_unchanged():
    pretrained, finetuned = models()
    restored = Subnetwork.extract(pretrained, finetuned, 1.0, rule="rescale").apply(pretrained)
    assert all(same(restored[name], finetuned[name]) for name in finetuned)


def test_scope_layers_prunes_only_numbered_tensors():
    pretrained, finetuned = models()
    subnetwork = Subnetwork.extract(pretrained, finetuned, 2, scope="layers")
    assert subnetwork.counts == {
        "emb.weight": (480, 480), "layer.0.w": (32, 256), "layer.0.conv": (8, 48), "layer.1.b": (2, 16), "scale": (1, 1)
    }  # fmt: skip
    assert same(subnetwork.apply(pretrained)["emb.weight"], finetuned["emb.weight"])


def test_counts():
    pretrained, finetuned = models()
    subnetwork = Subnetwork.extract(pretrained, finetuned, 2)
    assert subnetwork.total_body == 30 * 16 + 16 * 16 + 48 + 16 + 1
    assert subnetwork.kept_body == 60 + 32 + 8 + 2 + 1
    assert subnetwork.kept_share == subnetwork.kept_body / subnetwork.total_body
    assert subnetwork.head_size == 32


def test_masks_may_keep_nothing(tmp_path):
    pretrained, finetuned = models()
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for rule in ("reset", "rescale"):
        Subnetwork.from_masks(pretrained, finetuned, masks, method="none", rule=rule).save(tmp_path / "s")
        loaded = Subnetwork.load(tmp_path / "s")
        restored = loaded.apply(pretrained)
        assert loaded.kept_body == 0 and loaded.method == "none"
        assert all(same(restored[name], pretrained[name]) for name in SHAPES)


def test_ken_grid_and_criterion_functions_extract():
    pretrained, finetuned = models()
    grid = Subnetwork.extract(pretrained, finetuned, 4, method="ken-grid")
    for name in SHAPES:
        assert torch.equal(grid.masks[name], selection.select(finetuned[name], pretrained[name], 4, "ken-grid"))

    def uniform(tuned, base, generator):
        return torch.rand(tuned.shape, generator=generator)

    first, second = (Subnetwork.extract(pretrained, finetuned, 4, method=uniform, seed=1) for _ in range(2))
    assert first.method == "uniform"
    assert all(torch.equal(first.masks[name], second.masks[name]) for name in SHAPES)


class Tied(nn.Module):
    """Embedding and output share one weight, the classifier is the head."""

    def __init__(self, seed: int, head: bool = True):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, 8)
        self.output = nn.Linear(8, 20, bias=False)
        self.output.weight = self.embedding.weight
        if head:
            self.classifier = nn.Linear(8, 2)


def test_tied_tensors_are_counted_and_stored_once(tmp_path):
    pretrained, finetuned = Tied(0, head=False), Tied(1)
    subnetwork = Subnetwork.extract(pretrained, finetuned, 3)
    assert subnetwork.total_body == 160 and subnetwork.kept_body == 60 and subnetwork.head_size == 18
    subnetwork.save(tmp_path / "s")
    restored = Subnetwork.load(tmp_path / "s").apply(pretrained)
    assert restored.keys() == finetuned.state_dict().keys()
    assert restored["output.weight"] is restored["embedding.weight"]
    Tied(2).load_state_dict(restored)


@pytest.mark.parametrize("rule", ["reset", "rescale"])
def test_injected_and_ejected_bit_for_bit(rule):
    model = Tied(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    body = {"embedding.weight": before["embedding.weight"]}
    subnetwork = Subnetwork.extract(body, Tied(1), 3, rule=rule)
    weight = model.embedding.weight
    subnetwork.inject(model)
    expected = subnetwork.apply(body)
    assert all(same(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.embedding.weight is weight and model.output.weight is weight
    with pytest.raises(ValueError, match="already in the model"):
        subnetwork.inject(model)
    subnetwork.eject(model)
    assert all(same(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="not in the model"):
        subnetwork.eject(model)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.sampled_from(["ken", "other", "rescaled", "all", "none", "out"]), max_size=6))
def test_after_any_sequence_the_model_holds_the_last_sub_network(seed, sequence):
    model = Tied(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    body = {"embedding.weight": before["embedding.weight"]}
    torch.manual_seed(seed)
    mask = {"embedding.weight": torch.rand(20, 8) < 0.3}
    stored = {
        "ken": Subnetwork.extract(body, Tied(1), 3),
        "other": Subnetwork.from_masks(body, Tied(2), mask),
        "rescaled": Subnetwork.extract(body, Tied(1), 2, rule="rescale"),
        "all": Subnetwork.extract(body, Tied(1), 8),
        "none": Subnetwork.from_masks(body, Tied(3), {"embedding.weight": torch.zeros(20, 8, dtype=torch.bool)}),
    }
    current = None
    for name in sequence:
        if name == "out" and current:
            stored[current].eject(model)
            current = None
        elif name not in ("out", current):
            stored[name].inject(model)
            current = name
        expected = stored[current].apply(body) if current else before
        assert all(same(tensor, expected[key]) for key, tensor in model.state_dict().items())
    if current:
        stored[current].eject(model)
    assert all(same(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_larger_budget_writes_only_changed_entries():
    body, tuned, model = {"w": torch.zeros(1, 9)}, {"w": torch.arange(1.0, 10)[None]}, nn.Linear(9, 1, bias=False)
    ranks = {"w": torch.arange(9, dtype=torch.int32)[None]}
    model.state_dict = lambda: {"w": live}
    live = body["w"].clone()
    small, large = (Subnetwork.from_ranks(body, tuned, ranks, k) for k in (3, 5))
    small.inject(model)
    live[0, :3] = -1  # marks values that must not be written again
    large.values["w"][:3] = -1
    large.inject(model)
    assert live.tolist() == [[-1, -1, -1, 4, 5, 0, 0, 0, 0]]
    large.eject(model)
    assert live.tolist() == [[0] * 9]


def test_a_sub_network_of_another_base_is_refused():
    model, other = Tied(0), Tied(7)
    first, second = (
        Subnetwork.extract({"embedding.weight": base.embedding.weight.detach().clone()}, Tied(1), 3)
        for base in (model, other)
    )
    first.inject(model)
    with pytest.raises(ValueError, match="holds a sub-network of another base"):
        second.inject(model)
    with pytest.raises(ValueError, match="is not in the model"):
        second.eject(model)


def test_names_tied_only_in_the_file_are_written_and_restored():
    body = {"embedding.weight": Tied(0).embedding.weight.detach().clone()}
    subnetwork, model = Subnetwork.extract(body, Tied(1), 3), Tied(0)
    model.output.weight = nn.Parameter(torch.ones(20, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subnetwork.inject(model)
    assert same(model.output.weight.detach(), model.embedding.weight.detach())
    subnetwork.eject(model)
    assert all(same(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_names_tied_only_in_the_model_are_refused():
    body = {name: Tied(0).embedding.weight.detach().clone() for name in ("embedding.weight", "output.weight")}
    tuned = {name: tensor + 1 for name, tensor in body.items()}
    with pytest.raises(ValueError, match=r"'embedding.weight' and 'output.weight' are tied in the model only"):
        Subnetwork.extract(body, tuned, 3).inject(Tied(0, head=False))


def test_buffers_of_a_module_are_copied_not_pruned():
    base, tuned = nn.BatchNorm1d(16), nn.BatchNorm1d(16)
    tuned.running_mean += 1
    subnetwork = Subnetwork.extract(base, tuned, 0.25)
    assert set(subnetwork.masks) == {"weight", "bias"}
    assert same(subnetwork.apply(base)["running_mean"], tuned.running_mean)


def test_empty_tensors_are_supported(tmp_path):
    base, tuned = ({"w": torch.randn(3, 4), "none": torch.zeros(0, 5), "e": torch.zeros(4, 0)} for _ in range(2))
    Subnetwork.extract(base, tuned, 2).save(tmp_path / "s")
    assert Subnetwork.load(tmp_path / "s").apply(base)["none"].shape == (0, 5)


def test_inject_needs_the_base_and_the_head():
    body = {"embedding.weight": Tied(0).embedding.weight.detach().clone()}
    subnetwork = Subnetwork.extract(body, Tied(1), 3)
    with pytest.raises(ValueError, match="fingerprint"):
        subnetwork.inject(Tied(5))
    with pytest.raises(ValueError, match=r"needs a tensor 'classifier.weight' of \(2, 8\), found none"):
        subnetwork.inject(Tied(0, head=False))


@pytest.fixture
def stored(tmp_path):
    pretrained, finetuned = models()
    path = tmp_path / "sub.safetensors"
    Subnetwork.extract(pretrained, finetuned, 4).save(path)
    return path, pretrained


def test_every_truncation_is_refused(stored):
    path, _ = stored
    data = path.read_bytes()
    for length in [0, 1, 8, 50, *range(100, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated or no safetensors file"):
            Subnetwork.load(path)


def test_every_altered_byte_is_refused(stored):
    path, _ = stored
    data = path.read_bytes()
    for index in range(0, len(data), 7):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        with pytest.raises(ValueError, match=r"truncated|altered|not a sub-network"):
            Subnetwork.load(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "f"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is not a sub-network"):
        Subnetwork.load(path)
    save_file({"w": torch.zeros(3)}, path, metadata={"ken": json.dumps([1])})
    with pytest.raises(ValueError, match="is not a sub-network"):
        Subnetwork.load(path)
    path.write_text("a readme")
    with pytest.raises(ValueError, match="truncated or no safetensors"):
        Subnetwork.load(path)
    with pytest.raises(FileNotFoundError):
        Subnetwork.load(tmp_path / "absent")


def test_another_base_is_refused(stored):
    path, pretrained = stored
    loaded = Subnetwork.load(path)
    other = {name: tensor.clone() for name, tensor in pretrained.items()}
    other["layer.1.b"][3] += 1e-6
    with pytest.raises(ValueError, match="the base has fingerprint"):
        loaded.apply(other)
    del other["layer.1.b"]
    with pytest.raises(ValueError, match=r"the base lacks tensor 'layer.1.b'"):
        loaded.apply(other)
    loaded.apply(pretrained | {"classifier.w": torch.zeros(2, 16)})


def test_an_unwritable_path_is_refused_before_any_work(tmp_path):
    def never(*_):
        raise AssertionError

    for out, error in ((tmp_path / "absent" / "s", "the folder of .* does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(OSError, match=error):
            ken.prune(*models(), out, 3, never)


def test_a_failed_write_leaves_the_old_file(stored, monkeypatch):
    path, _ = stored
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        Subnetwork.load(path).save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_fingerprint_ignores_only_order_and_memory_layout():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}
    expected = ken.fingerprint(tensors)
    assert ken.fingerprint(dict(reversed(tensors.items()))) == expected
    assert ken.fingerprint(tensors | {"a": tensors["a"].t().contiguous().t()}) == expected
    for changed in (
        {"a": tensors["a"].reshape(3, 2)}, {"a": tensors["a"].double()}, {"a": tensors["a"] + 1}, {"c": torch.zeros(0)},
        {"a": tensors["a"].view(torch.int32)},
    ):  # fmt: skip
        assert ken.fingerprint(tensors | changed) != expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be an int of at least 1"),
        ({"k": True}, "k must be"),
        ({"method": "kenn"}, "unknown method 'kenn': did you mean 'ken'"),
        ({"rule": "zero"}, "unknown rule 'zero': expected 'reset' or 'rescale'"),
        ({"scope": "attention"}, "unknown scope 'attention'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Subnetwork.extract(*models(), **({"k": 2} | change))


def test_incompatible_tensors_are_named():
    pretrained, finetuned = models()
    with pytest.raises(ValueError, match=r"lacks 1 pre-trained tensors of dict, such as 'layer\.9\.w'"):
        Subnetwork.extract(pretrained | {"layer.9.w": torch.zeros(2)}, finetuned, 2)
    with pytest.raises(ValueError, match=r"tensor 'scale' is torch.float32 of \(\) fine-tuned but torch.int64"):
        Subnetwork.extract(pretrained | {"scale": torch.zeros((), dtype=torch.int64)}, finetuned, 2)
    with pytest.raises(ValueError, match=r"tensor 'layer.1.b' is .*of \(16,\) fine-tuned but .*of \(4,\)"):
        Subnetwork.extract(pretrained | {"layer.1.b": torch.zeros(4)}, finetuned, 2)
    with pytest.raises(ValueError, match=r"tensor 'layer.0.w': fine-tuned values must be finite"):
        Subnetwork.extract(pretrained, finetuned | {"layer.0.w": torch.full((16, 16), torch.nan)}, 2)
    with pytest.raises(ValueError, match=r"tensor 'emb.weight' needs ranks or a bool mask"):
        Subnetwork.from_masks(pretrained, finetuned, {})


def test_a_base_that_never_changes_is_hashed_once_and_gives_the_same_files(tmp_path, monkeypatch):
    base = {"a.weight": torch.randn(6, 8), "b.weight": torch.randn(3, 5)}
    tuned = {name: tensor + 0.1 for name, tensor in base.items()} | {"head": torch.ones(2)}
    constant, hashed = sources.Constant(base), []
    original = sources.bytes_of
    monkeypatch.setattr(sources, "bytes_of", lambda rows: hashed.append(rows) or original(rows))
    for k in (2, 4):
        Subnetwork.extract(constant, tuned, k).save(tmp_path / "constant.ken.safetensors")
        assert len(hashed) == 2, "each tensor once, at the first k"
    Subnetwork.extract(base, tuned, 4).save(tmp_path / "usual.ken.safetensors")
    written = [(tmp_path / f"{name}.ken.safetensors").read_bytes() for name in ("constant", "usual")]
    assert written[0] == written[1] and len(hashed) == 4
    other = {name: tensor.to(torch.float64) for name, tensor in tuned.items()}
    assert Subnetwork.extract(constant, other, 2).base == Subnetwork.extract(base, other, 2).base, "of another dtype"
