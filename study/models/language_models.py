"""Causal language models on running text: loading, chunks of tokens, the loss of every document, training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from baselines.training import Fitted, Recipe, Training
from ken.errors import UserError
from study.models.classifiers import with_fused_gelu
from study.training.gradients import linear_schedule

LEAST = 2  # tokens of a chunk: the first is not predicted


@dataclass(frozen=True)
class Chunks:
    """Text cut into chunks of tokens, none over the end of a document.

    Attributes:
        ids: token ids of each chunk.
        documents: the document of each chunk, (chunks,) from 0. names: of the documents.
    """

    ids: list[list[int]]
    documents: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, places: list[int]) -> dict[str, torch.Tensor]:
        """input_ids and labels (rows, tokens) of chunks of one length."""
        ids = torch.tensor([self.ids[place] for place in places])
        return {"input_ids": ids, "labels": ids}

    def batches(self, places: list[int], size: int) -> Iterator[list[int]]:
        """The same places in batches of chunks of one length, the order otherwise kept, long ones first."""
        for _, own in groupby(sorted(places, key=lambda place: -len(self.ids[place])), lambda p: len(self.ids[p])):
            found = list(own)
            yield from (found[start : start + size] for start in range(0, len(found), size))


def read_chunks(folder: Path, split: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Chunks:
    """A part of a text (`study.text`) in chunks of at most `length` tokens.

    Raises:
        UserError: it is too short for a chunk.
    """
    documents = pd.read_parquet(folder / f"{split}.parquet")
    encoded = tokenizer(list(documents["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    ids, owners = [], []
    for document, tokens in enumerate(encoded):
        parts = [tokens[start : start + length] for start in range(0, len(tokens), length)]
        ids += [part for part in parts if len(part) >= LEAST]
        owners += [document for part in parts if len(part) >= LEAST]
    if not ids:
        raise UserError(f"{folder} has no text of {LEAST} tokens in its part {split}: give a longer text.")
    return Chunks(ids, np.array(owners), list(documents["document"]))


def load_language_model(folder: Path) -> nn.Module:
    """Causal language model in float32 from a checkpoint folder; a missing output layer is the input embeddings'.

    Raises:
        UserError: not a checkpoint of a causal language model, or damaged.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} is not a causal language model in safetensors: {reason}") from error
    missing = set(info["missing_keys"]) & dict(model.named_parameters()).keys()
    if missing or info["mismatched_keys"]:
        name = sorted(missing or map(str, info["mismatched_keys"]))[0]
        raise UserError(f"{folder} lacks {name}, which its causal language model needs: check its config.json.")
    return with_fused_gelu(model).eval()


def empty_language_model(folder: Path) -> nn.Module:
    """Language model of a checkpoint folder, to be filled with a restored state."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return with_fused_gelu(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()


def body_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name; of tied ones, the first name alone."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_body(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """Put the parameters of a state into a model; tied ones need one name alone.

    Raises:
        ValueError: the state lacks a parameter.
    """
    missing = [name for name in body_of(model) if name not in state]
    if missing:
        raise ValueError(f"the state lacks the parameter {missing[0]!r}: restore it from the file of this model.")
    model.load_state_dict(state, strict=False)
    return model


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers but the output layer, which may be the embeddings."""
    output = model.get_output_embeddings()
    modules = model.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Linear) and module is not output]


@torch.inference_mode()
def document_losses(model: nn.Module, chunks: Chunks, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats, summed over the predicted tokens of each document, and their number, both (documents,)."""
    model.eval()
    device = next(model.parameters()).device
    losses, tokens = np.zeros(len(chunks.names)), np.zeros(len(chunks.names), dtype=np.int64)
    for places in chunks.batches(list(range(len(chunks))), batch_size):
        ids = chunks.batch(places)["input_ids"].to(device)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1).float()
        found = functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).sum(dim=1)
        np.add.at(losses, chunks.documents[places], found.double().cpu().numpy())
        np.add.at(tokens, chunks.documents[places], ids.shape[1] - 1)
    return losses, tokens


def perplexity(losses: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean cross-entropy of a token; infinite where that is too large for a number."""
    with np.errstate(over="ignore"):
        return float(np.exp(losses.sum() / tokens.sum()))


def train(model: nn.Module, chunks: Chunks, validation: Chunks, settings: dict, seed: int) -> dict[str, object]:
    """Train all of a language model and keep its best epoch on validation; prints progress.

    Args:
        settings: epochs, batch_size, learning_rate. seed: of the order of the chunks.

    Returns:
        best_epoch (from 1; 0 is the model as it came) and history: loss and validation_perplexity of each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = settings["epochs"] * len(list(chunks.batches(list(range(len(chunks))), settings["batch_size"])))
    optimizer = torch.optim.AdamW(model.parameters(), settings["learning_rate"], weight_decay=0.01, fused=True)
    schedule = linear_schedule(optimizer, steps, warmup_share=0.1)
    best = (perplexity(*document_losses(model, validation, 32)), 0, _copied(model))
    history, start = [{"epoch": 0, "loss": None, "validation_perplexity": best[0]}], time.monotonic()
    for epoch in range(1, settings["epochs"] + 1):
        model.train()
        losses = []
        for places in shuffled(chunks, settings["batch_size"], generator):
            loss = model(**chunks.batch(places)).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        found = perplexity(*document_losses(model, validation, 32))
        if found < best[0]:
            best = (found, epoch, _copied(model))
        history.append({"epoch": epoch, "loss": sum(losses) / len(losses), "validation_perplexity": found})
        left = (time.monotonic() - start) / epoch * (settings["epochs"] - epoch)
        print(f"epoch {epoch}: validation perplexity {found:.1f}, about {left:.0f} s left", flush=True)
    load_body(model, best[2])
    return {"best_epoch": best[1], "history": history}


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in body_of(model).items()}


def shuffled(chunks: Chunks, size: int, generator: torch.Generator) -> list[list[int]]:
    """Batches of chunks of one length, dealt out and ordered at random."""
    batches = list(chunks.batches(torch.randperm(len(chunks), generator=generator).tolist(), size))
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


class Calibration(Training):
    """What methods that need data see of a language model: chunks of its training text.

    Args:
        folder: checkpoint folder. chunks: of the training text. places: chunks to show, in this order.
    """

    rate_factors = ()

    def __init__(self, folder: Path, chunks: Chunks, places: list[int]):
        self.folder, self.chunks, self.places = folder, chunks, places

    def initial_model(self) -> nn.Module:
        return load_language_model(self.folder)

    def fit(self, model: nn.Module, recipe: Recipe, rate_factor: float) -> Fitted:
        raise NotImplementedError("methods that train do so on a task with labels: take the method out.")

    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        for places in self.chunks.batches(self.places, batch_size):
            yield self.chunks.batch(places)


def calibration_places(chunks: Chunks, number: int, seed: int) -> list[int]:
    """Chunks drawn without replacement, as many as there are at most."""
    return torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed))[:number].tolist()
