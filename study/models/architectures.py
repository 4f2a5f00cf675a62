"""Small versions of the paper's architectures: configuration, kind of tokenizer, language-modelling objective.

Sizes come from the study's config. What distinguishes the architectures (relative positions, factorised embeddings,
...) is set here as in the original checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import (
    BertConfig,
    BloomConfig,
    DebertaConfig,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    PreTrainedConfig,
)

INITIALIZER_RANGE = 0.06  # small models need a larger spread than the 0.02 of the originals


@dataclass(frozen=True)
class Architecture:
    """What pre-training needs to know about an architecture.

    Attributes:
        tokenizer: kind for `tokenization.train_tokenizer`.
        objective: "masked" (BERT), "whole-word" (ERNIE masks whole words), "replaced" (ELECTRA's replaced-token
            detection) or "causal".
        config: (size, vocabulary, max_length, pad id) -> configuration.
    """

    tokenizer: str
    objective: str
    config: Callable[[dict, int, int, int], PreTrainedConfig]


def _bert_like(size: dict, vocabulary: int, max_length: int, pad: int) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": size["hidden_size"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "intermediate_size": size["intermediate_size"],
        "max_position_embeddings": max_length,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": INITIALIZER_RANGE,
        "pad_token_id": pad,
    }


def _bert(*size) -> BertConfig:
    return BertConfig(**_bert_like(*size))


def _ernie(*size) -> ErnieConfig:
    return ErnieConfig(**_bert_like(*size), use_task_id=True)


def _electra(size: dict, *rest) -> ElectraConfig:
    return ElectraConfig(**_bert_like(size, *rest), embedding_size=size.get("embedding_size", size["hidden_size"] // 2))


def _deberta(*size) -> DebertaConfig:
    # As in deberta-base: content-to-position and position-to-content attention, no absolute positions.
    return DebertaConfig(
        **_bert_like(*size),
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
        max_relative_positions=-1,
        type_vocab_size=0,
    )


def _distilbert(size: dict, vocabulary: int, max_length: int, pad: int) -> DistilBertConfig:
    return DistilBertConfig(
        vocab_size=vocabulary,
        dim=size["hidden_size"],
        n_layers=size["layers"],
        n_heads=size["heads"],
        hidden_dim=size["intermediate_size"],
        max_position_embeddings=max_length,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=pad,
    )


def _bloom(size: dict, vocabulary: int, max_length: int, pad: int) -> BloomConfig:
    return BloomConfig(
        vocab_size=vocabulary,
        hidden_size=size["hidden_size"],
        n_layer=size["layers"],
        n_head=size["heads"],
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=pad,
    )


ARCHITECTURES = {
    "bert": Architecture("wordpiece", "masked", _bert),
    "distilbert": Architecture("wordpiece", "masked", _distilbert),
    "deberta": Architecture("byte-bpe", "masked", _deberta),
    "ernie": Architecture("wordpiece", "whole-word", _ernie),
    "electra": Architecture("wordpiece", "replaced", _electra),
    "bloom": Architecture("byte-bpe-causal", "causal", _bloom),
}
