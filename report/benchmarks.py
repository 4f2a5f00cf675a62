"""Committed benchmarks of the library as Markdown tables."""

from pathlib import Path
from statistics import median

from report import style
from report.results import read_json


def benchmark_block(folder: Path) -> str:
    """Speed, memory and file size of the library."""
    described = {
        "ranking": _speed, "streaming": _streaming, "storing": _storing, "swapping": _swapping, "library": _library,
        "file_size": _files, "curvature": _curvature,
    }  # fmt: skip
    paths = {name: folder / f"{name}.json" for name in sorted(described)}
    records = {name: read_json(path) for name, path in paths.items() if path.exists()}
    numbers = {name: record["numbers"] for name, record in records.items()}
    rows = [row for name, describe in described.items() if name in numbers for row in describe(numbers[name])]
    commands = ", ".join(f"`python -m benchmarks.{name}`" for name in records)
    machine = next(iter(records.values()))["machine"]
    return f"Measured by {commands} with two threads ({machine['cpu']}):\n\n{_table(rows)}"


def rivals_block(folder: Path) -> str:
    """A fine-tuned model stored by `ken` and by other libraries, smallest files first."""
    record = read_json(folder / "rivals.json")
    numbers, mark = record["numbers"], ": share of the dense file"
    labels = [name.removesuffix(mark) for name in numbers if name.endswith(mark)]
    labels.sort(key=lambda label: numbers[label + mark])
    versions = {"torch": record["versions"]["torch"]} | dict(sorted(numbers["versions"].items()))
    packages = style.listed([f"{package} {version}" for package, version in versions.items()])
    notes = "".join(f" {note}." for note in numbers["notes"])
    header = ["stored by", "share of the dense file", "written in", "restored in", "error of the update", "weighted F1"]
    return (
        f"Measured by `python -m benchmarks.rivals` on a model of {numbers['parameters'] / 1e6:.1f} M parameters "
        f"({style.size(numbers['dense file, bytes'])}, weighted F1 {style.score(numbers['dense: weighted F1'])}) with "
        f"{style.count(numbers['threads'], 'thread')} ({record['machine']['cpu']}), {packages}.{notes}\n\n"
        + style.markdown(header, [_rival(numbers, label) for label in labels], [False] + 5 * [True]).rstrip()
    )


def evaluation_block(folder: Path) -> str:
    """Evaluating many sub-networks of one model, compared with the straightforward way."""
    record = read_json(folder / "evaluation.json")
    numbers, mark = record["numbers"], ": before, times after"
    rows = [
        (
            f"{name}: {numbers['budgets']} sub-networks",
            f"{numbers[name + mark]:.1f} times as fast ({numbers[f'{name}: before, s']:.0f} s and "
            f"{numbers[f'{name}: after, s']:.0f} s), {style.percent(numbers[f'{name}: share of equal predictions'])} "
            "of the predictions equal",
        )
        for name in (key.removesuffix(mark) for key in numbers if key.endswith(mark))
    ]
    threads = style.count(numbers["threads"], "thread")
    return (
        f"Measured by `python -m benchmarks.evaluation` with {threads} ({record['machine']['cpu']}):\n\n{_table(rows)}"
    )


def _rival(numbers: dict, label: str) -> list[str]:
    def of(what: str) -> float:
        return numbers[f"{label}: {what}"]

    return [
        f"`{label}`" if label.startswith("ken ") else label,
        style.percent(of("share of the dense file")),
        f"{of('writing, s'):.1f} s",
        f"{of('restoring, s'):.1f} s",
        "exact" if of("exact") else f"{of('relative error'):.2f}",
        style.score(of("weighted F1")),
    ]


def gpu_block(folder: Path) -> str:
    """Ranking and fine-tuning on a GPU, from the benchmarks of one machine."""
    rankings = [read_json(path)["numbers"] for path in sorted(folder.glob("ranking_*.json"))]
    record = read_json(folder / "finetuning.json")
    machine, torch = record["machine"], record["versions"]["torch"]
    rows = [_gpu_ranking(numbers) for numbers in rankings] + _gpu_steps(record["numbers"])
    where = f"one {machine['gpu']} with {machine['cores']} CPU cores ({machine['cpu']}), torch {torch}{_state(record)}"
    return f"Measured on {where}:\n\n{_table(rows)}"


def plan_block(folder: Path) -> str:
    """Errors of the plan on finished studies, and on one cell of BERT's size."""
    record, cell = read_json(folder / "planning.json"), read_json(folder / "real_size.json")["numbers"]
    rows = [_planned(title, numbers) for title, numbers in record["numbers"].items()]
    rows.append(_planned_cell(cell))
    header = ["run", "jobs", "planned, s", "taken, s", "error of the total", "median error of a job"]
    return (
        f"Planned with the speeds measured on the machine of these runs ({record['machine']['cpu']}"
        f"{_state(record)}):\n\n" + style.markdown(header, rows, [False] + 5 * [True]).rstrip()
    )


