"""Time and memory of inference with restored models, compared with the dense model on the same texts in one run.

Every model is built from its stored file. The models take turns, so that other load on the machine affects all of them
alike. Everything is measured on the CPU.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from study.cells.finetuned_cell import FinetunedCell
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run
from study.training.examples import Examples, predict

COLUMNS = (
    *("model", "task", "seed", "method", "budget", "unit", "form", "parameters", "texts", "milliseconds_per_text"),
    *("relative_time", "peak_mib"),
)


@dataclass(frozen=True)
class Restored:
    """A model to be measured.

    Attributes:
        form: "dense", "restored", "merged", "beside" (an unmerged adapter) or "compiled" (compacted to smaller layers).
    """

    method: str
    budget: float | int
    unit: str
    form: str
    model: nn.Module


def load_models(cell: FinetunedCell, methods: list[str], compressed: Path) -> list[Restored]:
    """Load the fine-tuned model, then the models restored from the files of the methods.

    For methods that keep a share of each row, the first budget is enough, because every budget restores a dense model.
    Budgets that a method declined to store are skipped. A cell whose training failed has no models.
    """
    if cell.failure:
        print(cell.failure, flush=True)
        return []
    models = [_restored(cell, "full", 1.0, compressed, "dense")]
    for name in methods:
        method = cell.method(name)
        budgets = cell.budgets(method)
        for budget in budgets[:1] if method.unit == "share" else budgets:
            if not _stored(compressed, name, budget).with_suffix(".json").is_file():
                print(f"{name} has stored nothing at {budget}: its scores.csv says why", flush=True)
                continue
            models.append(_restored(cell, name, budget, compressed, method.form))
            path = _stored(compressed, name, budget)
            adapter = method.unmerged_adapter(_initial_model(cell), cell.for_method(method, 0), path)
            if adapter is not None:
                models.append(Restored(name, budget, method.unit, "beside", adapter.eval()))
    return models


def _stored(compressed: Path, name: str, budget: float | int) -> Path:
    return compressed / name / "draw0" / f"{budget}.safetensors"


def _initial_model(cell: FinetunedCell) -> nn.Module:
    model = cell.new_model()
    model.load_state_dict(cell.initial)
    return model


def _restored(cell: FinetunedCell, name: str, budget: float | int, compressed: Path, form: str) -> Restored:
    method, path = cell.method(name), _stored(compressed, name, budget)
    record = files.read_json(path.with_suffix(".json"))
    files.check(path.parent, {path.name: record["row"]["sha256"]}, remove=compressed / name / "scores.csv")
    model = method.restore_into(_initial_model(cell), cell.pretrained, path).eval()
    return Restored(name, budget, method.unit, form, model)


def measure(models: list[Restored], examples: Examples, batch_size: int, passes: int) -> list[dict]:
    """One row per model: parameters, time per text (fastest pass), time relative to the first model, peak memory."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(passes + 1):  # the first pass warms up
        for times, entry in zip(seconds, models, strict=True):
            start = time.perf_counter()
            predict(entry.model, examples, batch_size)
            times.append(time.perf_counter() - start)
    fastest = [min(times[1:]) for times in seconds]  # other load can only slow a pass down
    return [
        {
            **{key: getattr(entry, key) for key in ("method", "budget", "unit", "form")},
            "parameters": sum(parameter.numel() for parameter in entry.model.parameters()),
            "texts": len(examples),
            "milliseconds_per_text": 1000 * least / len(examples),
            "relative_time": least / fastest[0],
            "peak_mib": peak_bytes(entry.model, examples, batch_size) / 2**20,
        }
        for entry, least in zip(models, fastest, strict=True)
    ]


def peak_bytes(model: nn.Module, examples: Examples, batch_size: int) -> int:
    """Bytes of the parameters plus the peak of the intermediate results of a pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        predict(model, examples, batch_size)
    held = peak = 0
    for event in sorted(profile.events(), key=lambda event: event.time_range.end):
        held += event.self_cpu_memory_usage
        peak = max(peak, held)
    return peak + sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def main() -> None:
    a, study, paths = parse_step("Measure inference of the restored models of a cell.", "model", "task", "seed")
    axes, section = (a.model, a.task, a.seed), study.inference_settings(a.task)
    provenance.make_deterministic(0)
    cell = FinetunedCell(paths.finetuned(*axes), paths.task(a.task), section["settings"])
    models = load_models(cell, section["methods"], paths.cell(*axes) / "compressed")
    rows = measure(models, cell.split("test").first(section["texts"]), cell.batch_size, section["passes"])
    out = paths.inference(*axes)
    files.write_csv(out, pd.DataFrame([cell.axes | row for row in rows], columns=list(COLUMNS)))
    manifest = {"sha256": {out.name: files.sha256(out)}, "inputs": cell.inputs, "made": provenance.describe_process()}
    files.write_json(out.with_suffix(".json"), manifest)
    for row in rows:
        print(f"{row['method']} {row['budget']} {row['form']}: {row['relative_time']:.2f} times the dense model")


if __name__ == "__main__":
    run(main)
