"""Progress lines: the arithmetic on crafted log records, and a real toy workflow."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_executor_plugins.settings import ExecMode
from snakemake_interface_logger_plugins.common import LogEvent

from baselines import METHODS
from study.definition import config as study_config
from study.planning import jobs
from study.planning.machines import MEASURED, chosen_machine, known_machines
from study.running.progress import (
    Estimate,
    Plan,
    ProgressHandler,
    benchmarked_seconds,
    describe,
    duration,
    show_progress,
)

ROOT = Path(__file__).parents[3]
SNAKEFILE = """
from study.running.progress import benchmarked_seconds, show_progress
show_progress(workflow, benchmarked_seconds("benchmarks"))
rule all:
    input: "out/a.txt", "out/b.raw"
rule make_raw:
    output: "out/{name}.raw"
    benchmark: "benchmarks/make_raw/{name}.tsv"
    shell: "touch {output}"
rule make_text:
    input: "out/{name}.raw"
    output: "out/{name}.txt"
    run:  # in a child process
        open(output[0], "w").close()
"""


def record(event, created, **extra):
    made = logging.makeLogRecord({"event": event, "levelno": logging.INFO, "levelname": "INFO", **extra})
    made.created = created
    return made


def started(job, rule, at, **wildcards):
    return record(LogEvent.JOB_INFO, at, jobid=job, rule_name=rule, wildcards=wildcards)


def finished(job, at):
    return record(LogEvent.JOB_FINISHED, at, job_id=job)


def lines(capsys, handler, *records):
    for each in records:
        handler.handle(each)
    return capsys.readouterr().err.splitlines()


def run_info(at, **stats):
    return record(LogEvent.RUN_INFO, at, stats={**stats, "total": sum(stats.values())})


def test_time_left_uses_the_observed_parallelism(capsys):
    handler = ProgressHandler()
    # Two at a time, ten seconds each: after four of 20 there are 16 to do in 80 seconds.
    records = [run_info(0, train=20)]
    for pair in range(2):
        jobs = (2 * pair, 2 * pair + 1)
        records += [started(job, "train", 10 * pair, model="bert", seed=str(job)) for job in jobs]
        records += [finished(job, 10 * pair + 10) for job in jobs]
    printed = lines(capsys, handler, *records)
    assert [line.split("(")[0].split()[-4:] for line in printed][-1] == ["train", "bert", "seed", "3"]
    assert printed[-1].startswith("[ 4/20] ") and "20 s, about 1 min 20 s left" in printed[-1]
    assert printed[-1].endswith("train bert seed 3 (10 s)")


def test_running_jobs_count_with_their_remaining_time(capsys):
    handler = ProgressHandler()
    records = [
        run_info(0, a=2, b=1),
        started(1, "a", 0),
        finished(1, 10),
        started(2, "a", 10),
        started(3, "b", 10),
    ]
    lines(capsys, handler, *records)
    handler.finished["b"].append(20.0)
    # At 15 s: a needs 5 s more and b 15 s; 40 s of work were done in 15 s.
    assert handler.seconds_left(15) == pytest.approx(20 * 15 / 40)


def test_time_left_is_unknown_while_a_rule_was_never_timed(capsys):
    records = [run_info(0, short=2, long=18), started(1, "short", 0), finished(1, 1)]
    records += [started(2, "short", 1), finished(2, 2)]
    first, second = lines(capsys, ProgressHandler(), *records)
    assert "time left not known yet" in first
    assert "about 18 s left" in second  # a tenth is done: the remaining jobs are assumed to take as long
    expected, _ = lines(capsys, ProgressHandler({"long": 60.0}), *records)
    assert "about 18 min 1 s left" in expected


def test_times_of_this_run_replace_those_of_earlier_runs(capsys):
    records = [run_info(0, a=3), started(1, "a", 0), finished(1, 5)]
    assert "about 10 s left" in lines(capsys, ProgressHandler({"a": 1000.0}), *records)[0]


class Planned:
    """A plan that has been computed: seconds of jobs by rule and model."""

    def __init__(self, seconds, start=()):
        self.seconds, self.start, self.began = seconds, start, False

    def begin(self):
        self.began = True

    def of_jobs(self):
        return {(rule, (model,)): Estimate(s, rule not in self.start) for (rule, model), s in self.seconds.items()}


def test_rules_that_never_ran_have_the_plans_estimates_scaled_by_the_finished_jobs(capsys):
    seconds = {("short", "a"): 2.0, ("short", "b"): 2.0, ("long", "a"): 10.0, ("long", "b"): 30.0}
    plan = Planned(seconds | {("tables", "a"): 1.0, ("more", "a"): 1.0}, start=("tables", "more"))
    records = [run_info(0, tables=1, more=1, short=2, long=2), started(9, "tables", 0, model="a"), finished(9, 10)]
    records += [started(1, "short", 10, model="a"), finished(1, 14)]
    records += [started(2, "long", 14, model="a"), started(3, "short", 14, model="b"), finished(3, 20)]
    only_start, halfway, last = lines(capsys, ProgressHandler(plan=plan), *records)
    assert "about 45 s left" in only_start  # as planned: the start of a process says nothing about the speed
    # Twice as long as planned: 4 s for short, 20 s and 60 s for long, 2 s for more.
    assert "about 1 min 26 s left" in halfway
    # 10 of 4 planned seconds: 25 - 6 s and 75 s for long, 2.5 s for more, while 26 s of work took 20 s.
    assert f"about {duration((19 + 75 + 2.5) * 20 / 26)} left" in last


def test_measured_times_come_before_the_plan(capsys):
    plan = Planned({("a", "x"): 1.0, ("a", "y"): 100.0, ("b", "x"): 100.0, ("b", "y"): 100.0})
    records = [run_info(0, a=2, b=2), started(1, "a", 0, model="x"), finished(1, 1)]
    assert "about 11 s left" in lines(capsys, ProgressHandler({"b": 5.0}, plan), *records)[0]


def test_only_a_long_run_with_rules_that_were_never_timed_asks_the_plan(capsys):
    for stats, expected, asked in (({"a": 3}, {}, False), ({"a": 30}, {"a": 1.0}, False), ({"a": 30}, {}, True)):
        plan = Planned({})
        lines(capsys, ProgressHandler(expected, plan), run_info(0, **stats))
        assert plan.began == asked


def test_the_plan_of_a_run_is_that_of_the_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = study_config.read("config/mini.yaml", METHODS)
    cell = {"model": "bert", "task": "library6", "seed": "0"}
    listed = [("finetune_model", cell), ("train_method", cell | {"method": "lora"}), ("make_tables", {})]
    plan = Plan(config, lambda: listed)
    plan.begin()
    assert plan.of_jobs() == {}, "it is computed while the jobs run"
    plan.process.wait(120)
    known = known_machines(MEASURED)
    study, machine = jobs.read_study(Path("config/mini.yaml"), known), known["machines"][chosen_machine(None, known)]
    wanted = jobs.with_costs(study, [jobs.Job(*job) for job in listed], machine, known)
    answers = plan.of_jobs()
    assert [answers[rule, tuple(axes.values())].seconds for rule, axes in listed] == [job.seconds for job in wanted]
    assert [estimate.modelled for estimate in answers.values()] == [True, True, False]


def test_a_plan_that_cannot_be_made_changes_nothing(capsys):
    plan = Plan({"study": "unknown"}, lambda: [("a", {})])
    handler = ProgressHandler(plan=plan)
    lines(capsys, handler, run_info(0, a=1, b=18))
    plan.process.wait(120)
    assert "time left not known yet" in lines(capsys, handler, started(1, "a", 0), finished(1, 1))[0]
    assert plan.of_jobs() == {}


def test_a_failed_job_shows_the_end_of_its_log(capsys, tmp_path):
    log = tmp_path / "job.log"
    log.write_text("".join(f"line {i}\n" for i in range(50)) + "error: the file lacks a column.\n")
    failed = record(LogEvent.JOB_ERROR, 5, jobid=1, rule_name="a", log=[str(log)])
    printed = lines(capsys, ProgressHandler(), run_info(0, a=2), started(1, "a", 0, model="bert"), failed)
    assert printed[0] == "failed: a bert"
    assert printed[-2:] == ["    error: the file lacks a column.", f"    (log: {log})"]
    assert "    line 49" in printed and "    line 30" not in printed


def test_failed_and_unknown_jobs_are_not_counted(capsys):
    failed = record(LogEvent.JOB_ERROR, 5, jobid=1, rule_name="a", log=[])
    records = [run_info(0, a=2), started(1, "a", 0), failed, finished(1, 6), finished(9, 7)]
    assert lines(capsys, ProgressHandler(), *records) == ["failed: a"]
    assert lines(capsys, ProgressHandler(), record(None, 0), finished(1, 1)) == []


def test_the_last_line_says_done(capsys):
    records = [run_info(0, a=1), started(1, "a", 0), finished(1, 0)]
    assert re.search(r"\[1/1\] +0 s, done +a \(0 s\)", lines(capsys, ProgressHandler(), *records)[0])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (250, "4 min 10 s"),
        (3599.7, "1 h 0 min"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_jobs_in_words():
    wildcards = {"model": "bert", "task": "library6", "seed": "0"}
    assert describe("finetune_model", wildcards) == "finetune_model bert library6 seed 0"


def test_benchmarked_seconds_are_means_per_rule(tmp_path):
    for path, text in {
        "train/bert/0.tsv": "s\th:m:s\n4.0\t0:00:04\n",
        "train/bert/1.tsv": "s\th:m:s\n6.0\t0:00:06\n",
        "draw.tsv": "s\tmax_rss\n1.5\t-\n",
        "cut/off.tsv": "s\th:m:s\n",
        "bad/off.tsv": "s\th:m:s\nNA\t\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert benchmarked_seconds(tmp_path) == {"train": 5.0, "draw": 1.5}
    assert benchmarked_seconds(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    "run",
    [
        {"dryrun": True},
        {"exec_mode": ExecMode.SUBPROCESS},
        {"output_settings": SimpleNamespace(quiet={Quietness.ALL})},
        {"output_settings": SimpleNamespace(quiet={Quietness.PROGRESS, Quietness.RULES})},
    ],
    ids=["dry run", "child process", "quiet", "quiet about progress"],
)
def test_dry_runs_and_quiet_runs_print_nothing(run):
    usual = {"dryrun": False, "exec_mode": ExecMode.DEFAULT, "output_settings": SimpleNamespace(quiet=None)}
    before = list(logger.handlers)
    show_progress(SimpleNamespace(**{**usual, **run}))
    assert logger.handlers == before


def test_a_real_run_prints_one_line_a_job(tmp_path):
    (tmp_path / "Snakefile").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SNAKEFILE}")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "rules", "reason", "host"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    printed = completed.stdout + completed.stderr
    assert completed.returncode == 0, printed
    matches = re.findall(r"^\[(\d)/4\] +\d+ s, .* (make_raw|make_text|all)( [ab])? \(\d+ s\)$", printed, re.MULTILINE)
    assert [number for number, *_ in matches] == ["1", "2", "3", "4"]
    assert sorted(rule + name for _, rule, name in matches) == ["all", "make_raw a", "make_raw b", "make_text a"]
    assert "Finished jobid" not in printed and "steps (" not in printed and "Job stats" in printed
