"""The plan of a study as plain text: tables of its rules, its models and suitable GPUs."""

from collections import defaultdict
from collections.abc import Mapping

from study.planning import cost
from study.planning.jobs import Job, calibration_run, seconds_by_rule, wall_seconds, with_costs
from study.planning.sizes import SizedStudy
from study.running.progress import duration


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
    machine = plan["machines"][name]
    workers = f"{cores} x {machine['title']}"
    basis = "not corrected by any run"
    if calibration_run(machine):
        basis = f"corrected by what {machine['calibrated']} took"
    if cost.is_gpu(machine):
        workers, basis = f"{gpus} x {machine['title']} and {cores} cores", "the share of the GPU's peak is assumed"
    disk, wall = size_text(sum(job.disk for job in jobs)), duration(wall_seconds(jobs, gpus, cores))
    left_out = _not_estimated(jobs)
    about = "more than" if left_out else "about"
    parts = [
        f"{study.config['study']}: {len(jobs):,} jobs, {disk} on disk, {about} {wall} on {workers}",
        rule_table(jobs),
        f"Times are estimates ({basis}); GiB is the memory of the largest job.{left_out}",
        "Memory of fine-tuning on a GPU (bfloat16 arithmetic, float32 weights), at the longest batch:",
        memory_table(study, plan["machines"]),
    ]
    if any(job.rule in cost.ON_GPU for job in jobs):
        parts += ["One GPU of each kind:", gpu_table(study, jobs, plan)]
    return "\n\n".join(parts)


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
    """Hours that one GPU of each kind takes for the jobs that use a GPU."""
    rows = []
    for machine in filter(cost.is_gpu, plan["machines"].values()):
        seconds = seconds_by_rule(job for job in with_costs(study, jobs, machine, plan) if job.on_gpu)
        reached = f"{machine['tflops'] * machine['utilisation']:.0f}"
        training = seconds["finetune_model"] + seconds["finetune_random_init"] + seconds["train_method"]
        rows.append([machine["title"], reached, f"{training / 3600:,.1f}", f"{seconds.total() / 3600:,.1f}"])
    return text_table(["GPU", "TFLOP/s assumed", "training, h", "all its jobs, h"], rows)


def comparison_table(estimated: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """Estimated and measured seconds of each rule that has both, and of these rules together."""
    pairs = {rule: (seconds, measured[rule]) for rule, seconds in estimated.items() if measured.get(rule)}
    pairs["all of these"] = tuple(map(sum, zip(*pairs.values(), strict=True)))
    rows = [[rule, f"{guess:,.0f}", f"{took:,.0f}", f"{guess / took:.2f}"] for rule, (guess, took) in pairs.items()]
    return text_table(["rule", "estimated, s", "took, s", "ratio"], rows)


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of fixed width, the first one left-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *others in [header, ["-" * width for width in widths], *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(count: float) -> str:
    """Bytes in a decimal unit, e.g. "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
