"""The training loop with language models and pre-training: exact resumption and split batches."""

import numpy as np
import pytest
import torch

from ken.errors import UserError
from study.adapt_language_model import adapt
from study.models.architectures import ARCHITECTURES
from study.models.classifiers import load_tokenizer
from study.models.language_models import load_language_model
from study.models.pretraining import build
from study.models.tokenization import train_tokenizer
from study.pretrain import pretrain
from study.running import provenance
from study.training.chunks import read_chunks
from study.training.gradients import CPU, Gradients, mean_over_rows
from study.training.language_modelling import document_losses
from study.training.pretraining import blocks, objective_loss
from tests.study.training.test_loop import MemoryLimited, gradients_of

AXES = {"model": "bloom-560m", "seed": 0}
ADAPTATION = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "max_length": 12}
ADAPTATION_STEPS = 2 * 8  # chunks of each length in batches of 4
SIZE = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32}
PRETRAINING = {
    "tokens": 20 * 64, "learning_rate": 1e-3, "batch_size": 4, "max_length": 16, "mask_share": 0.2, "seed": 0,
    "vocabulary": 300,
}  # fmt: skip
PRETRAINING_STEPS = 20  # more than the text has batches, so that it is shuffled again
OBJECTIVES = [
    name if name in ("bert", "electra", "bloom") else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(ARCHITECTURES)
]


@pytest.fixture
def pretraining_batch(texts):
    """A function that returns a model of an architecture and a batch for it."""

    def make(architecture: str, rows: int):
        tokenizer = train_tokenizer(ARCHITECTURES[architecture].tokenizer, texts["train"], 300, 16)
        provenance.make_deterministic(0)
        model = build(architecture, SIZE, tokenizer, PRETRAINING)
        return model, model.batch(blocks(tokenizer, texts["train"], 16)[:rows])

    return make


