"""Format 2 of sub-network files: every way to read a file gives the bits that docs/format.md defines."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import nn

import ken
from ken import tensors
from ken.coding import levels, seeded
from ken.coding.blocks import POSITIONS
from ken.coding.coder import ROUNDED, VALUES
from ken.storage import open_reader
from ken.subnetwork import Subnetwork
from tests.ken.test_subnetwork import bits, same
from tests.oracles import format_reader as oracle

ROOT = Path(__file__).parents[2]
CODINGS = [(v, p) for v in VALUES[1:] for p in POSITIONS if (v, p) == (ROUNDED, "stored") or v != ROUNDED]
SHAPES = [(), (1,), (5,), (70,), (0,), (0, 3), (3, 0), (1, 1), (6, 1), (7, 13), (4, 100), (3, 2, 5), (0, 2, 2)]
BLOCK = tensors.BLOCK


class Holder(nn.Module):
    """A model with the parameters of a state dict."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            self.register_buffer(name, tensor.clone())


def raw(tensor):
    return bits(tensor).numpy().tobytes()


def pair(shapes, dtype=torch.float32, seed=0, share=0.7, scale=0.01):
    """A base, and a fine-tuned model in which a share of the rows changed, with a head and an integer buffer."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned = {}, {}
    for number, shape in enumerate(shapes):
        rows = shape[0] if len(shape) > 1 else 1
        changed = (torch.rand(rows, generator=generator) < share).float().reshape(-1, *[1] * max(0, len(shape) - 1))
        update = scale * torch.randn(shape, generator=generator) * (changed if len(shape) > 1 else changed.reshape(()))
        base[f"w{number}"] = torch.randn(shape, generator=generator).to(dtype)
        tuned[f"w{number}"] = base[f"w{number}"] + update.to(dtype)
    head = {"head": torch.randn(2, 9, generator=generator).to(dtype), "ids": torch.arange(4)}
    return base, tuned | head


def check_all_readers(base, tuned, folder, k, **choices):
    """Write a file; memory, disk, a live module and the oracle restore the same bits. Returns them."""
    path = folder / "sub"
    ken.prune(base, tuned, path, k, **choices)
    subnetwork = Subnetwork.load(path)
    state = subnetwork.apply(base)
    ken.inject(base, path, folder / "out.safetensors")
    stored = save({name: tensor.contiguous() for name, tensor in base.items()})
    written, read = load_file(folder / "out.safetensors"), oracle.restore(path.read_bytes(), stored, tensors.BLOCK)
    assert state.keys() == written.keys() == read.keys() == tuned.keys()
    for name, tensor in state.items():
        assert same(written[name], tensor) and read[name][2] == raw(tensor), name
        assert tensor.dtype == tuned[name].dtype and tensor.shape == tuned[name].shape
    model = Holder(base | {name: torch.zeros_like(tuned[name]) for name in tuned.keys() - base.keys()})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subnetwork.inject(model)
    assert all(same(tensor, state[name]) for name, tensor in model.state_dict().items())
    subnetwork.eject(model)
    assert all(same(tensor, before[name]) for name, tensor in model.state_dict().items())
    return state


@given(
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    coding=st.sampled_from(CODINGS),
    rule=st.sampled_from(["reset", "rescale"]),
    k=st.sampled_from([1, 2, 5, 1000, 0.01, 0.3, 0.9, 1.0]),
    scope=st.sampled_from(["all", "layers"]),
    share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    scale=st.sampled_from([0.0, 1e-6, 0.01, 3.0]),
    block=st.sampled_from([7, 40, BLOCK]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_readers_agree(tmp_path, shapes, dtype, coding, rule, k, scope, share, scale, block, seed):
    base, tuned = pair(shapes, dtype, seed, share, scale)
    values, positions = coding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "BLOCK", block)
        chosen = {"values": values, "positions": positions, "rule": rule, "scope": scope, "seed": seed}
        state = check_all_readers(base, tuned, tmp_path, k, **chosen)
    for name in base:
        rows, expected, wanted = (tensors.as_rows(tensor_of[name]) for tensor_of in (state, base, tuned))
        untouched = (wanted == expected).all(1)
        assert same(rows[untouched], expected[untouched]), "a row without an update keeps its bits"
    assert torch.equal(state["ids"], tuned["ids"])


@pytest.mark.parametrize(("values", "positions"), CODINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_readers_agree_in_every_coding(tmp_path, values, positions, dtype):
    base, tuned = pair([(40, 90), (5, 3, 40), (70,), (), (3, 0)], dtype)
    check_all_readers(base, tuned, tmp_path, 0.1, values=values, positions=positions, rule="rescale", seed=3)


@pytest.mark.parametrize(("values", "positions"), [("4bit", "stored"), ("4bit", "seed"), ("4bit", "base")])
def test_restored_models_depend_on_neither_threads_nor_the_order_of_reading(tmp_path, values, positions):
    base, tuned = pair([(300, 200), (50,), (9, 500)])
    ken.prune(base, tuned, tmp_path / "sub", 0.1, values=values, positions=positions)
    threads, states = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            states.append(Subnetwork.load(tmp_path / "sub").apply(base))
            states.append(Subnetwork.load(tmp_path / "sub").apply(dict(reversed(base.items()))))
    finally:
        torch.set_num_threads(threads)
    reader, last_first = open_reader(tmp_path / "sub"), {}
    for name in reversed(reader.body):
        rows = tensors.as_rows(base[name])
        restored = reader.restored(name, lambda block, rows=rows: rows[block].clone())
        last_first[name] = torch.cat(list(restored)).reshape(base[name].shape)
    for state in states[1:]:
        assert all(same(state[name], tensor) for name, tensor in states[0].items())
    assert all(same(tensor, states[0][name]) for name, tensor in last_first.items())


@pytest.mark.parametrize("values", ["4bit", "rounded"])
def test_files_of_one_seed_are_the_same_bytes(tmp_path, values):
    base, tuned = pair([(30, 50), (8,)])
    for name in ("a", "b"):
        ken.prune(base, tuned, tmp_path / name, 0.2, values=values, seed=5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("positions", POSITIONS)
def test_bases_that_are_not_contiguous(tmp_path, positions):
    base, _ = pair([(6, 50)])
    base = {"w0": base["w0"].t().contiguous().t()}
    tuned = {"w0": base["w0"] + 0.01 * torch.randn(6, 50)}
    assert not base["w0"].is_contiguous()
    check_all_readers(base, tuned, tmp_path, 5, values="3bit", positions=positions)


def test_masks_of_the_lowest_number_in_a_head_stay_finite(tmp_path):
    base, tuned = pair([(4, 8)])
    for value in (torch.finfo(torch.float32).min, -torch.inf, torch.nan):
        mask = torch.tensor([[0.0, value], [0.0, 0.5]])
        state = check_all_readers(base, tuned | {"mask": mask}, tmp_path, 2, values="4bit")
        assert same(state["mask"], mask)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1e30])
@pytest.mark.parametrize("values", ["16bit", "8bit", "3bit", "2bit", "1bit", "rounded"])
def test_very_small_and_very_large_updates(tmp_path, scale, values):
    tuned = {"w": torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * scale}
    base = {"w": torch.zeros(5, 40)}
    assert check_all_readers(base, tuned, tmp_path, 10, values=values)["w"].isfinite().all()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("k", [3, 1.0])
def test_new_rows_of_a_vocabulary_are_close_to_the_fine_tuned_ones(tmp_path, positions, k):
    torch.manual_seed(0)
    base = {"embed.weight": torch.randn(50, 16), "layer.0.w": torch.randn(8, 16)}
    tuned = {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in base.items()}
    tuned["embed.weight"] = torch.cat([tuned["embed.weight"], torch.randn(300, 16)])
    ken.prune(base, tuned, tmp_path / "sub", k, values="3bit", positions=positions)
    subnetwork = Subnetwork.load(tmp_path / "sub")
    state, read = subnetwork.apply(base), oracle.restore((tmp_path / "sub").read_bytes(), save(base))
    assert all(read[name][2] == raw(tensor) for name, tensor in state.items())
    assert (state["embed.weight"][50:] - tuned["embed.weight"][50:]).abs().max() < 1e-4
    assert (state["embed.weight"][:50] != base["embed.weight"]).any(1).all(), "all old rows have updates"
    if k == 3:  # a live model has anything in its new rows
        live = nn.Module()
        live.embed, live.layer = nn.Embedding(350, 16), nn.Module()
        setattr(live.layer, "0", nn.Module())
        getattr(live.layer, "0").w = nn.Parameter(base["layer.0.w"].clone())
        live.embed.weight.data[:50] = base["embed.weight"]
        before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
        subnetwork.inject(live)
        assert all(same(tensor, state[name]) for name, tensor in live.state_dict().items())
        subnetwork.eject(live)
        assert all(same(tensor, before[name]) for name, tensor in live.state_dict().items())


def test_tied_tensors(tmp_path):
    base = {"embed.weight": torch.randn(9, 12)}
    weight = base["embed.weight"] + 0.1
    tuned = {"embed.weight": weight, "out.weight": weight}
    for positions in POSITIONS:
        ken.prune(base, tuned, tmp_path / "sub", 4, values="4bit", positions=positions)
        state = Subnetwork.load(tmp_path / "sub").apply(base)
        read = oracle.restore((tmp_path / "sub").read_bytes(), save(base))
        assert state["out.weight"] is state["embed.weight"] and state.keys() == read.keys()
        ken.inject(base, tmp_path / "sub", tmp_path / "out.safetensors")
        written = load_file(tmp_path / "out.safetensors")
        for name, tensor in state.items():
            assert same(written[name], tensor) and read[name][2] == raw(tensor)


def test_one_coded_subnetwork_after_another_in_a_live_model(tmp_path):
    base, tuned = pair([(6, 40), (9,)])
    states, subnetworks = [], []
    for number, values in enumerate(("32bit", "4bit", "1bit")):
        ken.prune(base, tuned, tmp_path / str(number), 10, values=values)
        subnetworks.append(Subnetwork.load(tmp_path / str(number)))
        states.append(subnetworks[-1].apply(base))
    model = Holder(base | {name: torch.zeros_like(tuned[name]) for name in ("head", "ids")})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number in (0, 1, 2, 1, 0, 0):
        if number == 0 and all(same(tensor, states[0][name]) for name, tensor in model.state_dict().items()):
            continue
        subnetworks[number].inject(model)
        assert all(same(tensor, states[number][name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="nothing to eject"):
        subnetworks[1].eject(model)
    subnetworks[0].eject(model)
    assert all(same(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_loading_and_saving_again_gives_the_same_bytes(tmp_path):
    base, tuned = pair([(6, 40)])
    ken.prune(base, tuned, tmp_path / "a", 10, values="2bit", positions="seed", seed=9)
    loaded = Subnetwork.load(tmp_path / "a")
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes())
    (tmp_path / "a").unlink()
    loaded.save(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert (loaded.values, loaded.positions, loaded.seed, loaded.k) == ("2bit", "seed", 9, 10)
    assert loaded.kept_body == 10 * loaded.total_body // 40 or loaded.kept_body < loaded.total_body


# Levels


def bfloat16(value):
    return oracle.to_float32("BF16", oracle.from_float32("BF16", np.array([value], np.float32)).tobytes())[0]


def groups(seed=0, shape=(30, 64)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-6, 0, shape[0])[:, None]


@pytest.mark.parametrize("width", [16, 8, 4, 3])
def test_levels_are_the_nearest_under_the_best_scale(width):
    updates, largest = groups(), 2 ** (width - 1) - 1
    found, scales = levels.quantize(updates, width)
    assert found.dtype == torch.int16 and int(found.abs().max()) <= largest
    for row, level, scale in zip(updates.double().numpy(), found.numpy(), scales[:, 0].numpy(), strict=True):
        candidates = []
        for clip in (1.0, 0.85, 0.7, 0.55) if width < 8 else (1.0,):
            candidate = np.float32(np.float32(np.abs(row).max()) * np.float32(clip)) / np.float32(largest)
            candidates.append(float(candidate if width == 16 else bfloat16(candidate)))
        assert min(abs(float(scale) - other) for other in candidates) <= 2**-8 * float(scale)
        grid = np.arange(-largest, largest + 1)
        errors = [np.abs(row[:, None] - grid * other).min(1).__pow__(2).sum() for other in candidates]
        error = ((row - level * float(scale)) ** 2).sum()
        assert error <= min(errors) * (1 + 1e-6 * largest) + 1e-30
        nearest = np.abs(row[:, None] - grid * float(scale)).min(1)
        assert np.all(np.abs(row - level * float(scale)) <= nearest + 2**-22 * largest * float(scale))


def test_two_bits_have_two_sizes_by_lloyds_rule():
    updates = groups(1)
    found, scales = levels.quantize(updates, 2)
    assert set(found.unique().tolist()) == {-2, -1, 1, 2}
    for row, level, (small, large) in zip(updates.double().numpy(), found.numpy(), scales.numpy(), strict=True):
        sizes = np.abs(row)
        low, high = 0.5 * sizes.mean(), 1.5 * sizes.mean()
        for _ in range(8):
            upper = sizes > (low + high) / 2
            high, low = (sizes[upper].mean() if upper.any() else high), sizes[~upper].mean()
        assert small == pytest.approx(low, rel=2**-7) and large == pytest.approx(high, rel=2**-7)
        assert np.array_equal(np.sign(level), np.where(row < 0, -1, 1))
        distances = np.abs(sizes[:, None] - np.array([float(small), float(large)]))
        chosen = np.take_along_axis(distances, np.abs(level)[:, None] - 1, 1)[:, 0]
        assert np.all(chosen <= distances.min(1) + 1e-7 * large)


def test_one_bit_is_the_sign_and_the_mean_size():
    updates = groups(2)
    updates[0, :5] = 0
    found, scales = levels.quantize(updates, 1)
    assert torch.equal(found, torch.where(updates < 0, -1, 1).to(torch.int16))
    for row, scale in zip(updates.double().numpy(), scales[:, 0].numpy(), strict=True):
        assert float(scale) == pytest.approx(np.abs(row).mean(), rel=2**-8)


@pytest.mark.parametrize("width", levels.BITS)
def test_groups_of_zeros_restore_zeros(width):
    found, scales = levels.quantize(torch.zeros(3, 5), width)
    assert not levels.dequantize(found, scales, width).any()


def test_rounding_is_unbiased():
    updates, step = torch.linspace(-3.3, 2.9, 60).reshape(2, 30), torch.tensor(0.7)
    draws = torch.stack([
        levels.round_unbiased(updates, step, torch.Generator().manual_seed(seed)) for seed in range(2000)
    ])  # fmt: skip
    exact = updates.double() / 0.7
    assert bool(((draws == exact.floor()) | (draws == exact.ceil())).all())
    errors = (draws.double().mean(0) - exact).abs()
    assert bool((errors <= 4 * draws.double().std(0) / 2000**0.5 + 1e-6).all())
    assert not levels.round_unbiased(updates, torch.tensor(0.0), torch.Generator()).any()


def test_rounded_files_are_unbiased(tmp_path):
    base, tuned = pair([(4, 30)], share=1.0)
    restored = []
    for seed in range(300):
        ken.prune(base, tuned, tmp_path / "sub", 0.3, values=ROUNDED, seed=seed)
        restored.append(Subnetwork.load(tmp_path / "sub").apply(base)["w0"].double())
    draws, expected = torch.stack(restored), tuned["w0"].double()
    assert bool(((draws.mean(0) - expected).abs() <= 5 * draws.std(0).max() / 300**0.5).all())


# Seeded positions


@given(key=st.integers(0, 2**64 - 1), row=st.integers(0, 2**40), n=st.integers(1, 5000), share=st.floats(0.0001, 1.0))
@settings(max_examples=200, deadline=None)
def test_seeded_columns_agree_with_big_integers(key, row, n, share):
    k = max(1, min(n, int(n * share), 60))
    columns = seeded.columns(key, np.array([row]), n, k)[0].tolist()
    assert columns == oracle.seeded_columns(key, row, n, k)
    starts, lengths = seeded.cells(n, k)
    assert all(a <= c < a + b for a, b, c in zip(starts, lengths, columns, strict=True))
    assert int(lengths.sum()) == n and starts[0] == 0 and int(lengths.max() - lengths.min()) <= 1


def test_the_vectors_of_the_document():
    text = (ROOT / "docs/format.md").read_text()
    words = [int(word, 16) for word in re.search(r"with key 0 \| (.*) \|", text)[1].replace("`", "").split(", ")]
    assert seeded.random_bits(0, np.arange(3, dtype=np.uint64)).tolist() == words
    assert [oracle.splitmix64(0, i) for i in range(3)] == words
    keys = re.findall(r"key of seed (\d+) and name `([^`]+)` \| `([0-9a-f]{16})`", text)
    rows = re.findall(r"columns of its rows? ([\d and]+), n = (\d+), k = (\d+) \| `(.*)`", text)
    assert len(keys) == len(rows) == 2
    for (seed, name, key), (numbers, n, k, columns) in zip(keys, rows, strict=True):
        assert seeded.key_of(int(seed), name) == oracle.seed_key(int(seed), name) == int(key, 16)
        numbers = [int(number) for number in numbers.split(" and ")]
        expected = [[int(c) for c in row.split(", ")] for row in re.findall(r"\[([^\]]+)\]", columns)]
        assert seeded.columns(int(key, 16), np.array(numbers), int(n), int(k)).tolist() == expected
        assert [oracle.seeded_columns(int(key, 16), row, int(n), int(k)) for row in numbers] == expected


@pytest.mark.parametrize(("n", "k"), [(10, 4), (7, 7), (9, 1), (13, 5)])
def test_rescaled_updates_at_seeded_positions_are_unbiased(tmp_path, n, k):
    """In every cell exactly one entry is kept, with its update times the length of the cell."""
    base, tuned = pair([(3, n)], share=1.0)
    update, seeds, restored = (tuned["w0"] - base["w0"]).double(), 400, []
    for seed in range(seeds):
        ken.prune(base, tuned, tmp_path / "sub", k, values="16bit", positions="seed", rule="rescale", seed=seed)
        decoded = Subnetwork.load(tmp_path / "sub").decode(base)
        starts, lengths = seeded.cells(n, k)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            assert decoded.masks["w0"][:, start : start + length].sum(1).eq(1).all()
        restored.append(decoded.apply(base)["w0"].double() - base["w0"].double())
    draws = torch.stack(restored)
    assert bool(((draws.mean(0) - update).abs() <= 5 * draws.std(0) / seeds**0.5 + 1e-5).all())


def test_positions_of_the_base_are_kens_choice_on_the_pre_trained_row(tmp_path):
    base, tuned = pair([(6, 40)], share=1.0)
    ken.prune(base, tuned, tmp_path / "sub", 7, values="4bit", positions="base")
    decoded = Subnetwork.load(tmp_path / "sub").decode(base)
    assert torch.equal(decoded.masks["w0"], ken.select(base["w0"], base["w0"], 7))


def test_info_counts_every_byte(tmp_path):
    base, tuned = pair([(6, 400), (5,)])
    for values, positions in CODINGS:
        ken.prune(base, tuned, tmp_path / "sub", 0.1, values=values, positions=positions)
        sizes = open_reader(tmp_path / "sub").sizes()
        assert sum(sizes.values()) == (tmp_path / "sub").stat().st_size and min(sizes.values()) >= 0
        assert bool(sizes["positions"]) == (positions == "stored")
