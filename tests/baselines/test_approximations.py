"""Methods that approximate updates (SVD, ComPEFT, BitDelta by row, Delta-CoMe) against slow versions in float64."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from baselines import METHODS, Cell
from baselines.base import ChosenFactor
from baselines.delta_come import quantise, vector_counts
from baselines.matrix_updates import decode_halves, encode_halves
from baselines.packed_files import load_parts, pack_bits, save_parts, unpack_bits
from baselines.svd import allocate, rank_bytes
from ken.low_rank import factors, spectrum
from ken.selection import kept_count
from study.cells.finetuned_cell import FinetunedCell
from study.training.examples import predict
from tests.baselines.storing import store_and_restore

NAMES = ("svd", "svd-allocated", "compeft", "bitdelta-rows", "delta-come")
HALF = 2**-11  # relative error of float16
STILL = slice(3, 8)  # rows of the embedding that do not change


def small_cell(dtype=torch.float32, scale=0.1, seed=0) -> Cell:
    """A cell with an embedding, of which some rows do not change, a linear layer, a vector and a head."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embedding.weight": (30, 12), "layer.weight": (16, 24), "norm.bias": (24,)}
    pretrained = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    finetuned = {
        name: (base + scale * torch.randn(base.shape, generator=generator)).to(dtype)
        for name, base in pretrained.items()
    }
    finetuned["embedding.weight"][STILL] = pretrained["embedding.weight"][STILL]
    finetuned["head.weight"] = torch.randn(2, 24, generator=generator).to(dtype)
    skeleton = torch.nn.ModuleDict({"layer": torch.nn.Linear(24, 16), "head": torch.nn.Linear(24, 2)})
    return Cell(pretrained, finetuned, seed=3, skeleton=skeleton)


def update(cell: Cell, name: str) -> np.ndarray:
    return (cell.finetuned[name].double() - cell.pretrained[name].double()).numpy()


def restored_update(cell: Cell, state: dict, name: str) -> np.ndarray:
    return (state[name].double() - cell.pretrained[name].double()).numpy()


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unchanged_rows_vectors_and_head_in_all_dtypes(name, dtype, tmp_path):
    cell = small_cell(dtype)
    for budget in METHODS[name].budgets or (0.1, 3):
        _, state = store_and_restore(METHODS[name], cell, budget, tmp_path / "file")
        assert set(state) == set(cell.finetuned)
        for key, tensor in state.items():
            assert tensor.dtype == dtype and tensor.shape == cell.finetuned[key].shape and tensor.isfinite().all()
        assert torch.equal(state["embedding.weight"][STILL], cell.pretrained["embedding.weight"][STILL])
        assert torch.equal(state["head.weight"], cell.finetuned["head.weight"])
        vector, largest = update(cell, "norm.bias"), np.abs(update(cell, "norm.bias")).max()
        error = np.abs(restored_update(cell, state, "norm.bias") - vector)
        exact = dtype in (torch.float16, torch.bfloat16)
        assert (error <= (0 if exact else HALF * np.abs(vector) + 1e-6 * largest + 1e-6)).all()
        before = sum(np.linalg.norm(update(cell, key)) for key in ("embedding.weight", "layer.weight"))
        after = sum(
            np.linalg.norm(update(cell, key) - restored_update(cell, state, key))
            for key in ("embedding.weight", "layer.weight")
        )
        assert after <= before, "the approximation is closer than the pre-trained values"


