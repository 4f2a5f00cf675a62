"""Extrapolates the measurements of `benchmarks.scaling` to models of 7, 70 and 400 billion parameters.

`python -m benchmarks.extrapolation` reads results/reference/scaling.json, writes the tables into docs/scaling.md and
draws docs/scaling.png. Time is modelled as a constant plus a constant per entry, fitted to all sizes and row lengths.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from baselines import METHODS
from baselines.estimates import kept_bytes
from benchmarks import common
from study.definition import config as study_config
from study.planning import cost
from study.planning.jobs import read_plan
from study.planning.sizes import ModelSize, SizedStudy, TaskSize
from study.planning.tables import size_text

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "reference" / "scaling.json"
STREAMING = ROOT / "results" / "reference" / "benchmarks" / "streaming.json"
DOCUMENT = ROOT / "docs" / "scaling.md"
FIGURE = ROOT / "docs" / "scaling.png"
SHARE = 0.05
TASKS = 50
WIDTH = 2  # bytes of a bfloat16
MARKS = ("<!-- tables: written by `python -m benchmarks.extrapolation` -->", "<!-- end of tables -->")

# As the config.json of each model has it.
MODELS = {
    "BERT-base": ("bert", {}),
    "BLOOM-1b7": ("bloom", {"vocab_size": 250880, "hidden_size": 2048, "n_layer": 24, "n_head": 16}),
    "Llama 2 7B": ("llama", {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
                             "num_attention_heads": 32, "intermediate_size": 11008}),
    "Llama 2 70B": ("llama", {"vocab_size": 32000, "hidden_size": 8192, "num_hidden_layers": 80,
                              "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 28672}),
    "Llama 3.1 405B": ("llama", {"vocab_size": 128256, "hidden_size": 16384, "num_hidden_layers": 126,
                                 "num_attention_heads": 128, "num_key_value_heads": 8, "intermediate_size": 53248}),
}  # fmt: skip


def size_of(kind: str, settings: dict) -> ModelSize:
    """Shapes of the body of a model, from its configuration; nothing is allocated."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **settings)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    body = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    linear = {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return ModelSize(body, 0, linear, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)


def fit(cases: list[dict], step: str) -> tuple[float, float]:
    """Core seconds of a command as (constant, per entry).

    Least squares over all row lengths, at the kept share of the first case.
    """
    fitted = [case for case in cases if case["kept_share"] == cases[0]["kept_share"]]
    entries, seconds = ([case[key] for case in fitted] for key in ("entries", f"{step}_core_seconds"))
    slope, start = np.polyfit(entries, seconds, 1)
    return float(start), float(slope)


def core_seconds(size: ModelSize, cases: list[dict], step: str) -> float:
    """Core seconds of a command for a model."""
    start, per_entry = fit(cases, step)
    return start + per_entry * size.parameters


def subnetwork_bytes(size: ModelSize) -> float:
    """Bytes of a bfloat16 sub-network that keeps `SHARE` of each row."""
    return kept_bytes(size.body, SHARE, WIDTH)


def time_text(seconds: float) -> str:
    """Seconds as text, in the largest suitable unit."""
    for name, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:.1f} s"


