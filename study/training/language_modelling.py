"""Causal language models on running text: the loss of every document, perplexity, training."""

import json

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from study.running.code import code_hash
from study.training.batches import ShuffledBatches
from study.training.chunks import Chunks, shuffled_chunk_batches
from study.training.loop import Objective, OptimizerSettings, Workload, train
from study.training.memory import in_batches
from study.training.resumption import Checkpoint

EVALUATION_BATCH = 32  # chunks


@torch.inference_mode()
def document_losses(model: nn.Module, chunks: Chunks, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats, summed over the predicted tokens of each document, and their number, both (documents,)."""
    model.eval()
    device = next(model.parameters()).device
    losses = np.zeros(len(chunks.names))

    def add(indices: list[int]) -> None:
        ids = chunks.batch(indices)["input_ids"].to(device)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1).float()
        of_tokens = functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        of_chunks = of_tokens.view(len(ids), -1).sum(dim=1).double().cpu().numpy()
        np.add.at(losses, chunks.documents[indices], of_chunks)

    for group in chunks.by_length(list(range(len(chunks)))):
        batch_size = in_batches(group, batch_size, add)
    return losses, chunks.predicted_tokens()


def perplexity(losses: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean cross-entropy of a token; infinite if that overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(losses.sum() / tokens.sum()))


def train_language_model(
    model: nn.Module,
    train_set: Chunks,
    validation_set: Chunks,
    settings: dict,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> dict[str, object]:
    """Train all parameters of a language model and keep the epoch of best validation perplexity; see `loop.train`.

    Args:
        settings: epochs, batch_size, learning_rate.
        seed: of the order of the chunks.

    Returns:
        best_epoch (from 1; 0 is the model before training), validation_perplexity, precision and history: loss and
        validation_perplexity of each epoch.
    """
    batch_size = settings["batch_size"]
    facts = json.dumps([code_hash(__name__), settings, seed], sort_keys=True)
    workload = Workload(
        batches=ShuffledBatches(lambda generator: shuffled_chunk_batches(train_set, batch_size, generator), seed),
        epochs=settings["epochs"],
        steps=sum(1 for _ in train_set.batches(list(range(len(train_set))), batch_size)),
        identity=[facts, *train_set.content(), *validation_set.content()],
        objective=Objective(
            "validation_perplexity",
            lambda candidate: perplexity(*document_losses(candidate, validation_set, EVALUATION_BATCH)),
            higher_is_better=False,
            includes_start=True,
        ),
        length_setting="language_modelling.max_length",
    )
    optimizer = OptimizerSettings(settings["learning_rate"], warmup_share=0.1, weight_decay=0.01)
    return train(model, workload, optimizer, checkpoint=checkpoint)[1]
