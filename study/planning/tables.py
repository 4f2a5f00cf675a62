"""The plan of a study as plain text: tables of its rules, its models and suitable GPUs."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from statistics import mean

from study.planning import comparison, cost, savings
from study.planning.comparison import Compared
from study.planning.jobs import Job, that_fit, with_costs
from study.planning.schedule import run_seconds
from study.planning.sizes import SizedStudy
from study.running.progress import duration

DOMINANT, WORST = 6, 5  # rows of the tables of jobs that take longest, and whose plans are most wrong


def plan_text(study: SizedStudy, jobs: list[Job], name: str, plan: dict, gpus: int, cores: int) -> str:
    """The whole plan.

    Args:
        jobs: with their costs.
        name: of a machine of the plan.
        plan: config/plan.yaml.
        gpus, cores: numbers of workers.
    """
    if not jobs:
        return f"{study.config['study']}: nothing to do."
    machine, title = plan["machines"][name], study.config["study"]
    whole, all_jobs = study, jobs
    study, jobs, large = that_fit(study, jobs, machine, plan)
    if large:
        title += f" without {', '.join(large)}, too large for {machine['memory_gib']:.0f} GiB"
        if not study.models:
            return f"{title}: no model is left. Name a machine with more memory."
        if not jobs:
            return f"{title}: nothing to do."
    basis = machine.get("basis", "the share of the GPU's peak is assumed")
    workers = _workers(study, machine, gpus, cores)
    disk = size_text(sum(job.disk for job in jobs))
    wall = duration(mean(run_seconds(jobs, gpus, cores, cost.jobs_per_gpu(study))))
    left_out, one_by_one = _not_estimated(jobs), f"{duration(sum(job.seconds for job in jobs))} for all one by one"
    about = "more than" if left_out else "about"
    parts = [
        f"{title}: {len(jobs):,} jobs, {disk} on disk, {about} {wall} on {workers}",
        rule_table(jobs),
        f"Times are estimates (speeds: {basis}); GiB is the memory of the largest job.{left_out}",
        f"Jobs that take longest, all seeds together, of {one_by_one}:",
        dominant_table(jobs),
        f"What a smaller study would save, of {one_by_one}:",
        savings_table(study, jobs, machine, plan),
        "Memory of fine-tuning on a GPU (bfloat16 arithmetic, float32 weights), at the longest batch:",
        memory_table(whole, plan["machines"]),
    ]
    if any(job.rule in cost.ON_GPU for job in all_jobs):
        parts += ["One GPU of each kind:", gpu_table(whole, all_jobs, plan)]
    return "\n\n".join(parts)


def _workers(study: SizedStudy, machine: dict, gpus: int, cores: int) -> str:
    if not cost.is_gpu(machine):
        return f"{cores} x {machine['title']}"
    shared = f", up to {most} jobs at once on a GPU" if (most := cost.jobs_per_gpu(study)) > 1 else ""
    return f"{gpus} x {machine['title']} and {cores} cores{shared}"


def _not_estimated(jobs: list[Job]) -> str:
    rules = [rule for rule in cost.NOT_ESTIMATED if any(job.rule == rule for job in jobs)]
    return f" Not estimated, and counted as if they did nothing: {', '.join(rules)}." if rules else ""


def rule_table(jobs: list[Job]) -> str:
    """Jobs, time, disk and memory of every rule and of all rules together."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.rule].append(job)
    rows = []
    for rule, group in [*groups.items(), ("all", jobs)]:
        seconds, disk = [job.seconds for job in group], sum(job.disk for job in group)
        rows.append(
            [rule, f"{len(group):,}", duration(sum(seconds) / len(group)), duration(max(seconds)),
             f"{sum(seconds) / 3600:,.2f}", size_text(disk) if disk else "", f"{max(job.gib for job in group):.1f}"]
        )  # fmt: skip
    return text_table(["rule", "jobs", "mean", "longest", "hours", "disk", "GiB"], rows)


