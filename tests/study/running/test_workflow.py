"""One run of a study at a time, and steps that end with their run, tested with real processes that are killed."""

import os
import subprocess
import sys

import psutil
import pytest

from ken.errors import UserError
from study.running.workflow import SNAKEMAKE, hold_study

RUN = """
import sys
from pathlib import Path
from study.running.workflow import hold_study
hold_study("mini", Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""
STEP = (
    "from study.running import workflow; import time; workflow.POLL = 0.05; workflow.end_with_snakemake();"
    " print(1); time.sleep(60)"
)
SNAKEMAKE_LIKE = f"""
import os, subprocess, sys
os.environ["{SNAKEMAKE}"] = str(os.getpid())
step = subprocess.Popen(["bash", "-c", 'trap "" TERM; "$0" -uc "$1"; true', sys.executable, sys.argv[1]])
step.wait()
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_study_is_locked_while_it_runs_and_unlocked_when_killed(tmp_path):
    process = start(RUN, str(tmp_path))
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"mini is being run by process {process.pid} on .* wait for its end"):
        hold_study("mini", tmp_path)
    hold_study("another", tmp_path)
    process.kill()
    process.communicate()
    hold_study("mini", tmp_path)


@pytest.mark.parametrize("victim", ["snakemake", "shell"])
def test_a_step_ends_when_snakemake_or_its_shell_is_killed(victim):
    process = start(SNAKEMAKE_LIKE, STEP)
    assert process.stdout.readline() == "1\n"
    snakemake = psutil.Process(process.pid)
    shell, step = snakemake.children(recursive=True)
    (snakemake if victim == "snakemake" else shell).kill()
    gone, _ = psutil.wait_procs([step], timeout=5)
    assert gone
    for left in (snakemake, shell):
        if left.is_running():
            left.kill()
    process.communicate()


def test_a_step_does_not_start_if_its_snakemake_is_gone():
    code = STEP.replace("time.sleep(60)", "time.sleep(0.3); print(2)")
    environment = {name: value for name, value in os.environ.items() if name != SNAKEMAKE}
    by_hand = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert by_hand.stdout.split() == ["1", "2"] and by_hand.returncode == 0
    gone = subprocess.Popen(["true"])
    gone.wait()
    environment[SNAKEMAKE] = str(gone.pid)
    orphan = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert orphan.returncode == 1 and not orphan.stdout and "has been killed" in orphan.stderr
