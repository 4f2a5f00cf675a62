"""Kernel density compared with its definition and scikit-learn, and binned with exact densities."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ken import kde, selection
from tests.oracles import density as oracle
from tests.oracles import selection as select_oracle

SAMPLERS = {
    "normal": lambda shape: torch.randn(shape),
    "laplace": lambda shape: torch.distributions.Laplace(0.0, 1.0).sample(shape),
    "student": lambda shape: torch.distributions.StudentT(3.0).sample(shape),
}


def sample(kind: str, rows: int, n: int) -> torch.Tensor:
    torch.manual_seed(0)
    return SAMPLERS[kind]((rows, n)) * 0.04


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("method", kde.METHODS)
def test_agrees_with_the_definition_and_scikit_learn(kind, method):
    rows = sample(kind, 2, 150)
    densities = kde.density(rows, method)
    for row, values in zip(rows.tolist(), densities.tolist(), strict=True):
        np.testing.assert_allclose(values, oracle.density(row), rtol=1e-5)
        np.testing.assert_allclose(values, oracle.scikit_learn_density(row), rtol=1e-5)


def test_bandwidth_is_scotts_rule():
    rows = sample("normal", 4, 77)
    np.testing.assert_allclose(kde.scott_bandwidth(rows), [oracle.bandwidth(row) for row in rows.tolist()], rtol=1e-12)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("n", [64, 128, 500, 768, 2048, 8192])
def test_binned_keeps_the_entries_that_exact_keeps(kind, n):
    rows = sample(kind, max(1, min(300, 300_000 // n**2 * 8)), n)
    exact, binned = (
        kde.density(rows, method).argsort(dim=1, descending=True, stable=True) for method in ("exact", "binned")
    )
    differ = total = 0
    for share in (0.02, 0.05, 0.10, 0.25, 0.50, 0.75):
        k = max(1, round(share * n))
        kept = [torch.zeros(rows.shape).scatter_(1, order[:, :k], 1.0) for order in (exact, binned)]
        differ += int((kept[0] != kept[1]).sum())
        total += rows.numel()
    assert differ <= 1e-4 * total


@pytest.mark.parametrize("kind", SAMPLERS)
def test_entries_exchanged_between_binned_and_exact_have_almost_equal_densities(kind):
    rows = sample(kind, 64, 1024)
    exact, binned = kde.density(rows, "exact"), kde.density(rows, "binned")
    orders = [densities.argsort(dim=1, descending=True, stable=True) for densities in (exact, binned)]
    for k in (1, 20, 102, 512, 768, 1000, 1023):
        kept = [torch.zeros(rows.shape, dtype=torch.bool).scatter_(1, order[:, :k], True) for order in orders]
        for row in (kept[0] != kept[1]).any(1).nonzero()[:, 0].tolist():
            lost, won = (exact[row][a[row] & ~b[row]].sort().values for a, b in (kept, kept[::-1]))
            assert ((lost - won).abs() <= 1e-4 * lost).all()


@pytest.mark.slow
def test_the_fused_gpu_kernel_computes_the_same_sums():
    """The kernel is compiled as for a GPU and run on the CPU."""
    if not shutil.which("g++"):
        pytest.skip("torch compiles for the CPU with g++")
    compiled = torch.compile(kde.pair_sums, dynamic=True)
    for rows, q, n in ((7, 50, 90), (2, 33, 65)):
        points, entries = torch.randn(rows, q, dtype=torch.float64), torch.randn(rows, n, dtype=torch.float64)
        assert torch.allclose(compiled(points, entries), kde.pair_sums(points, entries), rtol=1e-12)


def test_auto_selects_the_faster_method():
    assert kde.resolved_method("auto", torch.empty(1, 768)) == "binned"
    assert kde.resolved_method("auto", torch.empty(1, 64)) == "exact"
    assert kde.resolved_method("exact", torch.empty(1, 768)) == "exact"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["auto", "exact"])
@pytest.mark.parametrize("n", [64, 768, 3072])
def test_gpu_and_cpu_rank_alike(n, method):
    rows = sample("normal", 40, n)
    on_gpu, expected = kde.density(rows.cuda(), method).cpu(), kde.density(rows, method)
    assert torch.equal(selection.rank_scores(on_gpu), selection.rank_scores(expected))


@pytest.mark.parametrize("outlier", [30.0, 1e3, 1e4])
def test_an_outlier_does_not_reduce_precision(outlier):
    row = sample("normal", 1, 400)
    row[0, 17] = outlier
    expected = torch.tensor(oracle.density(row[0].tolist()), dtype=torch.float64)
    densities = kde.density(row, "binned")[0]
    np.testing.assert_allclose(densities, expected, rtol=1e-5)
    k = 100
    same = set(densities.argsort(descending=True)[:k].tolist()) & set(expected.argsort(descending=True)[:k].tolist())
    assert len(same) == k


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-30])
@pytest.mark.parametrize("method", kde.METHODS)
def test_equal_entries_have_bandwidth_zero_and_equal_densities(value, method):
    rows = torch.full((2, 99), value)
    assert kde.scott_bandwidth(rows).tolist() == [0.0, 0.0]
    assert kde.density(rows, method).unique().numel() == 1


@pytest.mark.parametrize("method", kde.METHODS)
def test_equal_entries_with_a_given_bandwidth(method):
    rows = torch.cat([torch.full((1, 99), 0.5), sample("normal", 2, 99)])
    densities = kde.density(rows, method, bandwidth=0.1)
    expected = [oracle.density(row, 0.1) for row in rows.tolist()]
    np.testing.assert_allclose(densities, expected, rtol=1e-5)
    assert densities[0, 0] == pytest.approx(1 / (0.1 * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize("method", kde.METHODS)
def test_densities_equal_in_exact_arithmetic_are_equal(method):
    two_valued = torch.tensor([0.3, -0.1] * 60)[None]
    assert kde.density(two_valued, method).unique().numel() == 1
    symmetric = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0] * 9)[None]
    densities = kde.density(symmetric, method)
    assert torch.equal(densities, kde.density(-symmetric, method))
    repeated = sample("normal", 1, 100).repeat(1, 3)
    densities = kde.density(repeated, method)
    assert torch.equal(densities[:, :100], densities[:, 100:200]) and torch.equal(
        densities[:, :100], densities[:, 200:]
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=90),
    st.sampled_from(["exact", "binned"]),
)
def test_any_row_agrees_with_the_definition(row, method):
    h = oracle.bandwidth(row)
    if min(row) == max(row) or h < 1e-60:
        return
    densities = kde.density(torch.tensor([row], dtype=torch.float64), method)[0]
    np.testing.assert_allclose(densities, oracle.density(row), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_floating_dtypes_and_strides(dtype):
    rows = sample("normal", 70, 90).to(dtype)
    for view in (rows, rows.t(), rows[::2, ::3]):
        np.testing.assert_allclose(kde.density(view), kde.density(view.double().contiguous(), "exact"), rtol=1e-5)


def test_given_bandwidth_and_points():
    rows = sample("normal", 3, 120)
    for method in ("exact", "binned"):
        assert torch.allclose(kde.density(rows, method, bandwidth=0.02), torch.tensor(
            [oracle.density(row, 0.02) for row in rows.tolist()], dtype=torch.float64), rtol=1e-5)  # fmt: skip
        every_third = rows[:, ::3]
        assert torch.allclose(kde.density(rows, method, at=every_third), kde.density(rows, "exact")[:, ::3], rtol=1e-5)


def test_a_bandwidth_too_narrow_for_the_grid_is_computed_exactly():
    rows = sample("normal", 2, 80)
    densities = kde.density(rows, "binned", bandwidth=1e-7)
    assert torch.equal(densities, kde.density(rows, "exact", bandwidth=1e-7))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_rows(shape):
    assert kde.density(torch.zeros(shape)).shape == shape
    assert kde.scott_bandwidth(torch.zeros(shape)).shape == shape[:1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_with_their_position(bad):
    rows = torch.zeros(3, 4)
    rows[1, 2] = bad
    with pytest.raises(ValueError, match=r"1 entries NaN or infinite, the first .* in row 1, column 2"):
        kde.density(rows)
    with pytest.raises(ValueError, match="row 1, column 2"):
        kde.scott_bandwidth(rows)


def test_large_finite_entries_are_accepted():
    rows = torch.tensor([[3e38, 3e38, 2.9e38, -3e38]])
    assert kde.density(rows).isfinite().all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"unknown density method 'fast': expected one of auto, exact, binned"):
        kde.density(torch.zeros(2, 2), "fast")
    with pytest.raises(ValueError, match="must be 2-D and floating, found 1-D"):
        kde.density(torch.zeros(2))
    with pytest.raises(ValueError, match=r"found 2-D of torch.int64"):
        kde.density(torch.zeros(2, 2).long())


def sparse_row(n: int, share: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(1, n) * 0.04 * (torch.rand(1, n) >= share)


TIED = {
    "half zeros": sparse_row(600, 0.5),
    "nine tenths zeros": sparse_row(600, 0.9),
    "zeros and a second value": torch.cat([sparse_row(400, 0.4), torch.full((1, 200), 0.03)], 1),
    "sixteen values": (torch.randn(1, 600, generator=torch.Generator().manual_seed(1)) * 3).round().clamp(-8, 7),
    "zeros and a narrow bulk": torch.cat(
        [torch.zeros(1, 150), 1 + 1e-6 * sample("normal", 1, 300), sample("normal", 1, 150)], 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIED)
def test_rows_with_many_equal_entries_agree_with_the_definition(name):
    row = TIED[name]
    expected = torch.tensor(oracle.density(row[0].tolist()))
    found = kde.density(row, "binned")[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    scores = kde.density(row, "exact")[0].tolist()  # rounded, so that equal entries are ties in the oracle too
    for k in (6, 30, 150, 300, 450):
        kept = set(selection.rank_scores(found[None])[0].lt(k).nonzero()[:, 0].tolist())
        assert kept == select_oracle.highest(scores, k)


def test_rows_with_many_equal_entries_are_not_computed_exactly(monkeypatch):
    def exact(*_):
        raise AssertionError("all pairs")

    monkeypatch.setattr(kde, "_exact", exact)
    mixed = torch.cat([*(TIED[name] for name in list(TIED)[:4]), sample("normal", 3, 600)])
    together = kde.density(mixed, "binned")
    alone = torch.cat([kde.density(row[None], "binned") for row in mixed])
    assert torch.equal(together, alone), "a row does not depend on its neighbours"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TIED)
def test_a_gpu_keeps_what_the_cpu_keeps_of_equal_entries(name):
    found, expected = kde.density(TIED[name].cuda(), "binned").cpu(), kde.density(TIED[name], "binned")
    assert torch.equal(selection.rank_scores(found), selection.rank_scores(expected))