def differing(first: dict, second: dict) -> set[str]:
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("rate", [0.01, 3.0])
@pytest.mark.parametrize("steps", [1, ADAPTATION_STEPS // 2, ADAPTATION_STEPS // 2 + 1, ADAPTATION_STEPS])
def test_a_killed_adaptation_resumes_to_the_same_bits(
    steps, rate, tmp_path, checkpoint, text_folder, killed_after, capsys
):
    settings = ADAPTATION | {"learning_rate": rate}
    whole = adapt(checkpoint, text_folder, AXES, settings, tmp_path / "whole")
    assert (whole["best_epoch"] == 0) == (rate == 3.0), "the unadapted model can be the best"
    folder = tmp_path / "killed" / "adapted"
    killed_after(steps, lambda: adapt(checkpoint, text_folder, AXES, settings, folder))
    assert [path.name for path in folder.parent.iterdir()] == ["adapted.training"]
    torch.rand(7)
    resumed = adapt(checkpoint, text_folder, AXES, settings, folder)
    assert differing(whole, resumed) <= {"seconds"} and whole["sha256"] == resumed["sha256"]
    assert f"resuming in epoch {1 + (steps > ADAPTATION_STEPS // 2)}" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["adapted"]


@pytest.mark.parametrize("architecture", OBJECTIVES)
@pytest.mark.parametrize("steps", [1, 15, PRETRAINING_STEPS])
def test_a_killed_pretraining_resumes_to_the_same_bits(steps, architecture, tmp_path, texts, killed_after, capsys):
    whole = pretrain(texts, architecture, SIZE, PRETRAINING, tmp_path / "whole")
    assert whole["corpus_tokens"] < whole["tokens"] == 64 * PRETRAINING_STEPS
    folder = tmp_path / "killed" / "model"
    killed_after(steps, lambda: pretrain(texts, architecture, SIZE, PRETRAINING, folder))
    assert [path.name for path in folder.parent.iterdir()] == ["model.training"]
    torch.rand(7)
    resumed = pretrain(texts, architecture, SIZE, PRETRAINING, folder)
    assert differing(whole, resumed) <= {"seconds"} and whole["sha256"] == resumed["sha256"]
    assert f"resuming in epoch 1 after {steps} steps of it" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_pretraining_of_another_text_is_not_resumed(tmp_path, texts, killed_after, capsys):
    killed_after(3, lambda: pretrain(texts, "bert", SIZE, PRETRAINING, tmp_path / "model"))
    other = texts | {"train": texts["train"][::-1]}
    fresh = pretrain(other, "bert", SIZE, PRETRAINING, tmp_path / "fresh")
    assert differing(fresh, pretrain(other, "bert", SIZE, PRETRAINING, tmp_path / "model")) <= {"seconds"}
    assert "starting over" in capsys.readouterr().out


def always_the_same(distribution) -> torch.Tensor:
    """Replaces ELECTRA's random sampling, which differs between the parts of a batch."""
    return torch.full(distribution.logits.shape[:1], 7, device=distribution.logits.device)


def check_parts(model, batch, loss, rows: int, parts: list[int]) -> None:
    """Assert that a batch split to fit this number of rows has the loss and gradients of the whole batch."""
    whole = Gradients(CPU, loss=loss).compute(model, batch, lambda: 0.0)
    expected = [gradient.clone() for gradient in gradients_of(model)]
    small = MemoryLimited(model, rows)
    assert Gradients(CPU, loss=loss).compute(small, batch, lambda: 0.0) == pytest.approx(whole, rel=1e-5)
    assert small.batch_sizes == parts
    for gradient, right in zip(gradients_of(model), expected, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("rows", "parts"), [(3, [7, 4, 2, 2, 2, 1]), (1, [7, 4, 2, 1, 1, 1, 1, 1, 1, 1])])
def test_chunks_too_large_for_memory_are_split_with_the_same_gradients(rows, parts, checkpoint, text_folder):
    chunks = read_chunks(text_folder, "train", load_tokenizer(checkpoint, 12), 12)
    batch = chunks.batch(next(iter(chunks.batches(list(range(len(chunks))), 7))))
    assert batch["input_ids"].shape == (7, 12)
    check_parts(load_language_model(checkpoint), batch, mean_over_rows, rows, parts)


@pytest.mark.parametrize("architecture", OBJECTIVES)
def test_blocks_too_large_for_memory_are_split_with_the_same_gradients(architecture, pretraining_batch, monkeypatch):
    monkeypatch.setattr(torch.distributions.Categorical, "sample", always_the_same)
    model, batch = pretraining_batch(architecture, 7)
    if "chosen" in batch:  # parts have different numbers of masked tokens, one has none
        batch["chosen"][6] = False
        batch["input_ids"][6] = batch["labels"][6]
    check_parts(model, batch, objective_loss, 1, [7, 4, 2, 1, 1, 1, 1, 1, 1, 1])


def test_a_chunk_or_block_too_large_for_memory_names_its_setting(checkpoint, text_folder, pretraining_batch):
    chunks = read_chunks(text_folder, "train", load_tokenizer(checkpoint, 12), 12)
    gradients = Gradients(CPU, length_setting="language_modelling.max_length")
    with pytest.raises(UserError, match=r"12 tokens does not fit .*: set language_modelling\.max_length lower"):
        gradients.compute(MemoryLimited(load_language_model(checkpoint), 0), chunks.batch([0, 2]), lambda: 0.0)
    model, batch = pretraining_batch("bert", 2)
    gradients = Gradients(CPU, loss=objective_loss, length_setting="pretraining.max_length")
    with pytest.raises(UserError, match=r"16 tokens does not fit .*: set pretraining\.max_length lower"):
        gradients.compute(MemoryLimited(model, 0), batch, lambda: 0.0)


def test_an_adaptation_continues_when_memory_runs_out(checkpoint, text_folder, tmp_path, monkeypatch, capsys):
    whole = adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "whole")
    monkeypatch.setattr("study.training.loop.Gradients._attempt", limited_to(2, Gradients._attempt))
    parts = adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "parts")
    assert "out of memory with 4 texts at once: continuing with 2" in capsys.readouterr().out
    for epoch, other in zip(whole["history"], parts["history"], strict=True):
        assert other["validation_perplexity"] == pytest.approx(epoch["validation_perplexity"], rel=1e-3)


def limited_to(rows: int, attempt):
    """`Gradients._attempt` on a device with memory for this number of rows."""
    return lambda self, model, batch, part, penalty: (
        attempt(self, model, batch, part, penalty) if part <= rows else None
    )


def test_document_losses_use_smaller_batches_when_memory_runs_out(checkpoint, text_folder):
    chunks = read_chunks(text_folder, "test", load_tokenizer(checkpoint, 7), 7)
    model = load_language_model(checkpoint)
    small = MemoryLimited(model, 3)
    losses, tokens = document_losses(small, chunks, 16)
    expected, counts = document_losses(model, chunks, 16)
    assert np.allclose(losses, expected, rtol=1e-6) and (tokens == counts).all()
    first = next(index for index, rows in enumerate(small.batch_sizes) if rows <= 3)
    assert first > 0 and max(small.batch_sizes[first:]) <= 3, "a size that was too large is not tried again"
    with pytest.raises(torch.OutOfMemoryError):
        document_losses(MemoryLimited(model, 0), chunks, 16)
