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

from study.running.progress import ProgressHandler, benchmarked_seconds, describe, duration, show_progress

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
