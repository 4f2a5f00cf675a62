"""Tokenizers are trained deterministically and have the special tokens of their architecture."""

import subprocess
import sys
from pathlib import Path

import pytest

from study import corpus
from study.models.tokenization import train_tokenizer

KINDS = ("wordpiece", "byte-bpe", "byte-bpe-causal")
TRAIN = """
import sys
from study import corpus
from study.models.tokenization import train_tokenizer
texts = list(corpus.extract("mpmath")["sentence"])
sys.stdout.write(train_tokenizer(sys.argv[1], texts, 500, 32).backend_tokenizer.to_str())
"""


@pytest.mark.parametrize(
    "kind", [kind if kind == "wordpiece" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_two_processes_train_the_same_tokenizer(kind):
    runs = [
        subprocess.run(
            [sys.executable, "-c", TRAIN, kind], capture_output=True, check=True, cwd=Path(__file__).parents[3]
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_and_special_tokens(kind):
    texts = list(corpus.extract("mpmath")["sentence"])
    tokenizer = train_tokenizer(kind, texts, 500, 32)
    assert len(tokenizer) <= 500
    ids = tokenizer("the sum of a series")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "the sum of a series"
    if kind == "byte-bpe-causal":
        assert tokenizer.num_special_tokens_to_add() == 0
        assert tokenizer.decode(tokenizer("naïve 🎉")["input_ids"]).strip() == "naïve 🎉"
    else:
        assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