@pytest.mark.parametrize("name", NAMES)
def test_small_updates_do_not_underflow(name, tmp_path):
    cell = small_cell()
    tiny = dataclasses.replace(
        cell,
        pretrained={key: torch.zeros_like(base) for key, base in cell.pretrained.items()},
        finetuned={key: 1e-12 * tensor for key, tensor in cell.finetuned.items()},
    )
    large = dataclasses.replace(tiny, finetuned={key: 2.0**60 * tensor for key, tensor in tiny.finetuned.items()})
    for budget in METHODS[name].budgets or (0.1,):
        states = [store_and_restore(METHODS[name], one, budget, tmp_path / "file")[1] for one in (tiny, large)]
        for key in cell.pretrained:
            assert torch.allclose(2.0**60 * states[0][key], states[1][key], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_cannot_be_approximated(name, tmp_path):
    pretrained = {
        "same.weight": torch.ones(4, 6), "same.bias": torch.ones(6), "broken.weight": torch.ones(4, 6),
        "ids": torch.arange(6), "empty.weight": torch.ones(0, 6), "scalar": torch.tensor(1.0),
        "cube.weight": torch.ones(4, 3, 2), "row.weight": torch.ones(1, 6),
    }  # fmt: skip
    finetuned = {key: tensor.clone() for key, tensor in pretrained.items()} | {"head.bias": torch.ones(2)}
    finetuned["broken.weight"][1, 2] = math.inf
    finetuned["ids"] += 1
    finetuned["scalar"] += 0.5
    finetuned["cube.weight"] += 0.1
    finetuned["row.weight"][0, 2] = 3
    cell = Cell(pretrained, finetuned, 0, torch.nn.Linear(1, 1))
    for budget in METHODS[name].budgets or (0.1, 1, 5):
        report, state = store_and_restore(METHODS[name], cell, budget, tmp_path / "file")
        assert {key: tensor.shape for key, tensor in state.items()} == {key: t.shape for key, t in finetuned.items()}
        for key in finetuned.keys() - {"cube.weight", "row.weight"}:
            assert torch.equal(state[key], finetuned[key]), key
        assert report.kept >= 4 * 6 + 6 + 1
        assert not {"same.weight", "same.bias", "empty.weight"} & load_parts(tmp_path / "file").keys(), "no update"


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (12, 12), (1, 7), (7, 1)])
@pytest.mark.parametrize("rank", [1, 3, 50])
def test_factors_against_numpy(shape, rank):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, right = factors(matrix, rank)
    used = min(rank, *shape)
    assert left.shape == (shape[0], used) and right.shape == (used, shape[1])
    expected = truncated(matrix.double().numpy(), rank)
    assert np.allclose((left.double() @ right.double()).numpy(), expected, atol=1e-5)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    assert np.allclose(spectrum(matrix).values.numpy(), values, rtol=1e-5)
    for factor in (left.T, right):
        assert np.allclose((factor @ factor.T).numpy(), np.diag(values[:used]), atol=1e-4), "square roots on both sides"


