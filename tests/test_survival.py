"""kill -9 at random moments of a small study, then the same command: it ends with the numbers of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from tests.test_own_data import write_own_data
from tests.test_workflow import copy_checkout, numbers, snakemake

pytestmark = pytest.mark.slow

CONFIG = {
    "study": "killed",
    "seeds": [0],
    "draws": 1,
    "kept_shares": [0.05, 0.25],
    "methods": ["ken", "random", "delta-magnitude", "lora"],
    "method_settings": {"lora": {"budgets": [1, 2], "rate_factors": [4]}},
    "tasks": {
        "questions": {"source": "files", "train": "data/train.csv", "test": "data/test.tsv", "text": "question"}
        | {"label": "topic"}
    },
    "models": {"my-bert": {"source": "directory", "path": "my-bert"}},
    # A state of the training after every step, so that every kill finds one.
    "finetuning": {"epochs": 60, "batch_size": 4, "learning_rate": 5e-4, "max_length": 24, "checkpoint_minutes": 0},
    "suggestion": {"methods": ["ken-rescaled"], "margin": 0.2, "resolution": 0.25},
}
COMMAND = ["--configfile", "config/killed.yaml"]
SCORES = "results/killed/scores.csv"
KILLS = 8


def prepared(folder: Path) -> Path:
    """A checkout with the data, the model and the config of the study."""
    checkout = copy_checkout(folder)
    write_own_data(checkout)
    (checkout / "config" / "killed.yaml").write_text(yaml.safe_dump(CONFIG))
    return checkout


def begin(checkout: Path) -> subprocess.Popen:
    """A run that is not waited for, to the end of its report."""
    with open(checkout / "run.log", "a") as log:
        command = [sys.executable, "-m", "snakemake", *COMMAND]
        return subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log)


def steps_of(run: subprocess.Popen) -> list[psutil.Process]:
    """Processes of the steps that a run has started."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if any(word.startswith(("study.", "report.")) for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_something(run: subprocess.Popen, choose: random.Random) -> str:
    """kill -9 of the run itself or of one of its steps; says what."""
    steps = steps_of(run)
    if not steps or choose.random() < 0.5:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        psutil.wait_procs(steps, timeout=10)
        assert not any(step.is_running() for step in steps), "steps end with their run"
        return "snakemake"
    victim = choose.choice(steps)
    name = next(word for word in victim.cmdline() if word.startswith(("study.", "report.")))
    victim.kill()
    run.wait()  # --keep-going finishes what does not depend on it
    return name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    checkout = prepared(tmp_path_factory.mktemp("undisturbed"))
    snakemake(checkout, *COMMAND)
    return checkout


@pytest.mark.parametrize("seed", [0, 1])
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_numbers(seed, tmp_path, undisturbed):
    checkout, choose, killed = prepared(tmp_path), random.Random(seed), []
    for _ in range(KILLS):
        run = begin(checkout)
        try:
            run.wait(timeout=choose.uniform(3, 15))
        except subprocess.TimeoutExpired:
            killed.append(kill_something(run, choose))
    output = snakemake(checkout, *COMMAND)
    assert "report: " in output or "Nothing to be done" in output
    assert len(killed) >= KILLS // 2
    pd.testing.assert_frame_equal(numbers(undisturbed / SCORES), numbers(checkout / SCORES), check_exact=True)
    cell = "results/killed/cells/my-bert/questions/seed0"
    for name in ("initial", "model"):
        path = f"{cell}/finetuned/{name}.safetensors"
        assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()
    left = [path for path in (checkout / cell).rglob("*") if path.name.startswith(".") or "training" in path.name]
    assert not left, "nothing of the killed steps is left behind"
    assert "Nothing to be done" in snakemake(checkout, *COMMAND)


def test_a_killed_fine_tuning_goes_on_from_its_state(tmp_path, undisturbed):
    checkout = prepared(tmp_path)
    cell = "results/killed/cells/my-bert/questions/seed0"
    run, state = begin(checkout), checkout / cell / "finetuned.training" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    snakemake(checkout, *COMMAND, "--", f"{cell}/finetuned/manifest.json")
    log = checkout / "results/killed/logs/finetune_model/my-bert-questions-0.log"
    assert "going on in epoch" in log.read_text()
    path = f"{cell}/finetuned/model.safetensors"
    assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()


def test_two_runs_at_once_are_told_apart(tmp_path):
    checkout = prepared(tmp_path)
    run = begin(checkout)
    while not steps_of(run):
        time.sleep(0.1)
    output = snakemake(checkout, *COMMAND, expect=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"is being run by process {run.pid}" in errors[0] and "Traceback" not in output
    assert planned_only(checkout), "looking does not disturb a run"
    run.kill()
    run.wait()


def planned_only(checkout: Path) -> bool:
    """Whether a dry run works while another run is under way."""
    return "finetune_model" in snakemake(checkout, *COMMAND, "--dry-run")
