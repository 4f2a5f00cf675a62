"""Training of tokenizers of the kind that each architecture uses; the result is repeatable to the byte.

BERT, DistilBERT, ERNIE and ELECTRA use WordPiece; DeBERTa and BLOOM use byte-level BPE.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
BLOOM_SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
# A fixed alphabet is one of three things that make the WordPiece trainer repeatable.
_ALPHABET = [chr(code) for code in range(33, 127)]


def _between_cls_and_sep(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )


def train_wordpiece(texts: Sequence[str], size: int) -> Tokenizer:
    """Uncased WordPiece vocabulary of about `size` entries.

    The library's trainer breaks ties in the order of a hash map. Naming the alphabet and every one-character
    continuation beforehand and sorting the vocabulary afterwards makes two runs equal.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    continuations = [f"##{character}" for character in _ALPHABET]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        initial_alphabet=_ALPHABET,
        limit_alphabet=len(_ALPHABET),
        special_tokens=[*SPECIAL_TOKENS.values(), *continuations],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = list(SPECIAL_TOKENS.values())
    words = sorted(set(tokenizer.get_vocab()) - set(special))
    vocabulary = {token: index for index, token in enumerate([*special, *words])}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.decoder = decoders.WordPiece()
    # The continuations were special tokens only for training: build a tokenizer with the real ones.
    final = Tokenizer(tokenizer.model)
    final.normalizer, final.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    final.decoder = tokenizer.decoder
    final.add_special_tokens(special)
    final.post_processor = _between_cls_and_sep(final)
    return final


def train_byte_bpe(texts: Sequence[str], size: int, special: Iterable[str]) -> Tokenizer:
    """Byte-level BPE of `size` entries, as GPT-2, DeBERTa and BLOOM use it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(kind: str, texts: Sequence[str], size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        kind: "wordpiece", "byte-bpe" (with [CLS] and [SEP]) or "byte-bpe-causal" (BLOOM's, which adds no tokens).
        size: entries of the vocabulary, including special tokens.
        max_length: `model_max_length` of the result.
    """
    if kind == "wordpiece":
        tokenizer, special = train_wordpiece(texts, size), SPECIAL_TOKENS
    elif kind == "byte-bpe":
        tokenizer, special = train_byte_bpe(texts, size, SPECIAL_TOKENS.values()), SPECIAL_TOKENS
        tokenizer.post_processor = _between_cls_and_sep(tokenizer)
    else:
        special = BLOOM_SPECIAL_TOKENS
        tokenizer = train_byte_bpe(texts, size, special.values())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)
