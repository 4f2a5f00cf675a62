"""What only a GPU can show: kept sets of the CPU, training that repeats and goes on to the bit, real lack of memory."""

import contextlib
import os
import subprocess
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as `device.take` has it

import pandas as pd
import pytest
import torch

from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.finetune import finetune
from study.running import files
from study.running.workflow import run
from study.training.examples import predict
from study.training.gradients import Gradients
from study.training.resumption import Checkpoint
from tests.conftest import MODELS, SETTINGS
from tests.study.training.test_loop import Killed, examples, gradients_of, new_model  # noqa: F401

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TAKE = "import sys; from study.running import device; print(device.take(), flush=True); sys.stdin.readline()"


@pytest.fixture
def small_memory():
    """Lets this process have no more than so many bytes of the GPU beside what it holds already."""
    ballast = []

    def limit(count: int) -> None:
        torch.cuda.empty_cache()
        held, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(held / total)
        for size in (2**20, 2**16, 2**12, 2**9):  # what torch holds and does not use
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
    return finetune(checkpoints[model], task_folder, axes, SETTINGS | changed, out, on=torch.device("cuda"))


@pytest.mark.parametrize("model", MODELS)
def test_training_repeats_to_the_bit_in_bfloat16_with_weights_in_float32(model, tmp_path, checkpoints, task_folder):
    first, second = (trained(checkpoints, task_folder, model, tmp_path / name) for name in "ab")
    assert first["precision"] == ("float32" if model == "deberta" else "bfloat16")
    assert first["device"] == torch.cuda.get_device_name()
    assert first["sha256"] == second["sha256"] and first["history"] == second["history"]
    single = trained(checkpoints, task_folder, model, tmp_path / "c", precision="float32")
    assert single["precision"] == "float32" and (single["sha256"] == first["sha256"]) == (model == "deberta")


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, checkpoints, task_folder, monkeypatch):
    undisturbed = trained(checkpoints, task_folder, "bert", tmp_path / "whole")
    write = Checkpoint.write

    def killed_after_the_write(self, *state):
        write(self, *state)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "write", killed_after_the_write)
        patched.setenv("STUDY_CHECKPOINT_MINUTES", "0")
        with pytest.raises(Killed):
            trained(checkpoints, task_folder, "bert", tmp_path / "killed")
    resumed = trained(checkpoints, task_folder, "bert", tmp_path / "killed")
    assert resumed["sha256"] == undisturbed["sha256"] and resumed["history"] == undisturbed["history"]


def test_a_cell_keeps_the_same_entries_as_on_the_cpu(tmp_path, finetuned_cells, task_folder):
    methods = ["full", "ken", "ken-grid", "random", "della", "bitdelta", "surgeon-delta", "lora", "flop", "fish"]
    own = {"lora": {"budgets": [1]}, "flop": {"budgets": [0.5]}, "fish": {"budgets": [0.25]}}
    settings = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1], "draws": 1, "methods": own}
    for on in ("cpu", "cuda"):
        cell = FinetunedCell(finetuned_cells["bert"], task_folder, settings, torch.device(on))
        compress(cell, methods, tmp_path / on)
        for method in methods:
            assert list(pd.read_csv(tmp_path / on / method / "scores.csv")["status"]) == ["ok"], method
    for method in ("ken", "ken-grid", "random", "della", "bitdelta"):
        stored = [path.read_bytes() for path in sorted(tmp_path.glob(f"*/{method}/draw0/*.safetensors"))]
        assert len(stored) == 2 and stored[0] == stored[1], method


def test_a_batch_too_large_for_the_gpu_has_the_same_gradients_in_parts(examples, new_model, small_memory, capsys):  # noqa: F811
    cuda, rows = torch.device("cuda"), list(range(30)) * 100
    model, batch = new_model().eval().to(cuda), examples["train"].batch(rows)
    whole = Gradients(cuda).compute(model, batch, lambda: 0.0)
    expected = [gradient.clone() for gradient in gradients_of(model)]
    model.zero_grad()
    small_memory(24 * 2**20)
    parts = Gradients(cuda)
    loss = parts.compute(model, batch, lambda: 0.0)
    assert parts.part is not None and parts.part < len(rows) and "out of memory with 3000" in capsys.readouterr().out
    assert loss == pytest.approx(whole, rel=1e-5)
    for found, right in zip(gradients_of(model), expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-3, atol=1e-6)


def test_no_memory_for_one_text_is_a_sentence_and_leaves_nothing_half_written(
    tmp_path, checkpoints, task_folder, small_memory
):
    small_memory(0)
    with pytest.raises(SystemExit, match=r"^error: .* memory"):
        run(lambda: trained(checkpoints, task_folder, "bert", tmp_path / "cell"))
    assert not (tmp_path / "cell").exists()


def test_predictions_go_on_in_smaller_batches_where_memory_runs_out(examples, new_model, small_memory):  # noqa: F811
    model = new_model().cuda()
    many = type(examples["test"])(examples["test"].ids * 300, examples["test"].labels.repeat(300), examples["test"].pad)
    whole = predict(model, many, len(many))
    small_memory(24 * 2**20)
    assert (predict(model, many, len(many)) == whole).all()


def test_a_second_process_waits_for_the_gpu_that_a_first_one_has(tmp_path):
    if torch.cuda.device_count() > 1:
        pytest.skip("a second GPU would be free")

    def start():
        return subprocess.Popen([sys.executable, "-c", TAKE], stdin=-1, stdout=-1, text=True)

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


def test_ken_prune_on_the_gpu_writes_the_file_of_the_cpu(tmp_path, finetuned_cells):
    cell = finetuned_cells["bert"]
    pair = ["--pretrained", cell / "initial.safetensors", "--finetuned", cell / "model.safetensors", "--k", "0.1"]
    for device in ("cpu", "cuda"):
        options = [*pair, "--device", device, "--quiet", "--out", tmp_path / device]
        subprocess.run([sys.executable, "-m", "ken.cli", "prune", *map(str, options)], check=True)
    assert files.sha256(tmp_path / "cpu") == files.sha256(tmp_path / "cuda")
