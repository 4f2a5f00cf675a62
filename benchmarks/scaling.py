"""Growth of time, memory and disk of pruning with model size, row length and k.

`python -m benchmarks.scaling --folder /tmp --out results/reference/scaling.json` writes pairs of random bfloat16
checkpoints of growing size, runs `ken prune` and `ken inject` on each in separate processes, and records core seconds,
peak memory and bytes. `benchmarks.extrapolation` extrapolates them to 7, 70 and 400 billion parameters.
"""

import resource
import tempfile
from pathlib import Path

from benchmarks import common, streaming

WIDTH = 1024  # default entries of a row
SIZES = (2**22, 2**24, 2**26, 2**27)  # entries of a model
ENTRIES = 2**25  # entries of a model whose row length or k is varied
LENGTHS = (256, 4096, 16384, 65536)  # entries of a row
SHARES = (0.01, 0.25, 0.50)  # kept shares of each row
SHARE = 0.05


def cases() -> list[dict]:
    """All measured cases as (entries, row length, kept share); one of the three varies at a time."""
    described = [(size, WIDTH, SHARE) for size in SIZES]
    described += [(ENTRIES, length, SHARE) for length in LENGTHS]
    described += [(ENTRIES, WIDTH, share) for share in SHARES]
    return [dict(zip(("entries", "row_length", "kept_share"), case, strict=True)) for case in described]


def shapes(entries: int, row_length: int) -> dict[str, tuple[int, int]]:
    """Shapes of matrices with rows of this length and at most 2^25 entries, eight times a block of streaming."""
    height = min(entries, 2**25) // row_length
    return {f"layers.{i}.weight": (height, row_length) for i in range(entries // (height * row_length))}


def core_seconds(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, core seconds and peak MiB of one `ken` command on one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, peak = streaming.run(*arguments, threads=1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def measure(case: dict, root: Path) -> dict:
    """Time, memory and bytes of pruning and injecting a pair of random checkpoints."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        base, tuned, sub, out = (Path(folder, f"{name}.safetensors") for name in ("base", "tuned", "sub", "out"))
        tensor_shapes = shapes(case["entries"], case["row_length"])
        streaming.write_checkpoint(base, tensor_shapes, 0)
        streaming.write_checkpoint(tuned, tensor_shapes, 1, base)
        pair, k = ("--pretrained", str(base), "--finetuned", str(tuned)), str(case["kept_share"])
        pruned = core_seconds("prune", *pair, "--k", k, "--rule", "reset", "--quiet", "--out", str(sub))
        stored = ("--pretrained", str(base), "--subnetwork", str(sub), "--out", str(out))
        injected = core_seconds("inject", *stored, "--quiet")
        measured = {"checkpoint_bytes": base.stat().st_size, "stored_bytes": sub.stat().st_size}
        for name, (wall, core, peak) in {"prune": pruned, "inject": injected}.items():
            measured |= {f"{name}_seconds": wall, f"{name}_core_seconds": core, f"{name}_peak_mib": peak}
        return case | measured


def main() -> None:
    parser = common.parser("Time, memory and disk of pruning over size, row length and k.")
    parser.add_argument("--folder", type=Path, help="where to put the checkpoints; the system's temporary folder")
    a = parser.parse_args()
    rows = [measure(case, a.folder) for case in cases()]
    for row in rows:
        print("  ".join(f"{key} {value:,.4g}" for key, value in row.items()))
    common.finish("scaling", {"cases": rows}, a.out)


if __name__ == "__main__":
    main()
