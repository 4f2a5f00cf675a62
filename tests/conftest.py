"""Shared fixtures: tiny checkpoints of all seven models, a tiny task and a fine-tuned cell of each model."""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import pytest
import torch

from study.finetune import finetune
from study.models.architectures import ARCHITECTURES
from study.models.pretraining import build
from study.models.tokenization import train_tokenizer
from study.running import files, provenance

torch.set_num_threads(1)

WHOLE_STUDIES = ("test_workflow.py", "test_own_data.py")


def pytest_collection_modifyitems(items):
    """Run whole studies first: they take longest, and test files are distributed over two workers."""
    items.sort(key=lambda item: item.path.name not in WHOLE_STUDIES)


MODELS = {
    "bert": "bert",
    "distilbert": "distilbert",
    "deberta": "deberta",
    "ernie": "ernie",
    "electra": "electra",
    "bloom-560m": "bloom",
    "bloom-1b7": "bloom",
}
SIZES = {name: {"hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32} for name in MODELS}
SIZES["bloom-1b7"] = {"hidden_size": 32, "layers": 2, "heads": 2}
SETTINGS = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "warmup_share": 0.1,
    "weight_decay": 0.01,
    "max_length": 24,
    "evaluation_batch_size": 16,
}
WORDS = {"fruit": "apple pear plum cherry grape", "tool": "hammer saw drill wrench chisel"}


def make_texts() -> list[str]:
    """Forty short sentences over a small vocabulary."""
    return [f"The {a} lies beside the {b} on a {c} table." for a, b, c in zip(*word_cycles(), strict=True)]


def word_cycles() -> tuple[list[str], list[str], list[str]]:
    words = " ".join(WORDS.values()).split()
    return [words[i % 10] for i in range(40)], [words[(3 * i + 1) % 10] for i in range(40)], ["red", "old"] * 20


def make_checkpoint(folder, model: str) -> None:
    """Write a randomly initialised body and a matching tokenizer in the Hugging Face layout."""
    kind = ARCHITECTURES[MODELS[model]]
    settings = {"max_length": 24, "mask_share": 0.2}
    tokenizer = train_tokenizer(kind.tokenizer, make_texts(), 320, 24)
    torch.manual_seed(provenance.seed_of("test", model))
    language_model = build(MODELS[model], SIZES[model], tokenizer, settings)
    language_model.body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Model name -> checkpoint folder, for all seven models."""
    root = tmp_path_factory.mktemp("checkpoints")
    for model in MODELS:
        make_checkpoint(root / model, model)
    return {model: root / model for model in MODELS}


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    """A task with two classes that differ in their words, as study.tasks writes it."""
    folder = tmp_path_factory.mktemp("tasks") / "words"
    folder.mkdir()
    rows = [
        {"text": f"A {word} and one {other} here.", "label": label}
        for label, words in WORDS.items()
        for word in words.split()
        for other in words.split()
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)
    for split, part in {"train": frame[:30], "validation": frame[30:38], "test": frame[38:]}.items():
        part.reset_index(drop=True).to_parquet(folder / f"{split}.parquet")
    sha256 = {split: files.sha256(folder / f"{split}.parquet") for split in ("train", "validation", "test")}
    (folder / "manifest.json").write_text(json.dumps({"classes": ["fruit", "tool"], "sha256": sha256}))
    return folder


@pytest.fixture(scope="session")
def finetuned_cells(tmp_path_factory, checkpoints, task_folder):
    """Model name -> folder of a fine-tuned cell."""
    root = tmp_path_factory.mktemp("cells")
    for model, checkpoint in checkpoints.items():
        axes = {"model": model, "task": "words", "seed": 0}
        finetune(checkpoint, task_folder, axes, SETTINGS, root / model)
    return {model: root / model for model in MODELS}
