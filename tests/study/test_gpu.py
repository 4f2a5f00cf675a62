"""On a GPU: the same kept entries as on the CPU, deterministic and resumable training, and running out of memory."""

import contextlib
import os
import subprocess
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as set by `acquire_device`

import numpy as np
import pandas as pd
import pytest
import torch

from baselines.llm_surgeon.method import from_zeros
from study.adapt_language_model import adapt
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.finetune import finetune
from study.models.architectures import ARCHITECTURES
from study.models.classifiers import load_tokenizer
from study.models.language_models import load_language_model
from study.models.pretraining import build
from study.models.tokenization import train_tokenizer
from study.pretrain import pretrain
from study.prune_language_model import Pruning, prune_all
from study.running import files, provenance
from study.running.workflow import run
from study.training.chunks import Chunks, read_chunks
from study.training.examples import predict
from study.training.gradients import Gradients
from study.training.language_modelling import document_losses
from study.training.pretraining import blocks, objective_loss
from tests.conftest import MODELS, SETTINGS
from tests.study.training.test_language_training import (
    ADAPTATION,
    AXES,
    PRETRAINING,
    SIZE,
    always_the_same,
)
from tests.study.training.test_loop import gradients_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CUDA = torch.device("cuda")

ACQUIRE = """
import sys
from study.running.device import acquire_device
print(acquire_device(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def small_memory():
    """A function that limits the GPU memory of this process to a number of bytes beyond what it already uses."""
    ballast = []

    def limit(count: int) -> None:
        torch.cuda.empty_cache()
        held, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(held / total)
        for size in (2**20, 2**16, 2**12, 2**9):  # fill memory that torch has reserved but does not use
            with contextlib.suppress(torch.OutOfMemoryError):
                while True:
                    ballast.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        torch.cuda.set_per_process_memory_fraction((held + count) / total)

    yield limit
    ballast.clear()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def trained(checkpoints, task_folder, model, out, **changed):
    axes = {"model": model, "task": "words", "seed": 0}
    return finetune(checkpoints[model], task_folder, axes, SETTINGS | changed, out, device=CUDA)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_training_is_deterministic(model, tmp_path, checkpoints, task_folder):
    first, second = (trained(checkpoints, task_folder, model, tmp_path / name) for name in "ab")
    assert first["precision"] == ("float32" if model == "deberta" else "bfloat16")
    assert first["device"] == torch.cuda.get_device_name()
    assert first["sha256"] == second["sha256"] and first["history"] == second["history"]
    single = trained(checkpoints, task_folder, model, tmp_path / "c", precision="float32")
    assert single["precision"] == "float32" and (single["sha256"] == first["sha256"]) == (model == "deberta")


def test_a_killed_training_resumes_to_the_same_bits(tmp_path, checkpoints, task_folder, killed_after):
    undisturbed = trained(checkpoints, task_folder, "bert", tmp_path / "whole")
    killed_after(3, lambda: trained(checkpoints, task_folder, "bert", tmp_path / "killed"))
    resumed = trained(checkpoints, task_folder, "bert", tmp_path / "killed")
    assert resumed["sha256"] == undisturbed["sha256"] and resumed["history"] == undisturbed["history"]


def test_bfloat16_adaptation_is_deterministic(tmp_path, checkpoint, text_folder):
    first, second = (adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / name, CUDA) for name in "ab")
    assert first["precision"] == "bfloat16" and first["device"] == torch.cuda.get_device_name()
    assert first["sha256"] == second["sha256"] and first["history"] == second["history"]
    on_cpu = adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "cpu")
    for epoch, other in zip(first["history"], on_cpu["history"], strict=True):
        assert epoch["validation_perplexity"] == pytest.approx(other["validation_perplexity"], rel=0.1)


@pytest.mark.parametrize("steps", [1, 11])
def test_a_killed_adaptation_resumes_to_the_same_bits(steps, tmp_path, checkpoint, text_folder, killed_after):
    whole = adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "whole", CUDA)
    killed_after(steps, lambda: adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "killed", CUDA))
    assert (tmp_path / "killed.training").exists()
    resumed = adapt(checkpoint, text_folder, AXES, ADAPTATION, tmp_path / "killed", CUDA)
    assert resumed["sha256"] == whole["sha256"] and resumed["history"] == whole["history"]
    assert not (tmp_path / "killed.training").exists()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_pretraining_is_deterministic_and_resumes_to_the_same_bits(architecture, tmp_path, texts, killed_after, capsys):
    first, second = (pretrain(texts, architecture, SIZE, PRETRAINING, tmp_path / name, CUDA) for name in "ab")
    assert first["device"] == torch.cuda.get_device_name()
    assert first["sha256"] == second["sha256"] and first["validation_loss"] == second["validation_loss"]
    killed_after(15, lambda: pretrain(texts, architecture, SIZE, PRETRAINING, tmp_path / "killed", CUDA))
    resumed = pretrain(texts, architecture, SIZE, PRETRAINING, tmp_path / "killed", CUDA)
    assert "resuming in epoch 1 after 15 steps of it" in capsys.readouterr().out
    assert resumed["sha256"] == first["sha256"] and resumed["validation_loss"] == first["validation_loss"]
    on_cpu = pretrain(
        texts, architecture, SIZE, PRETRAINING, tmp_path / "cpu"
    )  # ELECTRA draws random numbers on the device
    near = 0.2 if architecture == "electra" else 0.01
    assert first["validation_loss"] == pytest.approx(on_cpu["validation_loss"], rel=near)


def test_a_cell_keeps_the_same_entries_on_gpu_and_cpu(tmp_path, finetuned_cells, task_folder):
    same = ["ken", "ken-grid", "random", "dare", "della", "delta-global", "magnitude-zero", "bitdelta"]
    methods = ["full", *same, "surgeon-delta", "lora", "flop", "fish"]
    own = {"lora": {"budgets": [1]}, "flop": {"budgets": [0.5]}, "fish": {"budgets": [0.25]}}
    settings = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1], "draws": 1, "methods": own}
    for on in ("cpu", "cuda"):
        cell = FinetunedCell(finetuned_cells["bert"], task_folder, settings, torch.device(on))
        compress(cell, methods, tmp_path / on)
        for method in methods:
            assert list(pd.read_csv(tmp_path / on / method / "scores.csv")["status"]) == ["ok"], method
    for method in same:
        stored = [path.read_bytes() for path in sorted(tmp_path.glob(f"*/{method}/draw0/*.safetensors"))]
        assert len(stored) == 2 and stored[0] == stored[1], method


def test_language_models_are_pruned_alike_on_gpu_and_cpu(checkpoint, text_folder, tmp_path):
    settings = {
        "methods": ["l-obd", "llm-surgeon"], "structures": ["element", "2:4", "row-column"], "sparsities": [0.25, 0.5],
        "shots": [1, 2], "calibration": 3, "low_rank": 0, "max_length": 12, "batch_size": 4,
    }  # fmt: skip
    rows, states = {}, {}
    for on in ("cpu", "cuda"):
        axes = {"model": "bloom-560m", "seed": 0}
        pruning = Pruning(checkpoint, text_folder, axes, settings, tmp_path / on, torch.device(on))
        rows[on] = [row for row, _ in prune_all(pruning)]
        assert all(row.status == "ok" for row in rows[on])
        states[on] = [from_zeros(pruning.out / row.file) for row in rows[on]]
    for row, other, on_cpu, on_gpu in zip(rows["cpu"], rows["cuda"], *states.values(), strict=True):
        assert row.file == other.file and row.loss == pytest.approx(other.loss, rel=0.01)
        if row.structure != "row-column":  # near ties may decide between two rows of different lengths
            assert row.kept_share == other.kept_share
            same = sum(int(((on_cpu[name] != 0) == (on_gpu[name] != 0)).sum()) for name in on_cpu)
            assert same > 0.99 * sum(tensor.numel() for tensor in on_cpu.values())


def test_a_batch_too_large_for_the_gpu_is_split_with_the_same_gradients(examples, new_model, small_memory, capsys):
    rows = list(range(30)) * 100
    model, batch = new_model().eval().to(CUDA), examples["train"].batch(rows)
    check_parts(model, batch, Gradients(CUDA), Gradients(CUDA), small_memory)
    assert "out of memory with 3000" in capsys.readouterr().out


def check_parts(model, batch, gradients: Gradients, in_parts: Gradients, small_memory) -> None:
    """Assert that a batch split for lack of memory has the same loss and gradients as the whole batch."""
    rows = len(batch["labels"])
    whole = gradients.compute(model, batch, lambda: 0.0)
    assert gradients.part is None
    expected = torch.cat([gradient.flatten() for gradient in gradients_of(model)])
    model.zero_grad()
    small_memory(24 * 2**20)
    loss = in_parts.compute(model, batch, lambda: 0.0)
    assert in_parts.part is not None and in_parts.part < rows
    assert loss == pytest.approx(whole, rel=1e-5)
    computed = torch.cat([gradient.flatten() for gradient in gradients_of(model)])
    assert torch.allclose(computed, expected, rtol=1e-3, atol=float(1e-5 * expected.abs().max()))


def test_chunks_too_large_for_the_gpu_are_split_with_the_same_gradients(checkpoint, text_folder, small_memory, capsys):
    chunks = read_chunks(text_folder, "train", load_tokenizer(checkpoint, 12), 12)
    longest = next(chunks.by_length(list(range(len(chunks)))))
    batch = chunks.batch((longest * 200)[:3000])
    model = load_language_model(checkpoint).to(CUDA)
    check_parts(model, batch, Gradients(CUDA), Gradients(CUDA), small_memory)
    assert "out of memory with 3000" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["bert", "electra", "bloom"])
def test_blocks_too_large_for_the_gpu_are_split_with_the_same_gradients(
    architecture, texts, small_memory, monkeypatch, capsys
):
    monkeypatch.setattr(torch.distributions.Categorical, "sample", always_the_same)
    provenance.make_deterministic(0)
    tokenizer = train_tokenizer(ARCHITECTURES[architecture].tokenizer, texts["train"], 300, 16)
    model = build(architecture, SIZE, tokenizer, PRETRAINING).to(CUDA)
    batch = model.batch(blocks(tokenizer, texts["train"], 16)[:10].repeat(600, 1))
    whole, parts = (Gradients(CUDA, loss=objective_loss) for _ in range(2))
    check_parts(model, batch, whole, parts, small_memory)
    assert "out of memory with 6000" in capsys.readouterr().out


def test_too_little_memory_for_one_text_gives_a_one_line_message(tmp_path, checkpoints, task_folder, small_memory):
    small_memory(0)
    with pytest.raises(SystemExit, match=r"^error: .* memory"):
        run(lambda: trained(checkpoints, task_folder, "bert", tmp_path / "cell"))
    assert not (tmp_path / "cell").exists()


def test_predictions_use_smaller_batches_when_memory_runs_out(examples, new_model, small_memory):
    model = new_model().cuda()
    many = type(examples["test"])(examples["test"].ids * 300, examples["test"].labels.repeat(300), examples["test"].pad)
    whole = predict(model, many, len(many))
    small_memory(24 * 2**20)
    assert (predict(model, many, len(many)) == whole).all()


def test_document_losses_use_smaller_batches_when_memory_runs_out(checkpoint, text_folder, small_memory):
    chunks = read_chunks(text_folder, "train", load_tokenizer(checkpoint, 12), 12)
    many = Chunks(chunks.ids * 200, np.tile(chunks.documents, 200), chunks.names)
    model = load_language_model(checkpoint).to(CUDA)
    whole, counts = document_losses(model, many, len(many))
    small_memory(24 * 2**20)
    losses, tokens = document_losses(model, many, len(many))
    assert np.allclose(losses, whole, rtol=1e-5) and (tokens == counts).all()


def test_a_second_process_waits_for_the_gpu(tmp_path):
    if torch.cuda.device_count() > 1:
        pytest.skip("a second GPU would be free")

    def start():
        return subprocess.Popen([sys.executable, "-c", ACQUIRE], stdin=-1, stdout=-1, text=True)

    first = start()
    assert first.stdout.readline().startswith(("cuda", "waiting"))
    second = start()
    assert "waiting for a GPU" in second.stdout.readline()
    first.kill()
    started = time.monotonic()
    assert second.stdout.readline() == "cuda\n" and time.monotonic() - started < 60
    second.kill()
    for process in (first, second):
        process.communicate()


def test_ken_prune_writes_the_same_file_on_gpu_and_cpu(tmp_path, finetuned_cells):
    cell = finetuned_cells["bert"]
    pair = ["--pretrained", cell / "initial.safetensors", "--finetuned", cell / "model.safetensors", "--k", "0.1"]
    for device in ("cpu", "cuda"):
        options = [*pair, "--device", device, "--quiet", "--out", tmp_path / device]
        subprocess.run([sys.executable, "-m", "ken.cli", "prune", *map(str, options)], check=True)
    assert files.sha256(tmp_path / "cpu") == files.sha256(tmp_path / "cuda")
