"""Speed of fine-tuning on a device, in bfloat16 and in float32, compared with the estimates of `make plan`.

`python -m benchmarks.finetuning --device cuda` trains models of real sizes, from random weights on random tokens, with
the study's own loop and deterministic kernels, for some steps of 32 short and 32 long texts. Seconds and memory are
compared with the estimates of `study.planning.cost` for the machine. `--sizes bert-base --steps 4` is enough on a CPU.
"""

import argparse
import gc
import time

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from benchmarks import common
from study.planning import cost
from study.planning.jobs import read_plan
from study.planning.sizes import ModelSize, TaskSize, model_size
from study.planning.speeds import StepClock
from study.running import provenance
from study.running.device import acquire_device
from study.training.classification import train_classifier
from study.training.examples import Examples

BATCH, CLASSES = 32, 2
LENGTHS = (16, 128)  # tokens of a text: about those of a question, and the longest that the paper's study reads
WARM = 4  # warm-up steps, which are not measured
SETTINGS = {
    "epochs": 1, "batch_size": BATCH, "evaluation_batch_size": BATCH, "learning_rate": 2e-5, "warmup_share": 0.1,
    "weight_decay": 0.01,
}  # fmt: skip


def now() -> float:
    """Seconds, after all work of the GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_texts(rows: int, tokens: int, seed: int) -> Examples:
    """Texts of equal length with random tokens."""
    rng = np.random.default_rng(seed)
    return Examples(rng.integers(5, 25_000, (rows, tokens)).tolist(), rng.integers(0, CLASSES, rows), 0)


def new_model(config: PreTrainedConfig, device: torch.device) -> nn.Module:
    """The classifier of a configuration with random weights, made on the device."""
    with device:
        return AutoModelForSequenceClassification.from_config(config)


def measure(
    config: PreTrainedConfig, tokens: int, precision: str, steps: int, device: torch.device
) -> dict[str, float]:
    """Seconds of a step and, on a GPU, the peak of torch's memory in GiB."""
    model, clock = new_model(config, device), StepClock(now)
    settings = SETTINGS | {"precision": precision}
    sets = random_texts((steps + WARM) * BATCH, tokens, 0), random_texts(BATCH, tokens, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train_classifier(model, *sets, settings, 0, clock)
    measured = {"s": clock.step_seconds(WARM)}
    if device.type == "cuda":
        measured["GiB"] = torch.cuda.max_memory_allocated() / 2**30
        del model, sets
        gc.collect()
        torch.cuda.empty_cache()
    return measured


def planned_step(size: ModelSize, tokens: int, machine: dict, core: dict) -> tuple[float, float]:
    """Floating-point operations of a step, and the plan's estimate of its seconds."""
    task = TaskSize(train=BATCH, validation=0, test=0, tokens=tokens, classes=CLASSES)
    work = cost.training(size, task, SETTINGS)
    return work.flops + work.low_flops, cost.seconds_of(work, machine, core) - core["start_s"]


def numbers_of(size: str, a: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Results of one size at both lengths and in both precisions, compared with the plan."""
    config, known = common.configuration(size), read_plan()
    config.num_labels, config.pad_token_id = CLASSES, 0
    shapes, numbers = model_size(config), {}
    for tokens in LENGTHS:
        name = f"{size}, {tokens} tokens"
        flops, expected = planned_step(shapes, tokens, known["machines"][a.machine], known["core"])
        measured = {precision: measure(config, tokens, precision, a.steps, device) for precision in ("auto", "float32")}
        auto, single = measured["auto"]["s"], measured["float32"]["s"]
        numbers |= {
            f"{name}: step, s": auto,
            f"{name}: TFLOP/s": flops / auto / 1e12,
            f"{name}: times faster than in float32": single / auto,
            f"{name}: plan's seconds, times those measured": expected / auto,
        }
        if device.type == "cuda":
            gib = cost.training_gib(shapes, SETTINGS | {"max_length": tokens}, half=True)
            numbers[f"{name}: GiB with the CUDA context"] = measured["auto"]["GiB"] + cost.CONTEXT_GIB
            numbers[f"{name}: plan's GiB, times those measured"] = gib / (measured["auto"]["GiB"] + cost.CONTEXT_GIB)
    return numbers


def main() -> None:
    parser = common.parser("Time fine-tuning on a device, against float32 and against the plan.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", nargs="+", choices=common.SIZES, default=list(common.SIZES))
    parser.add_argument("--steps", type=int, default=20, help="number of measured steps")
    parser.add_argument("--machine", default="h100", help="machine of config/plan.yaml to compare with")
    a = parser.parse_args()
    device = torch.device("cpu") if a.device == "cpu" else acquire_device()
    provenance.make_deterministic(0)
    torch.set_num_threads(a.threads)
    numbers: dict[str, object] = {"device": a.device, "batch": BATCH, "steps": a.steps, "compared with": a.machine}
    for size in a.sizes:
        numbers |= numbers_of(size, a, device)
    common.finish("finetuning", numbers, a.out)


if __name__ == "__main__":
    main()
