"""Speeds of the machine at hand, measured in about a minute, for its plans.

Everything is measured with the code that a study runs: its training loop, its evaluation, its methods. Speeds of a CPU
core are in processor seconds, which other work on the machine hardly changes; those of a GPU are in seconds.
"""

import contextlib
import datetime
import io
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from baselines import METHODS, Cell, Method, TrainedMethod
from baselines.training import TrainingHooks
from ken import grid, selection
from study.planning import cost
from study.planning.sizes import ModelSize, TaskSize, model_size
from study.running import files, provenance
from study.running.device import memory_beside, number_of_gpus
from study.training import metrics
from study.training.classification import train_classifier
from study.training.examples import Examples, predict
from study.training.gradients import CPU

SECONDS = 2.0  # spent on each measurement, at least
CLASSES, VOCABULARY = 2, 4096
ROWS, ROW_LENGTH = 4096, 768  # of the matrix that is ranked
FILE_BYTES = 2**28  # of the file that is written and read
SCORED = 500  # predictions of a scored file
NARROW, WIDE = 128, 768  # hidden sizes
# Width, tokens and batch of evaluations that launches, functions of single numbers, or matrix products dominate.
PROBES = ((NARROW, 16, 8), (NARROW, 48, 32), (384, 24, 32), (WIDE, 32, 16))
SETTINGS = {"epochs": 12, "learning_rate": 2e-5, "warmup_share": 0.1, "weight_decay": 0.01}
Clock = Callable[[], float]
# What a step of a study imports before it computes.
START = "import study.compress; from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel"


@dataclass(frozen=True)
class Probe:
    """A model of random weights and texts of random tokens, with their sizes."""

    model: nn.Module
    size: ModelSize
    texts: Examples
    tokens: int
    batch: int

    @classmethod
    def of(cls, width: int, tokens: int, batch: int, device: torch.device) -> "Probe":
        """A BERT of two layers and two batches of texts."""
        from transformers import AutoModelForSequenceClassification, BertConfig

        config = BertConfig(
            hidden_size=width, num_hidden_layers=2, num_attention_heads=width // 64, intermediate_size=4 * width,
            vocab_size=VOCABULARY, num_labels=CLASSES,
        )  # fmt: skip
        rng = np.random.default_rng(width)
        ids = rng.integers(5, VOCABULARY, (2 * batch, tokens)).tolist()
        with device:
            model = AutoModelForSequenceClassification.from_config(config)
        return cls(model, model_size(config), Examples(ids, rng.integers(0, CLASSES, 2 * batch), 0), tokens, batch)

    def evaluation(self) -> cost.Work:
        """Work of predicting all texts."""
        return cost.evaluation(self.size, len(self.texts), self.tokens, {"batch_size": self.batch})

    def step(self) -> cost.Work:
        """Work of a training step."""
        task = TaskSize(train=self.batch, validation=0, test=0, tokens=self.tokens, classes=CLASSES)
        return cost.training(self.size, task, SETTINGS | {"epochs": 1, "batch_size": self.batch})

    def evaluation_seconds(self, now: Clock, precision: str = "float32") -> float:
        """Time to predict all texts."""
        return seconds_of(lambda: predict(self.model, self.texts, self.batch, precision), now)

    def step_seconds(self, now: Clock, precision: str = "auto") -> float:
        """Median time of a training step."""
        clock = StepClock(now)
        settings = SETTINGS | {"batch_size": self.batch, "evaluation_batch_size": self.batch, "precision": precision}
        with contextlib.redirect_stdout(io.StringIO()):  # a line for every epoch
            train_classifier(self.model, self.texts, self.texts.first(2), settings, 0, clock)
        return clock.step_seconds()


class StepClock(TrainingHooks):
    """Records when every training step ended and changes nothing in the loop."""

    def __init__(self, now: Clock):
        self.now, self.times = now, []

    def after_step(self, progress: float) -> None:
        self.times.append(self.now())

    def step_seconds(self, warm: int = 4) -> float:
        """Median time of a step, without the first ones."""
        return float(np.median(np.diff(self.times[warm - 1 :])))


