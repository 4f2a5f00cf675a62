"""Fixtures for training: encoded examples, a model with dropout, a language model with text, and killed steps."""

import pandas as pd
import pytest
from torch import nn

from study import corpus
from study.models.classifiers import load_classifier, load_tokenizer
from study.running import files, provenance
from study.training.examples import encode, load_task
from study.training.resumption import Checkpoint
from tests.conftest import make_texts


@pytest.fixture(scope="module")
def examples(checkpoints, task_folder):
    splits, classes = load_task(task_folder)
    tokenizer = load_tokenizer(checkpoints["bert"], 24)
    return {name: encode(frame, classes, tokenizer) for name, frame in splits.items()}


@pytest.fixture
def new_model(checkpoints):
    """A classifier with dropout, so that an exactly resumed run needs the state of the random generator."""

    def build() -> nn.Module:
        provenance.make_deterministic(0)
        model, _ = load_classifier(checkpoints["bert"], ["fruit", "tool"], 0)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2
        return model

    return build


@pytest.fixture(scope="module")
def checkpoint(checkpoints, tmp_path_factory):
    """A tiny BLOOM as study.import_model writes it."""
    folder = tmp_path_factory.mktemp("language") / "model"
    for path in checkpoints["bloom-560m"].iterdir():
        (folder / path.name).parent.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    files.write_json(
        folder / "manifest.json", {"sha256": {"model.safetensors": files.sha256(folder / "model.safetensors")}}
    )
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """Forty short documents in three parts."""
    folder = tmp_path_factory.mktemp("text")
    frame = pd.DataFrame({"document": [f"d{i}" for i in range(40)], "text": make_texts()})
    parts = {"train": frame[:24], "validation": frame[24:30], "test": frame[30:]}
    for split, part in parts.items():
        part.reset_index(drop=True).to_parquet(folder / f"{split}.parquet")
    files.write_json(folder / "manifest.json", {"sha256": files.sha256_of(folder)})
    return folder


@pytest.fixture(scope="module")
def texts():
    """A few sentences to pre-train on."""
    sentences = list(corpus.extract("mpmath")["sentence"])
    return {"train": sentences[:12], "validation": sentences[20:40]}


class Killed(Exception):
    """Simulates the end of the process."""


@pytest.fixture
def killed_after(monkeypatch):
    """A function that runs a step with a checkpoint after every training step and kills it after some of them."""

    def call(steps: int, step) -> None:
        write, written = Checkpoint.write, []

        def write_and_die(self, *state) -> None:
            write(self, *state)
            written.append(1)
            if len(written) == steps:
                raise Killed

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(Checkpoint, "write", write_and_die)
            patched.setenv("STUDY_CHECKPOINT_MINUTES", "0")
            step()

    return call
