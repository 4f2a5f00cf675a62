"""Language models for pre-training a body with the objective of its architecture; their heads are discarded.

Every model has two methods. `batch` turns token ids (rows, length) into a batch and draws masks from torch's global
generator. `forward(part, whole)` returns what some rows of the batch `whole` contribute to its mean loss, so the losses
of all parts add up to the loss of the batch.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerFast

from study.models.architectures import ARCHITECTURES

GENERATOR_SHARE = 0.5  # ELECTRA: width of the generator as a share of the discriminator's
REPLACED_WEIGHT = 50.0  # ELECTRA: weight of the replaced-token loss (Clark et al. 2020, section 2)

Batch = dict[str, torch.Tensor]


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
    """Chooses the tokens to predict; 80 % of them become a mask and 10 % a random token, the others stay."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float, whole_words: bool):
        self.share, self.mask, self.size = share, tokenizer.mask_token_id, len(tokenizer)
        self.special = torch.tensor(tokenizer.all_special_ids)
        names = tokenizer.convert_ids_to_tokens(range(self.size))
        self.continues = torch.tensor([whole_words and name.startswith("##") for name in names])

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, length) ids on the CPU -> ids with masks, and the bool mask of the tokens to predict."""
        draw = torch.rand(ids.shape)
        word = torch.cumsum(~self.continues[ids], dim=1) - 1  # pieces of one word share one draw
        draw = draw.gather(1, word.clamp(min=0))
        chosen = (draw < self.share) & ~torch.isin(ids, self.special)
        action = torch.rand(ids.shape)
        masked = torch.where(chosen & (action < 0.8), self.mask, ids)
        return torch.where(chosen & (action >= 0.9), torch.randint(self.size, ids.shape), masked), chosen

    def batch(self, ids: torch.Tensor) -> Batch:
        """input_ids with masks, labels, and chosen: whether a token is to be predicted; all (rows, length)."""
        masked, chosen = self(ids)
        return {"input_ids": masked, "labels": ids, "chosen": chosen}


def prediction_loss(logits: torch.Tensor, part: Batch, whole: Batch) -> torch.Tensor:
    """Cross-entropy of the chosen tokens of `part`, summed and divided by the number of chosen tokens of `whole`."""
    summed = F.cross_entropy(logits, part["labels"][part["chosen"]], reduction="sum")
    return summed / whole["chosen"].sum().clamp(min=1)


class MaskedModel(nn.Module):
    """BERT, DistilBERT, DeBERTa and (with whole words) ERNIE: predict the masked tokens."""

    def __init__(self, body: nn.Module, masking: Masking):
        super().__init__()
        self.body, self.masking, self.config = body, masking, body.config
        self.predictor = WordPredictor(body.config.hidden_size, body.get_input_embeddings())

    def batch(self, ids: torch.Tensor) -> Batch:
        return self.masking.batch(ids)

    def forward(self, part: Batch, whole: Batch) -> torch.Tensor:
        # Only the masked positions need the vocabulary-wide product, which is most of the work.
        logits = self.predictor(self.body(part["input_ids"]).last_hidden_state[part["chosen"]])
        return prediction_loss(logits, part, whole)


class ReplacedModel(nn.Module):
    """ELECTRA: a small generator fills in tokens, the body detects which were replaced (Clark et al. 2020)."""

    def __init__(self, body: nn.Module, masking: Masking):
        super().__init__()
        self.body, self.masking, self.config = body, masking, body.config
        small = body.config.__class__(**body.config.to_dict())
        small.hidden_size = int(body.config.hidden_size * GENERATOR_SHARE)
        small.intermediate_size = int(body.config.intermediate_size * GENERATOR_SHARE)
        small.num_attention_heads = max(1, int(body.config.num_attention_heads * GENERATOR_SHARE))
        self.generator = AutoModel.from_config(small)
        self.generator.embeddings = body.embeddings  # one set of embeddings for both, as in the paper
        self.predictor = WordPredictor(small.hidden_size, body.get_input_embeddings())
        self.dense = nn.Linear(body.config.hidden_size, body.config.hidden_size)
        self.replaced = nn.Linear(body.config.hidden_size, 1)

    def batch(self, ids: torch.Tensor) -> Batch:
        return self.masking.batch(ids)

    def forward(self, part: Batch, whole: Batch) -> torch.Tensor:
        ids, chosen = part["labels"], part["chosen"]
        logits = self.predictor(self.generator(part["input_ids"]).last_hidden_state[chosen])
        with torch.no_grad():
            filled = ids.clone()
            filled[chosen] = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        hidden = F.gelu(self.dense(self.body(filled).last_hidden_state))
        detecting = F.binary_cross_entropy_with_logits(self.replaced(hidden)[..., 0], (filled != ids).float())
        detecting = detecting * (ids.numel() / whole["labels"].numel())
        return prediction_loss(logits, part, whole) + REPLACED_WEIGHT * detecting


class CausalModel(nn.Module):
    """BLOOM: predict the next token with the transposed input embeddings."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body, self.config = body, body.config

    def batch(self, ids: torch.Tensor) -> Batch:
        return {"input_ids": ids, "labels": ids}

    def forward(self, part: Batch, whole: Batch) -> torch.Tensor:
        hidden = self.body(part["input_ids"]).last_hidden_state[:, :-1]
        logits = hidden @ self.body.get_input_embeddings().weight.T
        summed = F.cross_entropy(logits.flatten(0, 1), part["labels"][:, 1:].flatten(), reduction="sum")
        return summed / whole["labels"][:, 1:].numel()


def build(architecture: str, size: dict, tokenizer: PreTrainedTokenizerFast, settings: dict) -> nn.Module:
    """Language model with a randomly initialised body of the given size.

    Args:
        size: hidden_size, layers, heads, and intermediate_size and embedding_size if the architecture has them.
        settings: max_length, and mask_share for objectives with masks.
    """
    kind = ARCHITECTURES[architecture]
    config = kind.config(size, len(tokenizer), settings["max_length"], tokenizer.pad_token_id)
    body = AutoModel.from_config(config)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # not trained by language modelling: it belongs to the head
    if kind.objective == "causal":
        return CausalModel(body)
    masking = Masking(tokenizer, settings["mask_share"], kind.objective == "whole-word")
    return ReplacedModel(body, masking) if kind.objective == "replaced" else MaskedModel(body, masking)
