"""Suggesting k: the bootstrap and the bisection against plain loops, and an unchanged model afterwards."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from ken.suggestion import checked_confidence, loss_bound, suggest, weighted_f1


@pytest.mark.parametrize("classes", [2, 5])
def test_weighted_f1_is_that_of_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    for _ in range(20):
        labels, predictions = rng.integers(0, classes, (2, 30))
        assert weighted_f1(labels, predictions) == pytest.approx(f1_score(labels, predictions, average="weighted"))


def test_the_loss_bound_equals_a_plain_paired_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    full = np.where(rng.random(300) < 0.9, labels, rng.integers(0, 3, 300))
    pruned = np.where(rng.random(300) < 0.85, full, rng.integers(0, 3, 300))
    lost = []
    for _ in range(800):
        rows = rng.integers(0, 300, 300)
        scores = [f1_score(labels[rows], p[rows], average="weighted") for p in (full, pruned)]
        lost.append(scores[0] - scores[1])
    for confidence in (0.8, 0.95):
        assert loss_bound(labels, full, pruned, confidence) == pytest.approx(np.quantile(lost, confidence), abs=0.005)
    assert loss_bound(labels, full, full, 0.95) == 0


def problem():
    """A linear classifier whose labels are those of its fine-tuned weights."""
    torch.manual_seed(0)
    model = nn.Linear(100, 2, bias=False)
    base = {"weight": torch.zeros(2, 100)}
    with torch.no_grad():
        model.weight[0] = 0
        model.weight[1] = torch.randn(100)
    inputs = torch.randn(400, 100)
    labels = (inputs @ model.weight[1] > 0).long().numpy()
    return base, model, lambda m: m(inputs).argmax(1).numpy(), labels


def test_a_model_that_has_not_learned_is_named():
    base, model, predict, labels = problem()
    settings = {"margin": 0.1, "resolution": 0.5}
    learned = suggest(base, model, predict, labels, **settings)
    assert not learned.notes and "note:" not in learned.text()
    assert learned.majority_weighted_f1 == weighted_f1(labels, np.full(400, np.bincount(labels).argmax()))
    unrelated = np.random.default_rng(0).permutation(labels)
    constant = suggest(base, model, lambda model: np.zeros(400, dtype=int), unrelated, **settings)
    assert "note: the fine-tuned model has not learned this task" in constant.text() and constant.as_dict()["notes"]
    one_class = suggest(base, model, predict, np.zeros(400, dtype=int), **settings)
    assert "validation examples are of one class" in one_class.text()


@pytest.mark.parametrize("rule", ["reset", "rescale"])
def test_bisection_finds_the_smallest_sufficient_share(rule):
    base, model, predict, labels = problem()
    before = model.weight.detach().clone()
    suggestion = suggest(base, model, predict, labels, margin=0.1, resolution=0.02, rule=rule)
    assert torch.equal(model.weight, before), "the model is unchanged"
    points = {round(point.share, 2): point for point in suggestion.curve}
    assert points[round(suggestion.share, 2)].not_inferior
    assert not points[round(suggestion.share - 0.02, 2)].not_inferior
    for point in suggestion.curve:
        assert point.not_inferior == (point.loss_bound <= 0.1)
        assert point.loss == pytest.approx(suggestion.full_weighted_f1 - point.weighted_f1)
    assert len(suggestion.curve) <= 7, "bisection, not a scan"
    assert f"keep {suggestion.share:.2%} of each row" in suggestion.text()


def test_tied_tensors_are_pruned_as_one():
    base, model, predict, labels = problem()
    model.alias = nn.Linear(100, 2, bias=False)
    model.alias.weight = model.weight
    tied = suggest(base, model, predict, labels, margin=0.1, resolution=0.02)
    plain = suggest(*problem(), margin=0.1, resolution=0.02)
    assert tied == plain and model.alias.weight is model.weight


def test_everything_is_kept_if_no_smaller_share_suffices():
    base, model, predict, labels = problem()
    suggestion = suggest(base, model, predict, labels, margin=1e-9, resolution=0.25, allow_few=True)
    assert suggestion.share == 1 and suggestion.curve[-1].loss == 0


def test_a_failed_search_restores_the_model():
    base, model, predict, labels = problem()
    before, calls = model.weight.detach().clone(), []

    def breaks(m):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return predict(m)

    with pytest.raises(RuntimeError):
        suggest(base, model, breaks, labels, resolution=0.05)
    assert torch.equal(model.weight, before)
    suggest(base, model, predict, labels, resolution=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 0}, "margin must lie between 0 and 1"),
        ({"confidence": 0.4}, "confidence must lie between"),
        ({"resolution": 1}, "resolution must lie"),
        ({"method": "ken-grid"}, "'ken-grid' depends on k"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    base, model, predict, labels = problem()
    with pytest.raises(ValueError, match=message):
        suggest(base, model, predict, labels, **change)


def test_too_few_examples_are_refused_unless_allowed():
    base, model, predict, labels = problem()
    with pytest.raises(ValueError, match=r"20 validation examples cannot show .* give at least 29, or a larger margin"):
        suggest(base, model, lambda m: predict(m)[:20], labels[:20], margin=0.1)
    suggest(base, model, lambda m: predict(m)[:20], labels[:20], margin=0.1, resolution=0.5, allow_few=True)
    with pytest.raises(ValueError, match="0 validation examples"):
        suggest(base, model, lambda m: predict(m)[:0], labels[:0], margin=0.1)


def test_several_searches_share_the_confidence_and_need_more_examples():
    assert checked_confidence(0.01, 0.95, examples=299) == pytest.approx(0.95)
    assert checked_confidence(0.01, 0.95, examples=368, searches=2) == pytest.approx(0.975)
    with pytest.raises(ValueError, match=r"299 validation examples cannot show at 95% .* give at least 368"):
        checked_confidence(0.01, 0.95, examples=299, searches=2)
    assert 0.99**368 <= 0.025 < 0.99**367  # that none of the examples shows a loss of 1 %


def test_rows_of_an_extended_vocabulary_are_kept_at_every_share():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.embed = nn.Embedding(22, 10)
    base = {"embed.weight": model.embed.weight[:20].detach() + 0.1}
    before, seen = model.embed.weight.detach().clone(), []

    def predict(m):
        seen.append(m.embed.weight.detach().clone())
        return np.zeros(40, dtype=int)

    suggest(base, model, predict, np.zeros(40, dtype=int), margin=0.1, resolution=0.1)
    assert len(seen) > 2 and all(torch.equal(weight[20:], before[20:]) for weight in seen)
    assert not torch.equal(seen[-1], before) and torch.equal(model.embed.weight, before)
