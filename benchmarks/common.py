"""What the benchmarks share: the shapes of real models, clocks, and the record of a run."""

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
    """Configuration of an original model, as transformers has it."""
    from transformers import BertConfig, BloomConfig

    return {
        "bert-base": BertConfig(),
        "bloom-560m": BloomConfig(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16),
        "bloom-1b7": BloomConfig(vocab_size=250880, hidden_size=2048, n_layer=24, n_head=16),
    }[size]


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape of the body of an original model, from its configuration; nothing is allocated."""
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(configuration(size))
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def row_lengths(size: str) -> Counter:
    """Length of a row -> number of such rows in the body of a model."""
    return estimates.row_lengths(shapes(size))


def seconds_of(work: Callable[[], object], repeats: int = 3, device: str = "cpu") -> float:
    """Median wall time of `work`, after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def parser(description: str) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--out", type=Path, help="JSON file to write the numbers to")
    return made


def finish(name: str, numbers: dict, out: Path | None) -> None:
    """Print the numbers, and keep them with machine and versions."""
    for key, value in numbers.items():
        print(f"{key:58} {value:,.4g}" if isinstance(value, float) else f"{key:58} {value}")
    if out:
        commit, dirty = provenance.commit()
        record = {"benchmark": name, "numbers": numbers, "machine": provenance.machine(), "commit": commit}
        files.write_json(out, record | {"dirty": dirty, "versions": provenance.versions()})


def read(path: Path) -> dict:
    """A record that `finish` has written."""
    return json.loads(path.read_text())
