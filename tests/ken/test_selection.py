"""Selections: exact counts, nesting, ties, and agreement with loops over single rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ken import grid, kde, selection
from tests.oracles import density
from tests.oracles import selection as oracle

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def tensors(draw):
    """Tensors of 0 to 4 dimensions and all dtypes, with few distinct values or many, also non-contiguous."""
    shape = draw(st.lists(st.integers(1, 9), min_size=0, max_size=4))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    tensor = torch.randn(shape)
    if draw(st.booleans()):
        tensor = (tensor * draw(st.sampled_from([0.0, 0.7, 2.0]))).round()
    tensor = tensor.to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if tensor.ndim > 1 and draw(st.booleans()) else tensor


budgets = st.one_of(st.integers(1, 40), st.floats(0.01, 1.0))


@settings(max_examples=80, deadline=None)
@given(tensors(), budgets, budgets)
def test_counts_are_exact_and_kept_sets_nested(tensor, k, other):
    ranks = selection.rank(tensor, tensor)
    assert ranks.shape == tensor.shape and ranks.dtype == torch.int32
    rows = selection.as_rows(ranks)
    n = rows.shape[1]
    assert torch.equal(rows.sort(1).values, torch.arange(n, dtype=torch.int32).expand(rows.shape))
    masks = [selection.select(tensor, tensor, budget) for budget in (k, other)]
    counts = [selection.kept_count(n, budget) for budget in (k, other)]
    for mask, count in zip(masks, counts, strict=True):
        assert mask.shape == tensor.shape and mask.dtype == torch.bool
        assert (selection.as_rows(mask).sum(1) == count).all()
        assert torch.equal(mask, selection.mask_from_ranks(ranks, count))
    smaller, larger = sorted(zip(counts, range(2), strict=True))
    assert not (masks[smaller[1]] & ~masks[larger[1]]).any()


SHAPES_OF_ROWS = {
    "normal": lambda n: torch.randn(3, n),
    "constant": lambda n: torch.full((3, n), 0.3),
    "two-valued": lambda n: torch.where(torch.rand(3, n) < 0.3, -1.0, 2.0),
    "heavy tails": lambda n: torch.distributions.Cauchy(0.0, 1.0).sample((3, n)),
    "huge": lambda n: torch.randn(3, n) * 1e30,
    "tiny": lambda n: torch.randn(3, n) * 1e-30,
    "duplicates": lambda n: torch.randn(3, n // 4 + 1).repeat(1, 4)[:, :n],
    "one outlier": lambda n: torch.cat([torch.randn(3, n - 1), torch.full((3, 1), 1e4)], dim=1),
}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from(sorted(SHAPES_OF_ROWS)), st.integers(1, 4096), st.floats(0.001, 1.0))
def test_kept_entries_of_long_rows_agree_with_the_exact_density(seed, kind, n, share):
    torch.manual_seed(seed)
    rows = SHAPES_OF_ROWS[kind](n)
    exact = kde.density(rows, "exact")
    for k in (1, share, n, n + 5):
        count = selection.kept_count(n, k)
        mask = selection.select(rows, torch.zeros_like(rows), k)
        assert (mask.sum(1) == count).all()
        for row, kept in zip(exact, mask, strict=True):
            if count < n:  # kept entries are at least as dense, up to the resolution of the grid
                assert row[kept].min() >= row[~kept].max() * (1 - 1e-4)


@pytest.mark.parametrize("n", [100, 768])
def test_the_ranking_of_a_row_does_not_depend_on_other_rows(n):
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(5, n), torch.randn(5, n) * 1e-3, torch.distributions.Cauchy(0, 1).sample((5, n))])
    together = selection.rank(rows, rows)
    assert torch.equal(together, torch.cat([selection.rank(row[None], row[None]) for row in rows]))


@settings(max_examples=40, deadline=None)
@given(tensors())
def test_ranks_do_not_depend_on_the_memory_layout(tensor):
    assert torch.equal(selection.rank(tensor, tensor), selection.rank(tensor.contiguous(), tensor.clone()))


def test_ken_keeps_the_densest_entries():
    torch.manual_seed(0)
    for n in (5, 60, 200):
        tensor = torch.randn(4, n)
        for k in (1, n // 4 + 1, n - 1, n, n + 5, 0.02, 0.5):
            mask = selection.select(tensor, torch.zeros_like(tensor), k)
            for row, kept in zip(tensor.tolist(), mask, strict=True):
                expected = oracle.highest(density.density(row), selection.kept_count(n, k))
                assert set(kept.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("row", [[1.0] * 9, [0.0, 1.0] * 5, [2.0] * 80, [-1.0, 1.0] * 50])
def test_ties_are_broken_by_position(row):
    tensor = torch.tensor(row)
    assert selection.rank(tensor, tensor).tolist() == list(range(len(row)))


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [(10, 1, 1), (10, 10, 10), (10, 15, 10), (10, 1.0, 10), (10, 0.25, 2), (10, 0.26, 3), (10, 0.01, 1), (1, 0.5, 1),
     (768, 0.02, 15), (768, 0.05, 38), (768, 0.1, 77), (768, 128, 128)],
)  # fmt: skip
def test_kept_count(n, k, expected):
    assert selection.kept_count(n, k) == expected


@pytest.mark.parametrize("k", [0, -1, 0.0, -0.5, 1.5, float("nan"), True, False, "5", None])
def test_a_wrong_budget_is_refused(k):
    with pytest.raises(ValueError, match="k must be an int of at least 1 or a float share"):
        selection.kept_count(10, k)


@pytest.mark.parametrize(
    ("shape", "rows"), [((), (1, 1)), ((5,), (1, 5)), ((3, 4), (3, 4)), ((2, 3, 4), (2, 12)), ((2, 3, 4, 5), (2, 60))]
)
def test_rows(shape, rows):
    assert selection.as_rows(torch.zeros(shape)).shape == rows


def test_scores_are_ranked_stably():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 1.0]])
    assert selection.rank_scores(scores).tolist() == [[3, 0, 1, 2, 4]]


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**20),
    st.integers(1, 24),
    st.integers(1, 26),
    st.sampled_from([0.0, 1.0, 3.0, 1000.0]),
    st.sampled_from(DTYPES),
)
def test_ken_grid_agrees_with_the_loop(seed, n, k, levels, dtype):
    """`levels` is 0 for distinct values; otherwise they lie on a coarse grid with many ties and equal distances."""
    torch.manual_seed(seed)
    tensor = torch.randn(3, n, dtype=torch.float64) * 0.1
    if levels:
        tensor = (tensor * 10 * levels).round() / levels
    tensor = tensor.to(dtype)
    mask = selection.select(tensor, tensor, k, "ken-grid")
    for row, kept in zip(tensor.tolist(), mask, strict=True):
        assert set(kept.nonzero()[:, 0].tolist()) == oracle.ken_grid(row, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(62, 20), (63, 62), (64, 1), (127, 90), (300, 290), (1000, 500)])
def test_ken_grid_takes_the_same_entries_in_the_way_of_a_gpu(monkeypatch, dtype, n, k):
    """Lengths around those of the words in which the CPU looks for free entries, and long runs of taken ones."""
    torch.manual_seed(n)
    rows = torch.cat([torch.randn(6, n) * 0.04, torch.randn(6, n).round(), torch.rand(6, n) ** 9]).to(dtype)
    monkeypatch.setitem(grid._BLOCK, "cpu", 5 * n)
    expected = grid._take_among_all(rows, *grid._points(rows, k))
    assert torch.equal(grid.grid_mask(rows, k), expected)
    assert torch.equal(grid.grid_mask(rows.T.contiguous().T, k), expected)


def test_ken_grid_on_longer_rows():
    torch.manual_seed(1)
    tensor = torch.randn(3, 300) * torch.tensor([0.03, 1.0, 30.0])[:, None]
    for k in (0.02, 0.5, 0.9):
        mask = selection.select(tensor, tensor, k, "ken-grid")
        for row, kept in zip(tensor.tolist(), mask, strict=True):
            assert set(kept.nonzero()[:, 0].tolist()) == oracle.ken_grid(row, selection.kept_count(300, k))


def test_ken_grid_has_no_ranking():
    with pytest.raises(ValueError, match="'ken-grid' depends on k"):
        selection.rank(torch.zeros(3), torch.zeros(3), "ken-grid")


def test_a_criterion_can_be_registered_only_once(monkeypatch):
    monkeypatch.setattr(selection, "CRITERIA", dict(selection.CRITERIA))

    @selection.criterion("smallest-update")
    def smallest_update(finetuned, pretrained, generator):
        return -(finetuned - pretrained).abs()

    finetuned, pretrained = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([1.5, 1.0, 2.0])
    assert selection.rank(finetuned, pretrained, "smallest-update").tolist() == [1, 2, 0]
    assert selection.rank(finetuned, pretrained, smallest_update).tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="registered twice"):
        selection.criterion("ken")(smallest_update)
    with pytest.raises(ValueError, match="unknown method 'smallest-updat': did you mean 'smallest-update'"):
        selection.rank(finetuned, pretrained, "smallest-updat")


def test_nan_scores_of_a_criterion_are_refused():
    with pytest.raises(ValueError, match="scores without NaN, found"):
        selection.rank(torch.zeros(2, 3), torch.zeros(2, 3), lambda finetuned, pretrained, generator: finetuned / 0)


def uniform(finetuned, pretrained, generator):
    return torch.rand(finetuned.shape, generator=generator)


def test_random_ranks_depend_on_seed_and_name_but_not_on_order():
    tensors = {name: torch.zeros(4, 50) for name in "abc"}
    ranks = selection.rank_tensors(tensors, tensors, uniform, seed=3)
    reversed_ranks = selection.rank_tensors(dict(reversed(tensors.items())), tensors, uniform, seed=3)
    assert all(torch.equal(ranks[name], reversed_ranks[name]) for name in tensors)
    assert not torch.equal(ranks["a"], ranks["b"])
    assert not torch.equal(ranks["a"], selection.rank_tensors(tensors, tensors, uniform, seed=4)["a"])


def test_only_shared_floating_point_tensors_are_ranked():
    finetuned = {"body": torch.randn(3, 4), "head": torch.randn(2), "ids": torch.arange(5)}
    ranks = selection.rank_tensors(finetuned, {"body": torch.randn(3, 4), "ids": torch.arange(5)})
    assert list(ranks) == ["body"]


@pytest.mark.parametrize("which", ["fine-tuned", "pre-trained"])
def test_tensors_that_cannot_be_ranked_are_named(which):
    good, bad = torch.zeros(2, 3), torch.zeros(2, 3)
    bad[1, 1] = float("nan")
    pair = (bad, good) if which == "fine-tuned" else (good, bad)
    with pytest.raises(ValueError, match=f"tensor 'w': {which} values must be finite"):
        selection.rank_tensors({"w": pair[0]}, {"w": pair[1]})
    with pytest.raises(ValueError, match=r"tensor 'w': .* same shape, found \(2, 3\) and \(3, 2\)"):
        selection.rank_tensors({"w": good}, {"w": good.t()})


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(-2, 2) | st.just(-math.inf), min_size=n, max_size=n), min_size=1)
    ),
    st.integers(1, 7),
)
def test_the_highest_scores_are_those_of_the_lowest_ranks(scores, k):
    scores = torch.tensor(scores, dtype=torch.float64)
    k = min(k, scores.shape[1])
    assert torch.equal(selection.highest(scores, k), selection.rank_scores(scores) < k)


@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([0.0, 1e-40, 1.0, 3e38]), st.data())
def test_the_kth_highest_score_of_a_long_row_on_a_gpu(seed, n, size, data):
    generator, k = torch.Generator().manual_seed(seed), data.draw(st.integers(1, n))
    scores = (torch.randn(2, n, generator=generator).clamp(-1, 1) * 4).round() * size / 4  # many are equal
    scores[scores < -size / 2] = -torch.inf
    expected = scores.sort(dim=1, descending=True).values[:, k - 1 : k]
    assert torch.equal(selection._kth_highest(scores, k), expected)
