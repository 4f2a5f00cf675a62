"""What the committed benchmarks measured of the library, as a Markdown table."""

from pathlib import Path

from report import style
from report.results import read_json


def benchmark_block(folder: Path) -> str:
    """Speed, memory and size of the library, as the committed benchmarks measured them."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    numbers = {name: record["numbers"] for name, record in found.items()}
    described = {
        "ranking": _speed, "streaming": _streaming, "swapping": _swapping, "file_size": _files,
        "curvature": _curvature,
    }  # fmt: skip
    rows = [row for name, describe in described.items() if name in numbers for row in describe(numbers[name])]
    lines = "\n".join(f"| {what} | {measured} |" for what, measured in rows)
    commands = ", ".join(f"`python -m benchmarks.{name}`" for name in found)
    machine = next(iter(found.values()))["machine"]
    return f"Measured by {commands} with two threads ({machine['cpu']}):\n\n| what | measured |\n|---|---|\n{lines}"


def _speed(ranking: dict) -> list[tuple[str, str]]:
    loops = ranking["ranking for every k, times faster than scikit-learn for one"]
    return [
        (
            f"rank the {ranking['rows']:,} rows of a BERT-base for every k",
            f"{ranking['ranking, s']:.1f} s: {ranking['ranking, times the sort']:.1f} times a row-wise `torch.sort`, "
            f"{loops:,.0f} times faster than scikit-learn row by row for one k",
        ),
        (
            "the rule of the authors' released code (`ken-grid`), the same rows",
            f"{ranking['ken-grid, times faster than the loop']:.0f} times faster than a loop over rows and points, "
            "with the same kept sets",
        ),
    ]


def _streaming(streaming: dict) -> list[tuple[str, str]]:
    checkpoint, stored = (style.size(streaming[f"{name}, bytes"]) for name in ("checkpoint", "sub-network"))
    peak = max(streaming[f"{name}, peak MiB"] for name in ("prune", "info", "inject"))
    return [
        (
            f"`ken prune` of a pair of the size of {streaming['size']}, {checkpoint} each",
            f"{streaming['prune, s'] / 60:.1f} minutes, {streaming['prune, times reading']:.0f} times reading both "
            f"files once; {style.percent(streaming['k'])} kept make {stored}",
        ),
        (
            "`ken inject` of the result",
            f"{streaming['inject, s']:.0f} s, {streaming['inject, times reading']:.1f} times reading both files",
        ),
        (
            "memory of these commands",
            f"at most {peak:,.0f} MiB, where the largest tensor has {streaming['largest tensor, MiB']:,.0f} MiB",
        ),
    ]


def _files(sizes: dict) -> list[tuple[str, str]]:
    overhead = max(value for name, value in sizes.items() if name.endswith("times values + entropy")) - 1
    return [("size of a file", f"at most {overhead:.1%} above the kept values + log2 C(n, k) bits a row")]


def _curvature(curvature: dict) -> list[tuple[str, str]]:
    width = max(int(name.split(":")[0].removeprefix("width ")) for name in curvature if name.startswith("width "))

    def at(name: str) -> float:
        return curvature[f"width {width}: {name}"]

    growth = curvature["inverses: seconds grow with the width to the power of"]
    return [
        (
            f"LLM Surgeon on one layer of {width:,} × {width:,}, one thread",
            f"inverses {at('inverses, CPU s'):.1f} s (growing with the width to the power of {growth:.1f}), update for "
            f"5 % of rows and columns {at('rows and columns, CPU s'):.0f} s, for "
            f"{style.percent(curvature['elements removed'])} of its elements {at('elements, CPU s'):.0f} s",
        ),
        (
            "its memory",
            f"{at('memory, times both factors'):.1f} times its two factors, where a Fisher matrix would take "
            f"{at('explicit Fisher matrix, times both factors'):,.0f} times as much as they",
        ),
    ]


def _swapping(swapping: dict) -> list[tuple[str, str]]:
    loading = swapping["load_state_dict of a checkpoint in the page cache, s"]
    return [
        (
            f"swap two sub-networks with {style.percent(swapping['kept share'])} kept in a live BERT-base",
            f"{swapping['swap, s']:.2f} s (loading a whole checkpoint that is in memory already: {loading:.2f} s)",
        ),
        (
            "go to the next k of a grid in it",
            f"{swapping['next k, share of that evaluation']:.1%} of the time of evaluating 1,000 texts",
        ),
    ]
