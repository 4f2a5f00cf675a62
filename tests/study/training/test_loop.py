"""The training loop with a classifier: exact resumption, bfloat16, and batches too large for memory."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ken.errors import UserError
from study.finetune import finetune
from study.models.classifiers import load_classifier
from study.running import files
from study.running.code import ROOT, dependencies
from study.training.classification import train_classifier
from study.training.examples import predict
from study.training.gradients import CPU, NOT_IN_BFLOAT16, Gradients, precision_on
from study.training.resumption import Checkpoint
from tests.conftest import MODELS, SETTINGS
from tests.study.conftest import Killed

STEPS = 2 * 4  # with SETTINGS on the thirty rows of the task


class KilledAfterWrites(Checkpoint):
    """Writes after every step and kills the training after a number of writes."""

    def __init__(self, folder, writes: int):
        super().__init__(folder, minutes=0)
        self.left = writes

    def write(self, *state) -> None:
        super().write(*state)
        self.left -= 1
        if not self.left:
            raise Killed


def run(model, examples, checkpoint=None, **changed):
    return train_classifier(
        model, examples["train"], examples["validation"], SETTINGS | changed, 3, checkpoint=checkpoint
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("steps", [1, 3, 4, 5, STEPS])
def test_a_killed_training_resumes_to_the_same_bits(steps, tmp_path, examples, new_model, capsys):
    undisturbed, record = run(new_model(), examples)
    with pytest.raises(Killed):
        run(new_model(), examples, KilledAfterWrites(tmp_path, steps))
    torch.rand(7)  # a new process has another generator state
    resumed, again = run(new_model(), examples, Checkpoint(tmp_path, 10))
    assert same(undisturbed, resumed) and record == again
    assert "resuming in epoch" in capsys.readouterr().out


def test_a_training_killed_twice_resumes_from_the_later_checkpoint(tmp_path, examples, new_model):
    undisturbed, _ = run(new_model(), examples)
    seconds = []
    for steps in (2, 3):
        checkpoint = KilledAfterWrites(tmp_path, steps)
        with pytest.raises(Killed):
            run(new_model(), examples, checkpoint)
        seconds.append(checkpoint.seconds_before)
    last = KilledAfterWrites(tmp_path, 99)
    resumed, _ = run(new_model(), examples, last)
    assert same(undisturbed, resumed) and 99 - last.left == STEPS - 5
    assert seconds[0] == 0 < seconds[1] < last.seconds_before, "the time of all processes is counted"


@pytest.mark.parametrize("what", ["settings", "data", "weights", "bytes", "cut off", "no file of ours"])
def test_foreign_and_damaged_checkpoints_are_not_used(what, tmp_path, examples, new_model, capsys):
    def begin():
        model, changed, sets = new_model(), {}, dict(examples)
        if what == "settings":
            changed = {"weight_decay": 0.02}
        elif what == "data":
            sets["train"] = examples["train"].first(29)
        elif what == "weights":
            model.classifier.bias.data[0] += 1
        return model, sets, changed

    with pytest.raises(Killed):
        run(new_model(), examples, KilledAfterWrites(tmp_path, 3))
    path = tmp_path / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    broken = {"bytes": bytes(data), "cut off": bytes(data[:-8]), "no file of ours": b"x" * 1000}
    path.write_bytes(broken.get(what, path.read_bytes()))
    model, sets, changed = begin()
    expected, record = run(model, sets, **changed)
    model, sets, changed = begin()
    retrained, again = run(model, sets, Checkpoint(tmp_path, 10), **changed)
    assert same(expected, retrained) and record == again
    assert "starting over" in capsys.readouterr().out


def test_the_checkpoint_is_written_only_when_due_and_contains_no_code(tmp_path, examples, new_model):
    run(new_model(), examples, Checkpoint(tmp_path / "rarely", 10))
    assert not (tmp_path / "rarely").exists(), "the default writes nothing in ten minutes"
    with pytest.raises(Killed):
        run(new_model(), examples, KilledAfterWrites(tmp_path, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    state = load_file(tmp_path / "state.safetensors")
    assert {"order", "random.cpu", "optimizer.0.exp_avg", "best.classifier.bias"} <= set(state)


def test_an_unwritable_checkpoint_does_not_stop_the_training(tmp_path, examples, new_model, capsys):
    (tmp_path / "file").write_text("")
    undisturbed, _ = run(new_model(), examples)
    other, _ = run(new_model(), examples, Checkpoint(tmp_path / "file" / "folder", 0))
    assert same(undisturbed, other) and capsys.readouterr().out.count("could not be written") == STEPS


def test_a_killed_cell_resumes_to_the_same_files_without_leftovers(tmp_path, checkpoints, task_folder, killed_after):
    cells = [tmp_path / name / "finetuned" for name in ("a", "b")]
    axes = {"model": "bert", "task": "words", "seed": 0}
    whole = finetune(checkpoints["bert"], task_folder, axes, SETTINGS, cells[0])
    killed_after(1, lambda: finetune(checkpoints["bert"], task_folder, axes, SETTINGS, cells[1]))
    assert [path.name for path in cells[1].parent.iterdir()] == ["finetuned.training"]
    (cells[1].parent / ".finetuned.leftover").mkdir()  # eight letters, as tempfile uses
    resumed = finetune(checkpoints["bert"], task_folder, axes, SETTINGS, cells[1])
    differ = {key for key in whole if whole[key] != resumed[key]}
    assert differ <= {"seconds", "peak_mib"} and whole["sha256"] == resumed["sha256"]
    assert [path.name for path in cells[1].parent.iterdir()] == ["finetuned"]


class MemoryLimited(nn.Module):
    """A model on a device with memory for only a few rows."""

    def __init__(self, model: nn.Module, rows: int):
        super().__init__()
        self.model, self.rows, self.batch_sizes = model, rows, []

    def forward(self, *parts, **batch):
        self.batch_sizes.append(len((*parts, batch)[0]["input_ids"]))
        if self.batch_sizes[-1] > self.rows:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return self.model(*parts, **batch)


def gradients_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("rows", "parts"), [(7, [7]), (3, [7, 4, 2, 2, 2, 1]), (1, [7, 4, 2, 1, 1, 1, 1, 1, 1, 1])])
def test_a_batch_too_large_for_memory_is_split_with_the_same_gradients(rows, parts, examples, new_model, capsys):
    model, batch = new_model().eval(), examples["train"].batch(list(range(7)))
    weight = model.classifier.weight
    whole = Gradients(CPU).compute(model, batch, lambda: weight.square().sum())
    expected = [gradient.clone() for gradient in gradients_of(model)]
    small, gradients = MemoryLimited(model, rows), Gradients(CPU)
    loss = gradients.compute(small, batch, lambda: weight.square().sum())
    assert small.batch_sizes == parts and loss == pytest.approx(whole, rel=1e-6)
    for gradient, right in zip(gradients_of(model), expected, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-4, atol=1e-7)
    assert (gradients.part or 7) <= max(rows, 1) and ("out of memory" in capsys.readouterr().out) == (rows < 7)
    small.batch_sizes.clear()
    gradients.compute(small, batch, lambda: 0.0)
    assert max(small.batch_sizes) <= rows, "a size that was too large is not tried again"


def test_one_text_too_large_for_memory_gives_a_one_line_message(examples, new_model):
    with pytest.raises(UserError, match="one text of 14 tokens does not fit"):
        Gradients(CPU).compute(MemoryLimited(new_model(), 0), examples["train"].batch([0, 1]), lambda: 0.0)


def test_predictions_use_smaller_batches_when_memory_runs_out(examples, new_model):
    model = new_model()
    small = MemoryLimited(model, 3)
    predictions = predict(small, examples["test"], 16)
    assert small.batch_sizes[:4] == [12, 6, 3, 3] and max(small.batch_sizes[2:]) == 3
    assert np.array_equal(predictions, predict(model, examples["test"], 16))
    with pytest.raises(torch.OutOfMemoryError):
        predict(MemoryLimited(model, 0), examples["test"], 16)


def test_bfloat16_keeps_weights_and_gradients_in_float32(examples, new_model):
    dtypes, batch, losses = [], examples["train"].batch(list(range(8))), []
    for precision in ("float32", "bfloat16"):
        model = new_model().eval()
        model.bert.encoder.layer[0].output.dense.register_forward_hook(
            lambda layer, inputs, output: dtypes.append(output.dtype)
        )
        losses.append(Gradients(CPU, precision).compute(model, batch, lambda: 0.0))
        assert {gradient.dtype for gradient in gradients_of(model)} == {torch.float32}
    assert dtypes == [torch.float32, torch.bfloat16] and losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]
    courses = [run(new_model(), examples, precision=precision)[1]["history"] for precision in ("float32", "bfloat16")]
    for exact, low in zip(*courses, strict=True):
        assert exact["loss"] != low["loss"] == pytest.approx(exact["loss"], rel=0.02)


def test_auto_precision_is_bfloat16_if_supported(monkeypatch):
    assert precision_on(CPU, "auto") == "float32" and precision_on(CPU, "bfloat16") == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    cuda = torch.device("cuda")
    assert precision_on(cuda, "auto", "bert") == "bfloat16" and precision_on(cuda, "auto", "deberta") == "float32"
    with pytest.raises(UserError, match=r"deberta cannot be trained in bfloat16: set finetuning.precision"):
        precision_on(cuda, "bfloat16", "deberta")


@pytest.mark.parametrize("model", MODELS)
def test_architectures_without_bfloat16_are_listed(model, checkpoints, task_folder, examples):
    classifier, _ = load_classifier(checkpoints[model], ["fruit", "tool"], 0)
    gradients = Gradients(CPU, "bfloat16")
    batch = examples["train"].batch(list(range(4)))  # tokens of another model: only whether it runs matters
    if classifier.config.model_type in NOT_IN_BFLOAT16:
        with pytest.raises(RuntimeError, match="cannot be converted to type c10::BFloat16"):
            gradients.compute(classifier, batch, lambda: 0.0)
    else:
        assert np.isfinite(gradients.compute(classifier, batch, lambda: 0.0))


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / "draw0").mkdir()
    for name in (".12-ab.scores.csv", "draw0/.0.1.safetensors.77.tmp", "draw0/0.1.safetensors"):
        (tmp_path / name).write_text("x")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["0.1.safetensors"]
    files.remove_leftovers(tmp_path / "missing")


@pytest.mark.parametrize("step", ["study.finetune", "study.adapt_language_model", "study.pretrain"])
def test_a_training_does_not_depend_on_the_code_of_methods(step):
    names = {str(path.relative_to(ROOT)) for path in dependencies(step)}
    assert "study/training/loop.py" in names and not {"baselines/base.py", "ken/kde.py"} & names
