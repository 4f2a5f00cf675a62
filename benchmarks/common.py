"""Shared by the benchmarks: shapes of real models, timing, and the record of a run."""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from baselines import estimates
from study.running import files, provenance

SIZES = ("bert-base", "bloom-560m", "bloom-1b7")


def configuration(size: str):
    """The transformers configuration of an original model."""
    from transformers import BertConfig, BloomConfig

    return {
        "bert-base": BertConfig(),
        "bloom-560m": BloomConfig(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16),
        "bloom-1b7": BloomConfig(vocab_size=250880, hidden_size=2048, n_layer=24, n_head=16),
    }[size]


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape, for the body of an original model; allocates no memory."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(configuration(size))
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def row_lengths(size: str) -> Counter:
    """Row length -> number of such rows in the body of a model."""
    return estimates.row_lengths(shapes(size))


def seconds_of(work: Callable[[], object], repeats: int = 3, device: str = "cpu") -> float:
    """Median wall time of `work`, after one warm-up run."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--out", type=Path, help="JSON file to write the numbers to")
    return result


def finish(name: str, numbers: dict, out: Path | None) -> None:
    """Print the numbers, and write them to a file with machine and versions."""
    for key, value in numbers.items():
        print(f"{key:58} {value:,.4g}" if isinstance(value, float) else f"{key:58} {value}")
    record(name, numbers, out)


def record(name: str, numbers: dict, out: Path | None) -> None:
    """Write the numbers of a run to a file with machine and versions, if there is a file to write to."""
    if out:
        commit, dirty = provenance.commit()
        made = {"benchmark": name, "numbers": numbers, "machine": provenance.machine(), "commit": commit}
        files.write_json(out, made | {"dirty": dirty, "versions": provenance.versions()})


def read(path: Path) -> dict:
    """Read a record written by `finish`."""
    return json.loads(path.read_text())
