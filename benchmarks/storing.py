"""Processor time to write and read files of a model of the size of BERT-base, as a study does for every budget.

The other side is what one would write without a format of one's own: kept values by a bool mask and positions as one
bit an entry in a safetensors file, and SHA-256 of the file. `--before FOLDER` also measures another checkout of this
repository, such as one made by `git worktree add FOLDER COMMIT`, between two measurements of this one.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
LAYERS, WIDTH, VOCABULARY, POSITIONS = 12, 768, 30522, 512
KEPT = (0.05, 0.25, 0.75)
CASES = (*(("ken", share) for share in KEPT), ("delta-magnitude", 0.25), ("ken-3bit", 0.25), ("seeded-3bit", 0.25))
ROUNDS = 3
STRAIGHTFORWARD = "straightforward"
Tensors = dict[str, torch.Tensor]


def pair() -> tuple[Tensors, Tensors]:
    """Random pre-trained values of the matrices of BERT-base, and the same changed a little."""
    generator = torch.Generator().manual_seed(0)
    layer = [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH), *[(WIDTH, WIDTH)] * 4]
    shapes = [(VOCABULARY, WIDTH), (POSITIONS, WIDTH), *LAYERS * layer]
    base = {f"{index}.weight": 0.04 * torch.randn(shape, generator=generator) for index, shape in enumerate(shapes)}
    return base, {name: t + 1e-3 * torch.randn(t.shape, generator=generator) for name, t in base.items()}


def model_of(tensors: Tensors) -> torch.nn.Module:
    """A module with parameters of these names."""
    model = torch.nn.Module()
    for name, tensor in tensors.items():
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(tensor.clone(), requires_grad=False)
        model.add_module(name.partition(".")[0], layer)
    return model


def straightforward(base: Tensors, tuned: Tensors, model: torch.nn.Module, masks: Tensors, path: Path) -> None:
    """Write the kept entries, read them back, and put them over the base into a model."""
    from safetensors.torch import load_file, save_file

    parts = {f"{name}.values": tuned[name][mask] for name, mask in masks.items()}
    parts |= {f"{name}.positions": torch.from_numpy(np.packbits(mask.numpy())) for name, mask in masks.items()}
    save_file(parts, path)
    hashlib.sha256(path.read_bytes())
    read, live = load_file(path), model.state_dict()
    for name, tensor in base.items():
        bits = np.unpackbits(read[f"{name}.positions"].numpy(), count=tensor.numel())
        live[name].copy_(tensor)
        live[name][torch.from_numpy(bits.view(bool)).view(tensor.shape)] = read[f"{name}.values"]


def measure(threads: int) -> dict[str, float]:
    """Case -> least seconds of `ROUNDS` rounds: of this process's processor with one thread, else wall time."""
    from baselines import METHODS
    from baselines.base import Cell
    from ken import selection
    from study.running import files

    torch.set_num_threads(threads)
    clock: Callable[[], float] = time.process_time if threads == 1 else time.perf_counter
    base, tuned = pair()
    cell, seconds = Cell(base, tuned, 0, model_of(base)), {}
    ranks = selection.rank_tensors(tuned, base, "random", seed=1)  # which entries are kept does not change the time
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, "stored.safetensors")
        for name, share in CASES:
            method = METHODS[name]

            def store(method=method, share=share) -> None:
                method.store(cell, {} if method.name.startswith("seeded") else ranks, share, path)
                files.sha256(path)
                method.restore_into(cell.skeleton, base, path)

            seconds[f"{name}, {share:.0%}"] = least(store, clock)
        model = model_of(base)
        for share in KEPT:
            masks = {name: selection.mask_from_ranks(tensor, share) for name, tensor in ranks.items()}
            one = least(lambda masks=masks: straightforward(base, tuned, model, masks, path), clock)
            seconds[f"{STRAIGHTFORWARD}, {share:.0%}"] = one
    return seconds


def least(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """The least time of `ROUNDS` calls after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def measured(checkout: Path, threads: int) -> dict[str, float]:
    """`measure` in a process that imports the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(threads)]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from benchmarks import common

    parser = common.parser("Time writing and reading the files of a model of the size of BERT-base.")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout to compare with")
    a = parser.parse_args()
    numbers: dict[str, object] = {"entries": sum(tensor.numel() for tensor in pair()[0].values()), "threads": a.threads}
    now = measured(ROOT, a.threads)
    earlier = measured(a.before.resolve(), a.threads) if a.before else {}
    again = measured(ROOT, a.threads)
    for case, seconds in now.items():
        seconds = numbers[f"{case}, s"] = min(seconds, again[case])
        if case in earlier and not case.startswith(STRAIGHTFORWARD):
            numbers[f"{case}: times faster than before"] = earlier[case] / seconds
    for share in KEPT:
        ratio = numbers[f"{STRAIGHTFORWARD}, {share:.0%}, s"] / numbers[f"ken, {share:.0%}, s"]
        numbers[f"ken, {share:.0%}: times faster than straightforward"] = ratio
    common.finish("storing", numbers, a.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main()
