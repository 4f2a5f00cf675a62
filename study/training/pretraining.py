"""Pre-training of a language model of `study.models.pretraining` on blocks of text."""

import json

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from study.running.code import code_hash
from study.training.batches import BlockBatches
from study.training.gradients import Batch
from study.training.loop import OptimizerSettings, Workload, train
from study.training.resumption import Checkpoint

EVALUATION_BLOCKS, EVALUATION_BATCH = 500, 50


def blocks(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> torch.Tensor:
    """Join texts to one long row of tokens and cut it into (n, length) blocks that include the special tokens."""
    ids = np.concatenate(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]).astype(np.int64)
    around = tokenizer.num_special_tokens_to_add()
    inner = torch.from_numpy(ids[: len(ids) // (length - around) * (length - around)]).view(-1, length - around)
    if not around:
        return inner
    edge = torch.ones(len(inner), 1, dtype=torch.int64)
    return torch.cat([edge * tokenizer.cls_token_id, inner, edge * tokenizer.sep_token_id], dim=1)


def objective_loss(model: nn.Module, part: Batch, whole: Batch) -> torch.Tensor:
    """What the rows of `part` contribute to the model's loss on the batch `whole`."""
    return model(part, whole)


def pretrain_model(model: nn.Module, data: torch.Tensor, settings: dict, checkpoint: Checkpoint | None = None) -> int:
    """Train a model on `settings["tokens"]` tokens, in float32; prints progress.

    Order and masks are drawn from torch's global generator.

    Args:
        data: blocks of token ids, (blocks, length).
        settings: tokens, batch_size, learning_rate, seed.

    Returns:
        The number of tokens seen.
    """
    batch_size = settings["batch_size"]
    steps = max(1, settings["tokens"] // (batch_size * data.shape[1]))
    facts = json.dumps([code_hash(__name__, type(model).__module__), settings], sort_keys=True)
    workload = Workload(
        batches=BlockBatches(data, batch_size, steps, model.batch),
        epochs=1,
        steps=steps,
        identity=[facts, data.numpy().tobytes()],
        loss=objective_loss,
        length_setting="pretraining.max_length",
    )
    optimizer = OptimizerSettings(
        settings["learning_rate"], warmup_share=0.05, weight_decay=0.01, betas=(0.9, 0.98), precision="float32"
    )
    train(model, workload, optimizer, checkpoint=checkpoint)
    return steps * batch_size * data.shape[1]


@torch.no_grad()
def held_out_loss(model: nn.Module, data: torch.Tensor, seed: int) -> float:
    """Mean loss per batch of held-out blocks, (blocks, length), with masks drawn from `seed`."""
    torch.manual_seed(seed)
    model.eval()
    device = next(model.parameters()).device
    losses = []
    for ids in data[:EVALUATION_BLOCKS].split(EVALUATION_BATCH):
        batch = {name: tensor.to(device) for name, tensor in model.batch(ids).items()}
        losses.append(model(batch, batch).item())
    return sum(losses) / len(losses)