def memory_table(study: SizedStudy, machines: dict) -> str:
    """Parameters of every model, memory of its fine-tuning on a GPU, and the GPUs with enough memory."""
    rows = []
    for name, size in study.models.items():
        gib = cost.training_gib(size, study.finetuning(name), half=True)
        fits = [kind for kind, machine in machines.items() if machine.get("memory_gib", 0) >= gib]
        rows.append([name, f"{size.parameters / 1e6:,.1f}M", f"{gib:.1f}", " ".join(fits) or "none"])
    return text_table(["model", "parameters", "GiB", "fits on"], rows)


def gpu_table(study: SizedStudy, jobs: list[Job], plan: dict) -> str:
    """Hours of a run on one GPU of each kind, with its cores: the mean of several orders of its jobs, and the longest.

    Models that are too large for a GPU, and their jobs, are left out and named.
    """
    rows, sharing = [], cost.jobs_per_gpu(study)
    for machine in filter(cost.is_gpu, plan["machines"].values()):
        fitting, costed, large = that_fit(study, with_costs(study, jobs, machine, plan), machine, plan)
        trained = [job for job in costed if job.rule in cost.TRAINING]
        training, taken = (run_seconds(group, 1, machine["cores"], sharing) for group in (trained, costed))
        hours = [f"{seconds / 3600:,.1f}" for seconds in (mean(training), mean(taken), max(taken))]
        if not fitting.models:
            hours = [""] * len(hours)
        reached = f"{machine['tflops'] * machine['utilisation']:.0f}"
        left_out = " ".join(large) or "none"
        rows.append([machine["title"], left_out, f"{machine['cores']}", reached, *hours])
    header = ["GPU", "too large", "cores", "TFLOP/s assumed", "training, h", "all jobs, h", "longest order, h"]
    return text_table(header, rows, texts=2)


def dominant_table(jobs: list[Job]) -> str:
    """Time of the rules, models and tasks that take longest, and their share of the whole."""
    seconds: Counter[tuple[str, ...]] = Counter()
    for job in jobs:
        seconds[job.rule, job.wildcards.get("model", ""), job.wildcards.get("task", "")] += job.seconds
    total = max(seconds.total(), 1e-9)
    rows = [[*group, duration(taken), f"{taken / total:.0%}"] for group, taken in seconds.most_common(DOMINANT)]
    return text_table(["rule", "model", "task", "time", "share"], rows, texts=3)


def savings_table(study: SizedStudy, jobs: list[Job], machine: dict, plan: dict) -> str:
    """Time that half the test texts, seeds or budgets would save."""
    total = sum(job.seconds for job in jobs)
    saved = savings.saved_seconds(study, jobs, partial(with_costs, machine=machine, plan=plan))
    rows = [[what, duration(seconds), f"{seconds / total:.0%}"] for what, seconds in saved.items()]
    return text_table(["half the", "saves", "share"], rows)


def comparison_table(compared: Sequence[Compared]) -> str:
    """Planned and taken seconds of each rule and of all rules together, and the median error of a job."""
    rows = []
    for rule, group in comparison.by_rule(compared).items():
        planned, taken = (sum(getattr(one, what) for one in group) for what in ("planned", "taken"))
        of_a_job = comparison.median_error(group)
        rows.append(
            [rule, f"{sum(one.jobs for one in group):,}", f"{planned:,.0f}", f"{taken:,.0f}",
             f"{comparison.total_error(group):+.0%}", "" if of_a_job is None else f"{of_a_job:.0%}"]
        )  # fmt: skip
    return text_table(["rule", "jobs", "planned, s", "taken, s", "error", "median error of a job"], rows)


def worst_table(compared: Sequence[Compared]) -> str:
    """The jobs whose plans are wrong by the most seconds."""
    rows = [
        [" ".join([one.rule, *(one.axes or ())]), f"{one.planned:,.0f}", f"{one.taken:,.0f}", f"{one.error:+.0%}"]
        for one in comparison.worst(compared, WORST)
    ]
    return text_table(["job", "planned, s", "taken, s", "error"], rows)


def text_table(header: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Columns of fixed width; the first `texts` are left-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(count: float) -> str:
    """Bytes in a decimal unit, e.g. "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
