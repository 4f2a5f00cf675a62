"""Pre-training: word vectors against a dense computation, masking, blocks, and deterministic runs."""

import json

import numpy as np
import pytest
import torch

from ken.errors import UserError
from study import corpus
from study.models import initial_embeddings
from study.models.architectures import ARCHITECTURES
from study.models.classifiers import load_classifier, load_tokenizer
from study.models.pretraining import Masking
from study.models.tokenization import train_tokenizer
from study.pretrain import pretrain
from study.training.pretraining import blocks
from tests.conftest import MODELS, make_texts

SETTINGS = {"tokens": 3000, "learning_rate": 1e-3, "batch_size": 4, "max_length": 16, "mask_share": 0.2, "seed": 0}


def dense_ppmi(ids, size):
    """PPMI by plain loops over pairs, weighted by one over their distance."""
    counts = np.zeros((size, size))
    for i in range(len(ids)):
        for j in range(len(ids)):
            if 0 < abs(i - j) <= initial_embeddings.WINDOW:
                counts[ids[i], ids[j]] += 1 / abs(i - j)
    totals = counts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(counts * totals.sum() / np.outer(totals, totals))
    return np.where(counts > 0, np.maximum(pmi, 0), 0)


def test_ppmi_embeddings_are_the_truncated_svd_of_the_dense_matrix():
    ids = np.random.default_rng(0).integers(0, 12, 400)
    vectors = initial_embeddings.ppmi_embeddings(ids, 14, 5).numpy()  # two token types never occur
    left, singular, _ = np.linalg.svd(dense_ppmi(ids, 14))
    expected = left[:, :5] * np.sqrt(singular[:5])
    expected[:12] -= expected[:12].mean(axis=0)
    expected[:12] /= np.linalg.norm(expected[:12], axis=1, keepdims=True)
    # Signs and order of singular vectors are free: compare all inner products instead.
    assert np.allclose(vectors[:12] @ vectors[:12].T, expected[:12] @ expected[:12].T, atol=1e-5)
    assert (vectors[12:] == 0).all()


def test_sinusoids_have_length_one_and_differ():
    positions = initial_embeddings.sinusoids(20, 8)
    assert torch.allclose(positions.norm(dim=1), torch.ones(20), atol=1e-6)
    assert torch.pdist(positions).min() > 1e-3


@pytest.mark.parametrize("whole_words", [False, True])
def test_masking_rates_and_whole_words(whole_words):
    tokenizer = train_tokenizer("wordpiece", list(corpus.extract("mpmath")["sentence"]), 300, 32)
    masking = Masking(tokenizer, 0.2, whole_words)
    torch.manual_seed(0)
    texts = list(corpus.extract("mpmath")["sentence"])
    ids = blocks(tokenizer, texts, 32)
    masked, chosen = masking(ids)
    inner = ~torch.isin(ids, masking.special)
    assert not chosen[~inner].any()
    assert abs(chosen[inner].float().mean() - 0.2) < 0.02
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert abs((masked[chosen] == tokenizer.mask_token_id).float().mean() - 0.8) < 0.03
    if whole_words:
        continues = masking.continues[ids][:, 1:] & inner[:, :-1]
        assert torch.equal(chosen[:, 1:][continues], chosen[:, :-1][continues])


def test_blocks_contain_the_text_in_order():
    tokenizer = train_tokenizer("wordpiece", make_texts(), 300, 16)
    cut = blocks(tokenizer, make_texts(), 16)
    plain = [token for text in make_texts() for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert cut[:, 1:-1].flatten().tolist() == plain[: cut[:, 1:-1].numel()]
    assert (cut[:, 0] == tokenizer.cls_token_id).all() and (cut[:, -1] == tokenizer.sep_token_id).all()


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in ("bert", "bloom") else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(ARCHITECTURES)
    ],
)
def test_pretraining_is_deterministic_and_lowers_the_loss(architecture, tmp_path, capsys):
    size = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32}
    sentences = list(corpus.extract("mpmath")["sentence"])
    texts = {"train": sentences[:300], "validation": sentences[300:400]}
    settings = SETTINGS | {"vocabulary": 300}
    first = pretrain(texts, architecture, size, settings | {"tokens": 20_000}, tmp_path / "a")
    second = pretrain(texts, architecture, size, settings | {"tokens": 20_000}, tmp_path / "b")
    assert first["sha256"] == second["sha256"]
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["sha256"] == first["sha256"]
    untrained = pretrain(texts, architecture, size, settings | {"tokens": 64}, tmp_path / "c")
    assert first["validation_loss"] < untrained["validation_loss"]
    assert "left" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "a", 16)
    model, head = load_classifier(tmp_path / "a", ["x", "y"], tokenizer.pad_token_id)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert head and all(any(part in name for part in ("classifier", "score", "pooler")) for name in head)


def test_every_model_of_the_paper_has_an_architecture():
    assert set(MODELS.values()) == set(ARCHITECTURES)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, checkpoints):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes((checkpoints["bert"] / name).read_bytes())
    (folder / "model.safetensors").write_bytes((checkpoints["distilbert"] / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not hold the body of a bert model"):
        load_classifier(folder, ["x", "y"], 0)