def _planned(title: str, numbers: dict) -> list[str]:
    planned, taken, of_a_job = (numbers[name] for name in ("planned, s", "taken, s", "median error of a job"))
    return [
        f"{title}, in {numbers['unit']}",
        f"{numbers['jobs']:,}",
        f"{planned:,.0f}",
        f"{taken:,.0f}",
        f"{planned / taken - 1:+.0%}",
        "" if of_a_job is None else f"{of_a_job:.0%}",
    ]


def _planned_cell(cell: dict) -> list[str]:
    """One cell of BERT's size as a row of the same table."""
    rules = [name.removesuffix(": taken, s") for name in cell if name.endswith(": taken, s")]
    planned, taken = ([cell[f"{rule}: {what}, s"] for rule in rules] for what in ("planned", "taken"))
    errors = [abs(guess / took - 1) for guess, took in zip(planned, taken, strict=True)]
    row = {"unit": cell["unit"], "jobs": len(rules), "planned, s": sum(planned), "taken, s": sum(taken)}
    return _planned("one cell of BERT-base, 200 texts", row | {"median error of a job": median(errors)})


def _table(rows: list[tuple[str, str]]) -> str:
    return style.markdown(["what", "measured"], rows, [False, False]).rstrip()


def _state(record: dict) -> str:
    """Text for the commit of a record."""
    return f", commit {record['commit'][:7]}{' with uncommitted changes' if record['dirty'] else ''}"


def _gpu_ranking(ranking: dict) -> tuple[str, str]:
    binned, exact = (ranking[f"{way}: ranking, s"] for way in ("binned", "exact"))
    same = {way: ranking[f"{way}: ranks equal to the CPU's, share of a sample"] for way in ("binned", "exact")}
    return (
        f"rank the {ranking['rows']:,} rows of {ranking['size']} for every k",
        f"{binned:.1f} s, {ranking['entries'] / binned / 1e6:,.0f} million entries a second (with the exact density "
        f"{exact:.1f} s); ranks of a sample equal to the CPU's: {same['binned']:.3%} (exact: {same['exact']:.3%}); "
        f"{'deterministic' if ranking['deterministic'] else 'fastest'} kernels",
    )


def _gpu_steps(tuning: dict) -> list[tuple[str, str]]:
    """One row per size, smallest first, with its numbers at all lengths."""
    cases = [name.removesuffix(" tokens: step, s").split(", ") for name in tuning if name.endswith("step, s")]
    lengths: dict[str, list[int]] = {}
    for size, tokens in sorted(cases, key=lambda case: int(case[1])):
        lengths.setdefault(size, []).append(int(tokens))

    def all_of(size: str, what: str, form: str, factor: float = 1) -> str:
        return " / ".join(format(tuning[f"{size}, {n} tokens: {what}"] * factor, form) for n in lengths[size])

    memory = "GiB with the CUDA context"
    return [
        (
            f"a step of fine-tuning {size}, {tuning['batch']} texts of {' / '.join(map(str, lengths[size]))} tokens",
            f"{all_of(size, 'step, s', '.0f', 1000)} ms ({all_of(size, 'TFLOP/s', '.0f')} TFLOP/s), "
            f"{all_of(size, 'times faster than in float32', '.1f')} times faster than in float32, "
            f"{all_of(size, memory, '.1f')} GiB",
        )
        for size in sorted(lengths, key=lambda size: tuning[f"{size}, {lengths[size][0]} tokens: {memory}"])
    ]


def _speed(ranking: dict) -> list[tuple[str, str]]:
    loops = ranking["ranking for every k, times faster than scikit-learn for one"]
    return [
        (
            f"rank the {ranking['rows']:,} rows of a BERT-base for every k",
            f"{ranking['ranking, s']:.1f} s: {ranking['ranking, times the sort']:.1f} times a row-wise `torch.sort`, "
            f"{loops:,.0f} times faster than scikit-learn row by row for one k",
        ),
        (
            "rank the same rows by the rule of the authors' released code (`ken-grid`)",
            f"{ranking['ken-grid, times faster than the loop']:.0f} times faster than scikit-learn and numpy "
            "row by row, with the same kept sets",
        ),
    ]