def measured_table(cases: list[dict]) -> str:
    """Table of the measurements, one row per case."""
    lines = [
        "| entries | row length | kept | prune, s of one core | ns an entry | peak MiB | inject, s of one core "
        "| checkpoint / sub-network, MB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    start, _ = fit(cases, "prune")
    for case in cases:
        ranking = case["prune_core_seconds"] - start
        # Next to a much longer start, the time for the entries is noise.
        per_entry = f"{1e9 * ranking / case['entries']:.0f}" if ranking > start / 2 else "within the noise of the start"
        sizes = f"{case['checkpoint_bytes'] / 1e6:,.0f} / {case['stored_bytes'] / 1e6:,.1f}"
        lines.append(
            f"| {case['entries'] / 1e6:,.1f}M | {case['row_length']:,} | {case['kept_share']:.0%} "
            f"| {case['prune_core_seconds']:.1f} | {per_entry} | {case['prune_peak_mib']:,.0f} "
            f"| {case['inject_core_seconds']:.1f} | {sizes} |"
        )
    return "\n".join(lines)


def extrapolated_table(cases: list[dict]) -> str:
    """Table of extrapolated time, memory and disk for real models."""
    lines = [
        f"| model | parameters | prune, one core | inject, one core | checkpoint | sub-network at {SHARE:.0%} "
        f"| {TASKS} tasks: copies / base and sub-networks | fine-tuning in full, GiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, described in MODELS.items():
        size = size_of(*described)
        base, sub = WIDTH * size.parameters, subnetwork_bytes(size)
        tuned = cost.TRAINED_BYTES * size.parameters / 2**30
        times = (time_text(core_seconds(size, cases, step)) for step in ("prune", "inject"))
        lines.append(
            f"| {name} | {size.parameters / 1e9:,.2f}B | {' | '.join(times)} | {size_text(base)} | {size_text(sub)} "
            f"| {size_text(TASKS * base)} / {size_text(base + TASKS * sub)} | {tuned:,.0f} |"
        )
    return "\n".join(lines)


def memory_sentence(cases: list[dict]) -> str:
    """Sentence with the range of peak memory over all measurements."""
    peaks = [case[f"{step}_peak_mib"] for case in cases for step in ("prune", "inject")]
    sizes = [case["entries"] for case in cases]
    return (
        f"Peak memory of a command: {min(peaks):,.0f} to {max(peaks):,.0f} MiB over models that differ "
        f"{max(sizes) / min(sizes):,.0f}-fold in size, Python and torch included."
    )


def check_sentence(cases: list[dict], streaming: dict) -> str:
    """Sentence that compares the extrapolation with the model that `benchmarks.streaming` pruned."""
    measured, size = streaming["numbers"], size_of(*MODELS["BLOOM-1b7"])
    threads, times = measured["threads"], size.parameters / max(case["entries"] for case in cases)
    compared = [
        f"{step} {measured[f'density: {step}, s'] * threads:.0f} thread seconds in "
        f"{measured[f'density: {step}, peak MiB']:.0f} MiB, "
        f"extrapolated {core_seconds(size, cases, step):.0f}"
        for step in ("prune", "inject")
    ]
    return (
        f"`python -m benchmarks.streaming` did the same with the shapes of BLOOM-1b7, {times:.0f} times the largest of "
        f"these, on {threads} threads: {'; '.join(compared)}."
    )


def study_table(plan: dict) -> str:
    """Table of a BERT-base study's cost over tasks, seeds and kept shares, from the cost model for one A100."""
    lines = ["| tasks | seeds | kept shares | cells | files | fine-tuning, h | compression, h | disk |"]
    lines += ["|--:|--:|--:|--:|--:|--:|--:|--:|"]
    task = TaskSize(train=60_000, validation=6_000, test=1_000, tokens=14, classes=2)
    source = {"source": "hub", "repository": "nyu-mll/glue", "revision": "main", "text": "sentence", "label": "label"}
    source |= {"splits": {"train": "train", "test": "validation"}}
    model = {"source": "hub", "repository": "google-bert/bert-base-uncased", "revision": "main"}
    for tasks, seeds, shares in ((1, 1, 1), (6, 1, 1), (6, 5, 1), (6, 5, 14)):
        raw = {"study": "s", "seeds": list(range(seeds)), "methods": ["ken"], "models": {"bert": model}}
        raw |= {"kept_shares": [round(0.05 * (i + 1), 2) for i in range(shares)]}
        raw |= {"tasks": {f"task{i}": source for i in range(tasks)}, "finetuning": {"epochs": 2, "batch_size": 32}}
        config = study_config.load(raw, METHODS)
        study = SizedStudy(config, {"bert": size_of(*MODELS["BERT-base"])}, dict.fromkeys(config["tasks"], task))
        hours, disk, cells = [], 0.0, tasks * seeds
        for rule in ("finetune_model", "compress_model"):
            work = cost.work_of(study, rule, {"model": "bert", "task": "task0", "seed": "0"})
            hours.append(cells * cost.seconds_of(work, plan["machines"]["a100"], plan["core"]) / 3600)
            disk += cells * work.disk
        counts = f"| {tasks} | {seeds} | {shares} | {cells} | {cells * (2 + shares)} "
        lines.append(f"{counts}| {hours[0]:.2f} | {hours[1]:.2f} | {size_text(disk)} |")
    return "\n".join(lines)


def draw(cases: list[dict], path: Path) -> None:
    """Draw core seconds over parameters, measured and extrapolated."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for step, colour in (("prune", "#4053d3"), ("inject", "#b51d14")):
        axes.scatter(
            [case["entries"] for case in cases], [case[f"{step}_core_seconds"] for case in cases],
            color=colour, s=14, label=f"ken {step}, measured",
        )  # fmt: skip
        sizes = [size_of(*described) for described in MODELS.values()]
        axes.plot(
            [size.parameters for size in sizes], [core_seconds(size, cases, step) for size in sizes],
            color=colour, marker="o", mfc="white", ls="--", lw=1, label=f"ken {step}, extrapolated",
        )  # fmt: skip
    for name, size in zip(MODELS, sizes, strict=True):
        axes.annotate(name, (size.parameters, core_seconds(size, cases, "prune")), fontsize=7, xytext=(-4, 6),
                      textcoords="offset points", ha="right")  # fmt: skip
    axes.set(xscale="log", yscale="log", ylim=(1, 3e5), xlabel="parameters", ylabel="seconds of one core")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def tables(record: dict) -> str:
    """Text between the markers of the document."""
    cases = record["numbers"]["cases"]
    machine = record["machine"]
    return (
        f"Measured with one thread ({machine['cpu']}, commit {record['commit'][:7]}):\n\n{measured_table(cases)}\n\n"
        f"{memory_sentence(cases)} {check_sentence(cases, common.read(STREAMING))}\n\n"
        f"Extrapolated:\n\n{extrapolated_table(cases)}\n\n"
        f"A study of BERT-base and KEN, by the plan's cost model for an A100:\n\n{study_table(read_plan())}"
    )


def updated(document: str, record: dict) -> str:
    """The document with updated tables.

    Raises:
        ValueError: its markers are missing.
    """
    before, start, rest = document.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (start and end):
        raise ValueError(f"the document lacks the marks {MARKS[0]!r} and {MARKS[1]!r}: put them where the tables go.")
    return f"{before}{start}\n{tables(record)}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Extrapolate measured time, memory and disk to large models.")
    parser.add_argument("--record", type=Path, default=RECORD)
    record = common.read(parser.parse_args().record)
    DOCUMENT.write_text(updated(DOCUMENT.read_text(encoding="utf-8"), record), encoding="utf-8")
    draw(record["numbers"]["cases"], FIGURE)


if __name__ == "__main__":
    main()
