"""Pre-train one small model from nothing: tokenizer, body, its architecture's own language-modelling objective.

Small masked language models sit on the unigram plateau for a long time. Two things shorten that: input embeddings that
start as a truncated SVD of the PPMI co-occurrence matrix of the training text (Levy and Goldberg 2014), and sinusoidal
position embeddings (Vaswani et al. 2017). The language-modelling heads are ours and are thrown away; only the body,
which fine-tuning starts from, is saved, in half precision.
"""

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import svds
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerFast

from study import corpus
from study.definition.step import parse_step
from study.models.architectures import ARCHITECTURES
from study.models.tokenization import train_tokenizer
from study.running import files, provenance
from study.running.workflow import run
from study.training.gradients import linear_schedule

WINDOW = 5  # tokens on each side that count as co-occurring
EVALUATION_BLOCKS = 500
GENERATOR_SHARE = 0.5  # ELECTRA: width of the generator against the discriminator's
REPLACED_WEIGHT = 50.0  # ELECTRA: weight of the replaced-token loss (Clark et al. 2020, section 2)


def ppmi_embeddings(ids: np.ndarray, vocabulary: int, width: int) -> torch.Tensor:
    """Word vectors from counts: truncated SVD of the positive pointwise mutual information matrix.

    Args:
        ids: token ids of the text, (n,).
        vocabulary: number of token types.
        width: dimensions of a vector, below `vocabulary`.

    Returns:
        (vocabulary, width) float32, rows centred and of length 1; rows of unseen tokens are zero.
    """
    counts = scipy.sparse.csr_matrix((vocabulary, vocabulary))
    for distance in range(1, WINDOW + 1):
        pairs = (ids[:-distance], ids[distance:])
        weight = np.full(len(pairs[0]), 1.0 / distance)
        counts = counts + scipy.sparse.coo_matrix((weight, pairs), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = np.asarray(counts.sum(axis=0)).ravel()
    pmi = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    ppmi = scipy.sparse.csr_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    start = np.random.default_rng(0).standard_normal(vocabulary)  # ARPACK would draw its own
    left, singular, _ = svds(ppmi, k=width, v0=start)
    vectors = left * np.sqrt(singular)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    seen = totals > 0
    vectors[seen] -= vectors[seen].mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.tensor(np.where(seen[:, None], vectors / np.maximum(norms, 1e-12), 0), dtype=torch.float32)


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Sinusoidal position vectors, (positions, width), of length 1."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width] / math.sqrt(width / 2)


@torch.no_grad()
def initialise_embeddings(body: nn.Module, ids: np.ndarray) -> None:
    """Put count-based word vectors and sinusoidal positions where the random embeddings were."""
    words = body.get_input_embeddings().weight
    length = body.config.initializer_range * math.sqrt(words.shape[1])
    vectors = ppmi_embeddings(ids, *words.shape) * length
    seen = vectors.abs().sum(dim=1) > 0
    words[seen] = vectors[seen]
    for name, parameter in body.named_parameters():
        if name.endswith("position_embeddings.weight"):
            parameter.copy_(sinusoids(*parameter.shape) * length)


class WordPredictor(nn.Module):
    """BERT's masked-language-modelling head: dense, GELU, norm, then the transposed input embeddings."""

    def __init__(self, hidden: int, embeddings: nn.Embedding):
        super().__init__()
        self.dense = nn.Linear(hidden, embeddings.embedding_dim)
        self.norm = nn.LayerNorm(embeddings.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        self.embeddings = embeddings

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.norm(F.gelu(self.dense(hidden))) @ self.embeddings.weight.T + self.bias


class Masking:
    """Which tokens a masked language model has to guess, and what it sees in their place (80 % mask, 10 % random)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float, whole_words: bool):
        self.share, self.mask, self.size = share, tokenizer.mask_token_id, len(tokenizer)
        self.special = torch.tensor(tokenizer.all_special_ids)
        names = tokenizer.convert_ids_to_tokens(range(self.size))
        self.continues = torch.tensor([whole_words and name.startswith("##") for name in names])

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, length) ids -> what the model sees, and the bool mask of the tokens to guess."""
        draw = torch.rand(ids.shape)
        word = torch.cumsum(~self.continues[ids], dim=1) - 1  # pieces of one word share one draw
        draw = draw.gather(1, word.clamp(min=0))
        chosen = (draw < self.share) & ~torch.isin(ids, self.special)
        fate = torch.rand(ids.shape)
        seen = torch.where(chosen & (fate < 0.8), self.mask, ids)
        return torch.where(chosen & (fate >= 0.9), torch.randint(self.size, ids.shape), seen), chosen


class MaskedModel(nn.Module):
    """BERT, DistilBERT, DeBERTa and (whole words) ERNIE: guess the masked tokens."""

    def __init__(self, body: nn.Module, masking: Masking):
        super().__init__()
        self.body, self.masking = body, masking
        self.predictor = WordPredictor(body.config.hidden_size, body.get_input_embeddings())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen, chosen = self.masking(ids)
        # Only the masked positions need the vocabulary-wide product, which is most of the work.
        logits = self.predictor(self.body(seen).last_hidden_state[chosen])
        return F.cross_entropy(logits, ids[chosen])


class ReplacedModel(nn.Module):
    """ELECTRA: a small generator fills the gaps, the body says which tokens were replaced (Clark et al. 2020)."""

    def __init__(self, body: nn.Module, masking: Masking):
        super().__init__()
        self.body, self.masking = body, masking
        small = body.config.__class__(**body.config.to_dict())
        small.hidden_size = int(body.config.hidden_size * GENERATOR_SHARE)
        small.intermediate_size = int(body.config.intermediate_size * GENERATOR_SHARE)
        small.num_attention_heads = max(1, int(body.config.num_attention_heads * GENERATOR_SHARE))
        self.generator = AutoModel.from_config(small)
        self.generator.embeddings = body.embeddings  # one set of embeddings for both, as in the paper
        self.predictor = WordPredictor(small.hidden_size, body.get_input_embeddings())
        self.dense = nn.Linear(body.config.hidden_size, body.config.hidden_size)
        self.replaced = nn.Linear(body.config.hidden_size, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen, chosen = self.masking(ids)
        logits = self.predictor(self.generator(seen).last_hidden_state[chosen])
        guessing = F.cross_entropy(logits, ids[chosen])
        with torch.no_grad():
            filled = ids.clone()
            filled[chosen] = torch.distributions.Categorical(logits=logits).sample()
        hidden = F.gelu(self.dense(self.body(filled).last_hidden_state))
        detecting = F.binary_cross_entropy_with_logits(self.replaced(hidden)[..., 0], (filled != ids).float())
        return guessing + REPLACED_WEIGHT * detecting


class CausalModel(nn.Module):
    """BLOOM: guess the next token with the transposed input embeddings."""

    def __init__(self, body: nn.Module, masking: None = None):
        super().__init__()
        self.body = body

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.body(ids).last_hidden_state[:, :-1]
        logits = hidden @ self.body.get_input_embeddings().weight.T
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def blocks(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> torch.Tensor:
    """The text as one long row of tokens, cut into (n, length) blocks with the architecture's special tokens."""
    ids = np.concatenate(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]).astype(np.int64)
    around = tokenizer.num_special_tokens_to_add()
    inner = torch.from_numpy(ids[: len(ids) // (length - around) * (length - around)]).view(-1, length - around)
    if not around:
        return inner
    edge = torch.ones(len(inner), 1, dtype=torch.int64)
    return torch.cat([edge * tokenizer.cls_token_id, inner, edge * tokenizer.sep_token_id], dim=1)


def build(architecture: str, size: dict, tokenizer: PreTrainedTokenizerFast, settings: dict) -> nn.Module:
    """Language model with a randomly initialised body of the given size."""
    kind = ARCHITECTURES[architecture]
    config = kind.config(size, len(tokenizer), settings["max_length"], tokenizer.pad_token_id)
    body = AutoModel.from_config(config)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # not trained by language modelling: it belongs to the head
    if kind.objective == "causal":
        return CausalModel(body)
    masking = Masking(tokenizer, settings["mask_share"], kind.objective == "whole-word")
    return ReplacedModel(body, masking) if kind.objective == "replaced" else MaskedModel(body, masking)


def train(model: nn.Module, data: torch.Tensor, settings: dict) -> int:
    """Train on `settings["tokens"]` tokens; prints progress. Returns the number of tokens seen."""
    batch = settings["batch_size"]
    steps = max(1, settings["tokens"] // (batch * data.shape[1]))
    optimizer = torch.optim.AdamW(
        model.parameters(), settings["learning_rate"], betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = linear_schedule(optimizer, steps, warmup_share=0.05)
    start, order, mean = time.monotonic(), torch.empty(0, dtype=torch.int64), 0.0
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(data))])
        chosen, order = order[:batch], order[batch:]
        loss = model(data[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += (loss.item() - mean) * max(0.02, 1 / step)
        if step % max(1, steps // 40) == 0 or step == steps:
            seconds = time.monotonic() - start
            left = seconds / step * (steps - step)
            print(f"step {step}/{steps}, loss {mean:.3f}, {seconds:.0f} s, about {left:.0f} s left", flush=True)
    return steps * batch * data.shape[1]


@torch.no_grad()
def evaluate(model: nn.Module, data: torch.Tensor, seed: int) -> float:
    """Mean loss per block on held-out text (with its own random masks)."""
    torch.manual_seed(seed)
    model.eval()
    chunks = data[:EVALUATION_BLOCKS].split(50)
    return sum(model(chunk).item() for chunk in chunks) / len(chunks)


def pretrain(texts: dict[str, list[str]], architecture: str, size: dict, settings: dict, out: Path) -> dict:
    """Pre-train a model on `texts["train"]` and save body, tokenizer and manifest into the folder `out`."""
    provenance.deterministic(settings["seed"])
    kind = ARCHITECTURES[architecture]
    tokenizer = train_tokenizer(kind.tokenizer, texts["train"], settings["vocabulary"], settings["max_length"])
    data = blocks(tokenizer, texts["train"], settings["max_length"])
    model = build(architecture, size, tokenizer, settings)
    initialise_embeddings(model.body, data.flatten().numpy())
    start = time.monotonic()
    tokens = train(model, data, settings)
    held_out = evaluate(model, blocks(tokenizer, texts["validation"], settings["max_length"]), settings["seed"])
    with files.replacing_folder(out) as folder:
        model.body.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        manifest = {
            "architecture": architecture,
            "objective": kind.objective,
            "size": size,
            "settings": settings,
            "tokens": tokens,
            "corpus_tokens": data.numel(),
            "validation_loss": round(held_out, 4),
            "seconds": round(time.monotonic() - start, 1),
            "parameters": sum(parameter.numel() for parameter in model.body.parameters()),
            "sha256": files.sha256(folder / "model.safetensors"),
            "versions": provenance.versions(),
        }
        files.write_json(folder / "manifest.json", manifest)
    return manifest


def main() -> None:
    a, study, paths = parse_step("Pre-train one small model on docstring prose.", "model")
    corpora = sorted(map(paths.corpus, study.config["corpus"]["packages"]))
    sentences = pd.concat([corpus.read(path) for path in corpora])
    texts = {split: list(part["sentence"]) for split, part in sentences.groupby("split")}
    manifest = pretrain(texts, **study.pretraining_settings(a.model), out=paths.pretraining(a.model))
    print(f"held-out loss {manifest['validation_loss']} after {manifest['tokens']:,} tokens")


if __name__ == "__main__":
    run(main)
