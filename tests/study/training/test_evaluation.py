"""Predictions of many models on one set of texts: batches, memory, precision."""

import numpy as np
import pytest
import torch
from torch import nn

from study.models.classifiers import empty_classifier
from study.training import memory
from study.training.examples import Examples, Predictor
from study.training.precision import computing_in, evaluation_precision


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 60, size).tolist() for size in rng.integers(1, 24, 61)]
    return Examples(rows, np.arange(61), pad=0)


@pytest.fixture(scope="module")
def model(finetuned_cells):
    torch.manual_seed(0)
    network = empty_classifier(finetuned_cells["bert"])
    nn.init.normal_(network.classifier.weight)
    return network


def one_by_one(model, texts):
    with torch.inference_mode():
        return [int(model(input_ids=torch.tensor([row])).logits.argmax()) for row in texts.ids]


def recorded_batches(model, texts, monkeypatch, tokens=None, fails=lambda rows, width: False, batch_size=8):
    """Predictions, and shape of every batch that was evaluated; `fails` says which shapes run out of memory."""
    shapes = []
    forward = type(model).forward

    def watched(self, input_ids, **others):
        if fails(*input_ids.shape):
            raise torch.OutOfMemoryError
        shapes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **others)

    monkeypatch.setattr(type(model), "forward", watched)
    monkeypatch.setattr(memory, "tokens_at_once", lambda *_: tokens)
    return Predictor(texts, batch_size)(model).tolist(), shapes


def test_batches_of_tokens_hold_as_many_texts_as_fit(model, texts, monkeypatch):
    expected = one_by_one(model, texts)
    predicted, shapes = recorded_batches(model, texts, monkeypatch, tokens=64)
    assert predicted == expected
    assert sum(rows for rows, _ in shapes) == 61 and all(rows * width <= 64 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True) and shapes[-1][0] > shapes[0][0]
    assert all((rows + 1) * width > 64 for rows, width in shapes[:-1]), "no batch has room for one more"


def test_a_limit_below_one_text_still_evaluates_each(model, texts, monkeypatch):
    predicted, shapes = recorded_batches(model, texts, monkeypatch, tokens=1)
    assert len(predicted) == 61 and max(rows * width for rows, width in shapes) <= max(map(len, texts.ids))


@pytest.mark.parametrize("tokens", [None, 256])
def test_batches_are_halved_when_memory_runs_out(model, texts, monkeypatch, tokens):
    expected = one_by_one(model, texts)
    fails = lambda rows, width: rows * width > 50  # noqa: E731
    predicted, shapes = recorded_batches(model, texts, monkeypatch, tokens, fails, batch_size=32)
    assert predicted == expected and sum(rows for rows, _ in shapes) == 61
    with pytest.raises(torch.OutOfMemoryError):
        recorded_batches(model, texts, monkeypatch, tokens, lambda rows, width: True)


def test_texts_are_padded_once_for_all_models(model, texts, monkeypatch):
    made = []
    pad = Examples.batch
    monkeypatch.setattr(Examples, "batch", lambda self, rows: made.append(len(rows)) or pad(self, rows))
    predictor = Predictor(texts, 8)
    for label, sign in enumerate((1, -1)):
        with torch.no_grad():
            model.classifier.bias.copy_(sign * torch.tensor([100.0, -100.0]))
        assert set(predictor(model)) == {label} and sum(made) == 61
    nn.init.zeros_(model.classifier.bias)
    assert len(Predictor(texts.first(0), 8)(model)) == 0


def test_the_number_of_tokens_follows_from_the_free_memory():
    assert memory.fitting_tokens(1000, 1e6 / memory.USED_SHARE) == 512
    assert memory.fitting_tokens(1000, 1e12) == memory.MOST_TOKENS and memory.fitting_tokens(1e9, 1) == 1
    assert memory.tokens_at_once(lambda: pytest.fail("not on a CPU"), 10, torch.device("cpu")) is None


def test_matrix_products_are_computed_in_the_precision(texts):
    linear, x = nn.Linear(64, 8, bias=False), torch.randn(16, 64)
    exact = linear(x)
    before = torch.backends.cuda.matmul.fp32_precision
    with computing_in("bfloat16", torch.device("cpu")):
        rounded = linear(x)
    assert rounded.dtype == torch.bfloat16 and 0 < (rounded.float() - exact).abs().max() < 0.05
    with computing_in("tf32", torch.device("cpu")):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32" and torch.equal(linear(x), exact)
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert evaluation_precision("bfloat16", "deberta") == "tf32" and evaluation_precision("bfloat16", "bert") != "tf32"