def clock_of(device: torch.device) -> Clock:
    """The clock of a device: processor seconds, or seconds after all work of the GPU."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def seconds_of(work: Callable[[], object], now: Clock, least: float = SECONDS) -> float:
    """Median time of a call, after one that warms up; calls for `least` seconds."""
    work()
    times, end = [], time.perf_counter() + least
    while not times or time.perf_counter() < end:
        start = now()
        work()
        times.append(now() - start)
    return float(np.median(times))


def coefficients(rows: list[list[float]], seconds: list[float]) -> list[float]:
    """Seconds per unit of each column, none below 0, with the least squares of the relative errors."""
    matrix, taken = np.array(rows, dtype=float), np.array(seconds)
    scale = matrix.max(axis=0)
    return (nnls(matrix / scale / taken[:, None], np.ones(len(taken)))[0] / scale).tolist()


def measure_core() -> dict[str, float]:
    """Speeds of evaluation and training on one core of the CPU: the entry `cpu` of config/plan.yaml."""
    now, optimiser = clock_of(CPU), measure_optimiser(CPU)
    probes = [Probe.of(width, tokens, batch, CPU) for width, tokens, batch in PROBES]
    works = [probe.evaluation() for probe in probes]
    units = [[work.evaluation_passes, work.flops, work.activations] for work in works]
    launched, per_flop, per_byte = coefficients(units, [probe.evaluation_seconds(now) for probe in probes])
    low = probes[-1].evaluation_seconds(now, "bfloat16") - launched * works[-1].evaluation_passes
    step, taken = probes[0].step(), probes[0].step_seconds(now)
    computed = per_flop * (step.flops + step.low_flops) + per_byte * step.activations + step.moved / (optimiser * 1e9)
    return {
        "tflops": 1e-12 / per_flop,
        "bfloat16_tflops": works[-1].flops / max(low, 1e-9) / 1e12,
        "utilisation": 1.0,
        "gb_per_s": optimiser,
        "activation_gb_per_s": 1e-9 / max(per_byte, 1e-15),
        "layer_ms": 1000 * launched,
        "step_ms": 1000 * max(0.0, taken - computed) / step.steps,
    }


def measure_gpu(device: torch.device) -> dict[str, float]:
    """Speeds of evaluation and training on a GPU: an entry of `machines` in config/plan.yaml.

    Launches hide the computation of the narrow model, and the computation of the wide one hides its launches.
    """
    now = clock_of(device)
    narrow, wide = Probe.of(NARROW, 32, 16, device), Probe.of(WIDE, 128, 128, device)
    optimiser, step = measure_optimiser(device), wide.step()
    computed = max(wide.step_seconds(now) - step.moved / (optimiser * 1e9), 1e-9)
    return {
        "tflops": step.low_flops / computed / 1e12,
        "utilisation": 1.0,
        "float32_tflops": wide.evaluation().flops / wide.evaluation_seconds(now) / 1e12,
        "gb_per_s": optimiser,
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30,
        "layer_ms": 1000 * narrow.evaluation_seconds(now) / narrow.evaluation().evaluation_passes,
        "step_ms": 1000 * narrow.step_seconds(now) / narrow.step().steps,
        "ranked": measure_ranking(device),
        "grid": measure_grid(device),
        "cores": max(1, (os.cpu_count() or 1) // number_of_gpus()),
        "beside_gib": memory_beside() / number_of_gpus() / 2**30,
    }


def measure_optimiser(device: torch.device) -> float:
    """Gigabytes per second that a step of AdamW reads and writes."""
    parameters = [nn.Parameter(torch.zeros(WIDE, 4 * WIDE, device=device)) for _ in range(8)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    moved = cost.ADAMW_BYTES * sum(parameter.numel() for parameter in parameters)
    return moved / seconds_of(torch.optim.AdamW(parameters).step, clock_of(device)) / 1e9


def measure_ranking(device: torch.device) -> float:
    """Million entries per second that are ranked by their density."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, ROW_LENGTH, generator=generator).to(device)
    return rows.numel() / seconds_of(lambda: selection.rank(rows, rows), clock_of(device)) / 1e6


