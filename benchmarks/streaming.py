"""Peak memory and time of pruning a large model from disk, with random checkpoints of a real model's shapes.

`python -m benchmarks.streaming --folder /tmp/big` writes two bfloat16 checkpoints with the shapes of BLOOM-1b7 (about
3.5 GB each), runs `ken prune` and `ken inject` in separate processes, and compares peak memory with the largest tensor
and wall time with reading both files once.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import common
from ken.storage.container import framed
from ken.tensors import TensorSpec, bytes_of

DTYPE = torch.bfloat16
CODINGS = {
    "density": ("--k", "0.05", "--rule", "reset"),
    "small": ("--preset", "small"),
    "rounded": ("--k", "0.05", "--values", "rounded"),
}
"""Ways to store a model: the entries of highest kernel density as they are, and small files."""


def write_checkpoint(path: Path, shapes: dict[str, tuple], seed: int, base: Path | None = None) -> None:
    """Write random weights in blocks of rows; with `base`, its weights plus small updates."""
    described, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * DTYPE.itemsize
        described[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    generator = torch.Generator().manual_seed(seed)
    with open(path, "wb") as file, open(base or os.devnull, "rb") as other:
        header = framed(described)
        file.write(header)
        other.seek(len(header))
        for shape in shapes.values():
            spec = TensorSpec(DTYPE, shape)
            for block in spec.blocks():
                count = (block.stop - block.start) * spec.row_shape[1]
                values = torch.randn(count, generator=generator) * (0.04 if base is None else 0.002)
                if base is not None:
                    values += torch.frombuffer(bytearray(other.read(count * DTYPE.itemsize)), dtype=DTYPE).float()
                file.write(bytes_of(values.to(DTYPE)))


def run(*arguments: str, threads: int) -> tuple[float, float]:
    """Seconds and peak MiB of one `ken` command."""
    # Not ru_maxrss, which a process inherits from its parent.
    program = "import sys; from ken import cli; cli.main(sys.argv[1:]); " \
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return time.perf_counter() - start, float(completed.stderr.split()[-2]) / 1024


def read_once(*paths: Path) -> float:
    """Seconds to read files from beginning to end."""
    start = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(2**24):
                pass
    return time.perf_counter() - start


def prune_and_inject(folder: Path, options: tuple[str, ...], threads: int) -> dict[str, float]:
    """Bytes, seconds and peak MiB of pruning the pair of a folder and of restoring it from the result."""
    base, tuned, sub, out = (Path(folder, f"{name}.safetensors") for name in ("base", "tuned", "sub", "out"))
    pair = ("--pretrained", str(base), "--finetuned", str(tuned))
    prune, prune_peak = run("prune", *pair, *options, "--quiet", "--out", str(sub), threads=threads)
    stored = ("--pretrained", str(base), "--subnetwork", str(sub), "--out", str(out))
    inject, inject_peak = run("inject", *stored, "--quiet", threads=threads)
    return {
        "sub-network, bytes": sub.stat().st_size,
        "checkpoint, times the sub-network": base.stat().st_size / sub.stat().st_size,
        "prune, s": prune, "prune, peak MiB": prune_peak, "inject, s": inject, "inject, peak MiB": inject_peak,
    }  # fmt: skip


def main() -> None:
    parser = common.parser("Prune and restore a large pair of checkpoints from disk; memory and time.")
    parser.add_argument("--size", choices=common.SIZES, default="bloom-1b7")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written (default: a temporary folder)")
    a = parser.parse_args()
    shapes = common.shapes(a.size)
    largest = max(map(math.prod, shapes.values())) * DTYPE.itemsize / 2**20
    numbers = {
        "size": a.size, "threads": a.threads, "largest tensor, MiB": largest,
        "allowed: 3 largest + 600, MiB": 3 * largest + 600,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        base, tuned = Path(folder, "base.safetensors"), Path(folder, "tuned.safetensors")
        write_checkpoint(base, shapes, 0)
        write_checkpoint(tuned, shapes, 1, base)
        reading = read_once(base, tuned)
        numbers |= {"checkpoint, bytes": base.stat().st_size, "reading both files once, s": reading}
        for name, options in CODINGS.items():
            measured = prune_and_inject(Path(folder), options, a.threads)
            for work in ("prune", "inject"):
                measured[f"{work}, times reading"] = measured[f"{work}, s"] / reading
            numbers |= {f"{name}: {what}": value for what, value in measured.items()}
    peak = max(value for what, value in numbers.items() if what.endswith("peak MiB"))
    numbers |= {"peak MiB": peak, "peak, share of the allowed": peak / numbers["allowed: 3 largest + 600, MiB"]}
    common.finish("streaming", numbers, a.out)


if __name__ == "__main__":
    main()