def _streaming(streaming: dict) -> list[tuple[str, str]]:
    checkpoint = style.size(streaming["checkpoint, bytes"])
    rows = []
    for name, how in {
        "density": "5 % by kernel density, values as they are",
        "small": "`--preset small`",
        "rounded": "`--values rounded`",
    }.items():
        measured = {what: streaming[f"{name}: {what}"] for what in ("prune, s", "inject, s", "sub-network, bytes")}
        rows.append(
            (
                f"`ken prune` of two checkpoints of the size of {streaming['size']}, {checkpoint} each: {how}",
                f"{measured['prune, s']:.0f} s; the sub-network has {style.size(measured['sub-network, bytes'])}; "
                f"`ken inject` of it takes {measured['inject, s']:.0f} s",
            )
        )
    read = streaming["reading both files once, s"]
    memory = (
        f"{streaming['peak MiB']:,.0f} MiB; the largest tensor alone has {streaming['largest tensor, MiB']:,.0f} MiB"
    )
    return [*rows, ("reading both checkpoints once", f"{read:.1f} s"), ("peak memory of these commands", memory)]


def _storing(storing: dict) -> list[tuple[str, str]]:
    parts = []
    for share in (0.05, 0.25, 0.75):
        of = f"ken, {share:.0%}"
        ratio = storing[f"{of}, s"] / storing[f"straightforward, {share:.0%}, s"]
        parts.append(f"{storing[f'{of}, s']:.1f} s with {style.percent(share)} kept ({ratio:.1f} times as long)")
    entries, threads = storing["entries"] / 1e6, style.count(storing["threads"], "thread")
    what = f"write a file of {entries:.0f} M entries, hash, read and restore it, {threads}"
    return [(f"{what} (beside a mask in bits and values in a safetensors file)", ", ".join(parts))]


def _library(library: dict) -> list[tuple[str, str]]:
    presets = [name for name in ("small", "balanced") if f"{name}: library, bytes" in library]
    rows = [
        (
            f"`ken library` of {library['models']} fine-tunings of a BERT of "
            f"{library['parameters of the base'] / 1e6:.1f} M parameters, `--preset {name}`",
            f"{library[f'{name}: base and library, times the base']:.2f} times the base, which is included; "
            f"{style.points(library[f'{name}: points to full, mean'])} points of weighted F1 on average and "
            f"{style.points(library[f'{name}: points to full, lowest'])} in the worst model, with full models at "
            f"{style.score(library['full: weighted F1, mean'])} on average",
        )
        for name in presets
    ]
    slowest = max(library[f"{name}: restoring to a folder, s per 20 M"] for name in presets)
    copying = library["copying a dense folder, s per 20 M"]
    return [
        *rows,
        (
            "`ken library restore` of a model of 23 M parameters",
            f"{slowest:.2f} s per 20 M parameters on one core (copying the folder of a dense model: {copying:.2f} s)",
        ),
    ]


def _files(sizes: dict) -> list[tuple[str, str]]:
    overhead = max(value for name, value in sizes.items() if name.endswith("times values + entropy")) - 1
    return [("size of a file", f"at most {overhead:.1%} more than the kept values and log2 C(n, k) bits per row")]


def _curvature(curvature: dict) -> list[tuple[str, str]]:
    width = max(int(name.split(":")[0].removeprefix("width ")) for name in curvature if name.startswith("width "))

    def at(name: str) -> float:
        return curvature[f"width {width}: {name}"]

    growth = curvature["inverses: seconds grow with the width to the power of"]
    return [
        (
            f"LLM Surgeon on one layer of {width:,} × {width:,}, one thread",
            f"inverses {at('inverses, CPU s'):.1f} s (grows with the width to the power of {growth:.1f}); update after "
            f"removing 5 % of rows and columns {at('rows and columns, CPU s'):.0f} s, "
            f"{style.percent(curvature['elements removed'])} of the elements {at('elements, CPU s'):.0f} s",
        ),
        (
            "memory of LLM Surgeon on this layer",
            f"{at('memory, times both factors'):.1f} times its two Kronecker factors; the full Fisher matrix would be "
            f"{at('explicit Fisher matrix, times both factors'):,.0f} times their size",
        ),
    ]


def _swapping(swapping: dict) -> list[tuple[str, str]]:
    loading = swapping["load_state_dict of a checkpoint in the page cache, s"]
    return [
        (
            f"swap two sub-networks with {style.percent(swapping['kept share'])} kept in a live BERT-base",
            f"{swapping['swap, s']:.2f} s (loading a whole checkpoint from the page cache: {loading:.2f} s); a loaded "
            f"sub-network holds {style.percent(swapping['held in memory for one task, share of a checkpoint'])} of a "
            "checkpoint's bytes in memory",
        ),
        (
            "change it to the next k of a grid",
            f"{swapping['next k, share of that evaluation']:.1%} of the time of evaluating 1,000 texts",
        ),
    ]