def test_factors_of_a_matrix_of_low_rank(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(50, 2, generator=generator) @ torch.randn(2, 20, generator=generator)
    for rank in (2, 5, 20):
        left, right = factors(matrix, rank)
        assert torch.allclose(left @ right, matrix, atol=1e-4) and left.isfinite().all() and right.isfinite().all()
    left, right = factors(torch.zeros(5, 4), 2)
    assert not (left @ right).any()
    blocks = spectrum(matrix)
    monkeypatch.setattr("ken.tensors.BLOCK", 60)
    assert torch.allclose(spectrum(matrix).values[:2], blocks.values[:2], rtol=1e-5), "in blocks of rows"


@pytest.mark.parametrize("rank", [1, 2, 4, 9, 100])
def test_svd_against_numpy(rank, tmp_path):
    cell = small_cell()
    report, state = store_and_restore(METHODS["svd"], cell, rank, tmp_path / "file")
    kept = 24
    for name, (rows, n) in {"embedding.weight": (25, 12), "layer.weight": (16, 24)}.items():
        entries = rank * (rows + n)
        expected = truncated(update(cell, name), rank if entries < rows * n else 100)
        largest = np.linalg.norm(update(cell, name), 2)
        assert np.allclose(restored_update(cell, state, name), expected, atol=HALF * largest)
        kept += entries if entries < rows * n else rows * n
    assert report.kept == kept
    stored = load_file(tmp_path / "file")
    if rank == 2:
        assert stored["left.F16"].numel() == 2 * (25 + 16) and stored["right.F16"].numel() == 2 * (12 + 24)
        assert stored["scales.F32"].numel() == 2 * 2 and stored["rows.U8"].numel() == 4
        largest = stored["left.F16"].view(-1, 2)[:25].abs().amax(dim=0)
        assert (largest == 1).all(), "every column uses the range of float16"


@given(
    st.lists(st.tuples(st.lists(st.floats(0, 9), max_size=5), st.integers(1, 9)), min_size=1, max_size=4),
    st.floats(-5, 90),
)
def test_allocation_against_a_loop(matrices, budget):
    values = {
        str(i): torch.tensor(sorted(one, reverse=True), dtype=torch.float64) for i, (one, _) in enumerate(matrices)
    }
    costs = {str(i): cost for i, (_, cost) in enumerate(matrices)}
    ranks, left = dict.fromkeys(values, 0), budget
    while True:
        open_ones = [
            (values[name][rank].item(), name)
            for name, rank in ranks.items()
            if rank < len(values[name]) and values[name][rank] and costs[name] <= left
        ]
        if not open_ones:
            break
        largest = max(value for value, _ in open_ones)
        name = min(name for value, name in open_ones if value == largest)
        ranks[name], left = ranks[name] + 1, left - costs[name]
    assert allocate(values, costs, budget) == ranks


@pytest.mark.parametrize("budget", [0.01, 0.1, 0.2, 0.5, 2])
def test_allocated_ranks_fill_the_budget(budget, tmp_path):
    cell = small_cell()
    _, state = store_and_restore(METHODS["svd-allocated"], cell, budget, tmp_path / "file")
    stored, dense = load_parts(tmp_path / "file"), sum(tensor.nbytes for tensor in cell.finetuned.values())
    others = 4 * 2 * 24 + 2 * 24 + 4  # head, vector and its unit
    size = sum(part.nbytes for parts in stored.values() for part in parts.values())
    assert others <= size <= max(others, budget * dense)
    ranks = {name: len(stored.get(name, {}).get("scales", ())) for name in ("embedding.weight", "layer.weight")}
    if budget < 0.5:
        assert size > budget * dense - rank_bytes(16, 24) or budget == 0.01
    else:
        assert ranks == {"embedding.weight": 8, "layer.weight": 9}, "as many as are smaller than the matrix"
    values = {name: np.linalg.svd(update(cell, name), compute_uv=False) for name in ranks}
    chosen = [value for name, rank in ranks.items() for value in values[name][:rank]]
    dropped = [values[name][rank] for name, rank in ranks.items() if rank < len(values[name])]
    if 0.1 <= budget < 0.5:
        assert min(chosen) >= sorted(dropped)[0], "the largest of all"
    for name, rank in ranks.items():
        assert np.allclose(restored_update(cell, state, name), truncated(update(cell, name), rank), atol=1e-3)


@pytest.mark.parametrize("budget", [0.05, 0.5, 1, 5, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_compeft_against_a_loop(budget, alpha, tmp_path):
    cell, method = small_cell(), METHODS["compeft"].configured({"alpha": alpha})
    report, state = store_and_restore(method, cell, budget, tmp_path / "file")
    kept = 24
    for name in ("embedding.weight", "layer.weight"):
        flat = update(cell, name).reshape(-1).tolist()
        rows, n = cell.pretrained[name].shape
        count = rows * kept_count(n, budget)
        largest = sorted(range(len(flat)), key=lambda i, flat=flat: (-abs(flat[i]), i))[:count]
        chosen = {i for i in largest if flat[i] != 0}
        size = alpha * statistics.pstdev(flat)
        expected = [math.copysign(size, value) if i in chosen else 0 for i, value in enumerate(flat)]
        assert restored_update(cell, state, name).reshape(-1) == pytest.approx(expected, abs=1e-6)
        kept += len(chosen)
    assert report.kept == kept


def test_options_of_compeft():
    method = METHODS["compeft"]
    assert method.alpha == 1 and method.configured({}) is method
    for wrong in ({"alpha": 0}, {"beta": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            method.configured(wrong)


def test_bitdelta_by_row_against_a_loop(tmp_path):
    cell = small_cell()
    cell.finetuned["layer.weight"][0, :3] = cell.pretrained["layer.weight"][0, :3]  # zero counts as negative
    report, state = store_and_restore(METHODS["bitdelta-rows"], cell, 1, tmp_path / "file")
    for name in ("embedding.weight", "layer.weight"):
        for row, stored in zip(update(cell, name), restored_update(cell, state, name), strict=True):
            size = sum(map(abs, row.tolist())) / len(row)
            expected = [0 if not row.any() else size if value > 0 else -size for value in row]
            assert stored == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert report.kept == 24 + 25 + 16
    stored = load_file(tmp_path / "file")
    assert stored["signs.U8"].numel() == math.ceil(25 * 12 / 8) + 16 * 24 / 8, "one bit an entry"


@pytest.mark.parametrize("name", ["bitdelta", "bitdelta-rows"])
def test_the_factor_of_bitdelta_is_the_best_on_validation(name, finetuned_cells, task_folder, tmp_path):
    settings = {"kept_shares": [0.5], "draws": 1, "batch_size": 16, "max_length": 24, "methods": {}}
    factors = [1, 4, 16, 64, 256]  # large, since this model has hardly learned
    finetuned = FinetunedCell(finetuned_cells["bert"], task_folder, settings)
    method = METHODS[name].configured({"factors": factors})
    cell, validation = finetuned.for_method(method, draw=0), finetuned.split("validation")
    scores, states = {}, {}
    for factor in factors:
        only, model = method.configured({"factors": [factor]}), finetuned.new_model()
        report, states[factor] = store_and_restore(only, cell, 1, tmp_path / f"{factor}")
        assert report.factor == ChosenFactor(factor), "nothing is evaluated for a single factor"
        model.load_state_dict(states[factor])
        predicted = predict(model, validation, 16)
        scores[factor] = f1_score(validation.labels, predicted, average="weighted")
    report, state = store_and_restore(method, cell, 1, tmp_path / "file")
    assert len(set(scores.values())) > 1, "the factor matters"
    assert report.factor.validation_weighted_f1 == pytest.approx(max(scores.values()), abs=1e-9)
    assert report.factor.value == min(f for f in factors if scores[f] == pytest.approx(max(scores.values()), abs=1e-9))
    assert all(torch.equal(state[key], tensor) for key, tensor in states[report.factor.value].items())


@pytest.mark.parametrize("name", ["bitdelta", "bitdelta-rows"])
def test_a_factor_scales_the_update_of_matrices_alone(name, tmp_path):
    cell = small_cell()
    (_, one), (_, more) = (
        store_and_restore(METHODS[name].configured({"factors": [factor]}), cell, 1, tmp_path / "file")
        for factor in (1, 1.75)
    )
    assert restored_update(cell, more, "layer.weight") == pytest.approx(
        1.75 * restored_update(cell, one, "layer.weight"), rel=1e-4, abs=1e-6
    )
    assert torch.equal(one["norm.bias"], more["norm.bias"]) and torch.equal(one["head.weight"], more["head.weight"])
    for wrong in ({"factors": [0]}, {"factors": []}, {"alpha": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            METHODS[name].configured(wrong)


def test_vector_counts_of_the_paper():
    assert vector_counts(4096, 4096, 1) == {8: 2, 3: 32, 2: 968}
    assert vector_counts(4096, 11008, 1)[2] > 1400
    assert vector_counts(16, 16, 0.01) == {8: 1}, "at least one"
    assert vector_counts(16, 16, 1) == {8: 1}
    assert vector_counts(3, 4, 8) == {8: 1, 3: 1} or sum(vector_counts(3, 4, 8).values()) <= 3


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_levels_are_the_nearest_ones(bits):
    vectors = torch.randn(5, 40, generator=torch.Generator().manual_seed(3))
    levels, steps = quantise(vectors, bits)
    for row, stored, step in zip(vectors.tolist(), levels.tolist(), steps.tolist(), strict=True):
        values = [step * (level - (2**bits - 1) / 2) for level in range(2**bits)]
        for value, level in zip(row, stored, strict=True):
            assert abs(values[level] - value) == pytest.approx(min(abs(v - value) for v in values), abs=1e-6)
    restored = steps[:, None] * (levels.float() - (2**bits - 1) / 2)
    noise = (restored - vectors).square().mean() / vectors.square().mean()
    assert noise < {2: 0.14, 3: 0.05, 8: 1e-4}[bits], "close to the best uniform levels of a normal distribution"


@pytest.mark.parametrize("budget", [0.25, 0.5, 1, 2])
def test_delta_come_against_a_loop(budget, tmp_path):
    cell = small_cell()
    report, state = store_and_restore(METHODS["delta-come"], cell, budget, tmp_path / "file")
    stored, kept = load_parts(tmp_path / "file"), 24
    for name in ("embedding.weight", "layer.weight"):
        changed = update(cell, name).any(axis=1)
        matrix = update(cell, name)[changed]
        rows, n = matrix.shape
        widths = [bits for bits, count in vector_counts(rows, n, budget).items() for _ in range(count)]
        assert sum(widths) * (rows + n) <= budget * rows * n or widths == [8]
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        expected = np.zeros_like(matrix)
        for index, bits in enumerate(widths):
            scales = np.sqrt(values[index])
            pair = [torch.from_numpy(v * scales).float()[None] for v in (left[:, index], right[index])]
            # The sign of a pair of vectors is arbitrary; the levels are symmetric up to entries between two levels.
            (a, s), (b, t) = (quantise(vector, bits) for vector in pair)
            middle = (2**bits - 1) / 2
            expected += np.outer((a.double() - middle).numpy() * s.item(), (b.double() - middle).numpy() * t.item())
        got = restored_update(cell, state, name)[changed]
        assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(matrix)
        kept += len(widths) * (rows + n)
        bytes_of_levels = sum(part.nbytes for kind, part in stored[name].items() if kind.startswith("levels"))
        assert bytes_of_levels <= sum(widths) * (rows + n) / 8 + 3
    assert report.kept == kept


@given(st.integers(1, 8), st.data())
def test_packed_numbers_against_text(bits, data):
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack_bits(np.array(numbers, np.uint8), bits)
    text = "".join(f"{number:0{bits}b}" for number in numbers)
    text += "0" * (-len(text) % 8)
    assert packed.tolist() == [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert unpack_bits(packed, bits, len(numbers)).tolist() == numbers


def test_parts_come_back_and_the_header_stays_small(tmp_path):
    generator = torch.Generator().manual_seed(0)
    stored = {
        f"layer.{i}.weight": {
            "left": torch.randn(3, 2, generator=generator).half(), "scale": torch.tensor(1.5),
            "empty": torch.zeros(0, 4),
            "whole": torch.arange(i + 1).to((torch.int64, torch.bfloat16)[i % 2]),
        }
        for i in range(200)
    }  # fmt: skip
    save_parts(tmp_path / "file", stored)
    again = load_parts(tmp_path / "file")
    assert list(again) == list(stored)
    for name, parts in stored.items():
        assert list(again[name]) == list(parts)
        for kind, part in parts.items():
            assert again[name][kind].dtype == part.dtype and torch.equal(again[name][kind], part)
    assert int.from_bytes((tmp_path / "file").read_bytes()[:8], "little") < 1000
    assert len(load_file(tmp_path / "file")["table"]) < 5000
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "no temporary file remains"


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1).filter(any))
def test_halves_are_close(values):
    vector = torch.tensor(values)
    error = (decode_halves(encode_halves(vector)) - vector).abs()
    assert (error <= HALF * vector.abs() + 2.0**-24 * vector.abs().max()).all()