def measure_grid(device: torch.device) -> float:
    """Million entries per second that the points of a grid take, at a share of a quarter."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, ROW_LENGTH, generator=generator).to(device)
    return rows.numel() / seconds_of(lambda: grid.grid_mask(rows, ROW_LENGTH // 4), clock_of(device)) / 1e6


def measure_storing(folder: Path) -> dict[str, float]:
    """Speeds of storing, loading and recording the files of a narrow and of a wide model, and of choosing entries.

    Choosing is measured in the wide one, whose rows are as long as those of real models.
    """
    sizes = {width: Probe.of(width, 8, 2, CPU).size for width in (NARROW, WIDE)}
    wide = sizes[WIDE]
    post_hoc = [m for m in METHODS.values() if m.unit == "share" and not isinstance(m, TrainedMethod)]
    ranking = next(method for method in post_hoc if method.effort(wide, 1).ranked)
    units = [[1.0, size.body_entries] for size in sizes.values()]
    per_file, per_entry = coefficients(units, [_stored_seconds(ranking, width, folder) for width in sizes])
    slowest = max(_stored_seconds(m, WIDE, folder, SECONDS / 4) for m in post_hoc if m.effort(wide, 1).chosen)
    choosing = max(slowest - per_file - per_entry * wide.body_entries, 1e-6)
    return {
        "coded": 1e-6 / per_entry,
        "file_s": per_file + _recorded_seconds(folder),
        "chosen": wide.body_entries / choosing / 1e6,
    }


def _stored_seconds(method: Method, width: int, folder: Path, least: float = SECONDS) -> float:
    """Processor seconds of one file of a model that fine-tuning changed a little: stored, loaded, restored."""
    probe, generator = Probe.of(width, 8, 2, CPU), torch.Generator().manual_seed(0)
    initial = {name: tensor.clone() for name, tensor in probe.model.state_dict().items()}
    finetuned = {name: t + 0.01 * torch.randn(t.shape, generator=generator) for name, t in initial.items()}
    cell = Cell({name: initial[name] for name in probe.size.body}, finetuned, 0, probe.model)
    path, prepared = folder / "stored.safetensors", method.prepare(cell)

    def store_and_restore() -> None:
        method.store(cell, prepared, 0.25, path)
        method.restore_into(cell.skeleton, cell.pretrained, path)

    return seconds_of(store_and_restore, time.process_time, least)


def _recorded_seconds(folder: Path) -> float:
    """Processor seconds to score predictions and write their record."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, CLASSES, (2, SCORED))
    record = {"predictions": predictions.tolist(), "made": provenance.describe_process()}

    def score_and_record() -> None:
        files.write_json(folder / "record.json", record | metrics.scores(labels, predictions))

    return seconds_of(score_and_record, time.process_time, least=SECONDS / 2)


def measure_disk(folder: Path) -> dict[str, float]:
    """Gigabytes per second written to the disk of a folder and read from it, past the cache of the system."""
    path, content = folder / "disk.bin", np.random.default_rng(0).bytes(FILE_BYTES)
    with open(path, "wb") as file:
        start = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    path.read_bytes()
    read = time.perf_counter() - start
    path.unlink()
    return {"write_gb_per_s": FILE_BYTES / written / 1e9, "read_gb_per_s": FILE_BYTES / read / 1e9}


def measure_start() -> float:
    """Processor seconds until a step has imported what it needs: the least of two processes."""
    taken = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", START], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def measure(device: torch.device, folder: Path) -> dict:
    """Measure all speeds and print them.

    Args:
        device: to plan for.
        folder: on the disk of the results.

    Returns:
        cpu and, with a GPU, gpu: entries of `machines` in config/plan.yaml; core: its entry of this name; machine,
        host, measured (when), seconds (how long): a description.
    """
    begun = time.perf_counter()
    torch.set_num_threads(1)
    record: dict = {"core": {}}

    def add(what: str, speeds: dict, new: dict) -> None:
        speeds.update(new)
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in new.items())
        print(f"[{time.perf_counter() - begun:3.0f} s] {what}: {numbers}", flush=True)

    with tempfile.TemporaryDirectory(dir=folder, prefix=".measure.") as name:
        add("start of a process", record["core"], {"start_s": measure_start()})
        add("disk", record["core"], measure_disk(Path(name)))
        add("ranking", record["core"], {"ranked": measure_ranking(CPU), "grid": measure_grid(CPU)})
        add("storing", record["core"], measure_storing(Path(name)))
        add("models on one core", record.setdefault("cpu", {}), measure_core())
        if device.type == "cuda":
            add("models on the GPU", record.setdefault("gpu", {}), measure_gpu(device))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    record |= {"machine": provenance.machine(), "host": socket.gethostname(), "measured": now}
    return record | {"seconds": round(time.perf_counter() - begun)}
