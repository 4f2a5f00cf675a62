"""The search for the smallest file: order, stopping, the model afterwards, and how often the promise holds."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import ken
from ken import certificate
from ken.coding.coder import Coding
from ken.suggestion import weighted_f1

CLASSES, WIDTH = 3, 24


@pytest.fixture
def models():
    """A base, a model fine-tuned to separate three classes, and a function that draws labelled examples."""
    generator = torch.Generator().manual_seed(0)
    base = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    for tensor in base.parameters():
        tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    centres = torch.randn(CLASSES, WIDTH, generator=generator)

    def draw(count: int, seed: int):
        drawn = torch.Generator().manual_seed(seed)
        labels = torch.randint(CLASSES, (count,), generator=drawn)
        return 1.5 * torch.randn(count, WIDTH, generator=drawn) + centres[labels], labels

    tuned = copy.deepcopy(base)
    rows, labels = draw(600, 1)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(tuned(rows), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base, tuned, draw


def predictor(rows):
    @torch.no_grad()
    def predict(model):
        return model(rows).argmax(1).numpy()

    return predict


def restore(base, tuned, trial, path):
    certificate.write_file(base, tuned, path, trial, "rescale")
    restored = copy.deepcopy(base)
    restored.load_state_dict(ken.Subnetwork.load(path).apply(base))
    return restored


def test_files_are_tried_from_large_to_small_until_one_fails(models):
    base, tuned, draw = models
    rows, labels = draw(400, 2)
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    found = certificate.smallest_file(base, tuned, predictor(rows), labels.numpy(), margin=0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in tuned.state_dict().items())
    assert found.finished and found.smallest in found.curve
    for coding in certificate.CODINGS:
        trials = [trial for trial in found.curve if trial.values == coding.values]
        assert [trial.share for trial in trials] == list(certificate.SHARES[: len(trials)])
        assert [trial.not_inferior for trial in trials[:-1]] == [True] * (len(trials) - 1)
        assert all(trial.not_inferior == (trial.loss_bound <= 0.05) for trial in trials)
    assert found.smallest.file_bytes == min(trial.file_bytes for trial in found.curve if trial.not_inferior)


def test_the_written_file_is_the_one_that_was_evaluated(models, tmp_path):
    base, tuned, draw = models
    rows, labels = draw(400, 2)
    found = certificate.smallest_file(base, tuned, predictor(rows), labels.numpy(), margin=0.05)
    restored = restore(base, tuned, found.smallest, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size == found.smallest.file_bytes
    assert weighted_f1(labels.numpy(), predictor(rows)(restored)) == found.smallest.weighted_f1


def test_what_cannot_be_shown_is_said(models):
    base, tuned, draw = models
    rows, labels = draw(400, 2)
    with pytest.raises(ValueError, match=r"400 validation examples cannot show at 95% confidence that at most 0\.001"):
        certificate.smallest_file(base, tuned, predictor(rows), labels.numpy(), margin=0.001)
    none = certificate.smallest_file(
        base, tuned, predictor(rows), labels.numpy(), margin=0.02, codings=[Coding("1bit", "seed")], shares=[0.02]
    )
    assert none.smallest is None and none.as_dict()["share"] is None and "no file shows" in none.text()
    stopped = certificate.smallest_file(base, tuned, predictor(rows), labels.numpy(), margin=0.05, seconds=0)
    assert not stopped.finished and not stopped.curve and "the time was over" in stopped.text()


def test_the_promise_holds_as_often_as_it_says(models, tmp_path):
    """Over many validation sets, the loss on a very large test set is above the margin in at most 5 % of cases."""
    base, tuned, draw = models
    rows, labels = draw(20_000, 3)
    full, broken, certified, cases = weighted_f1(labels.numpy(), predictor(rows)(tuned)), 0, 0, 20
    for case in range(cases):
        validation, wanted = draw(300, 100 + case)
        found = certificate.smallest_file(base, tuned, predictor(validation), wanted.numpy(), margin=0.03)
        if found.smallest is None:
            continue
        certified += 1
        restored = restore(base, tuned, found.smallest, tmp_path / "file")
        broken += full - weighted_f1(labels.numpy(), predictor(rows)(restored)) > 0.03
    # 5 % of 20 are 1; with probability 0.98 a binomial of that rate has at most 3.
    assert certified >= cases / 2 and broken <= 3


def test_shares_descend():
    assert list(certificate.SHARES) == sorted(certificate.SHARES, reverse=True)
    assert np.all(np.array(certificate.SHARES) < 1)
