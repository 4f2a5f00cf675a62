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
    "methods": ["ken", "ken-rescaled", "random", "lora"],
    "method_settings": {"lora": {"budgets": [1], "rate_factors": [4]}},
    "tasks": {
        "questions": {"source": "files", "train": "data/train.csv", "test": "data/test.tsv", "text": "question"}
        | {"label": "topic"}
    },
    "models": {"my-bert": {"source": "directory", "path": "my-bert"}},
    # A state of the training after every step, so that every kill finds one.
    "finetuning": {"epochs": 15, "batch_size": 4, "learning_rate": 5e-4, "max_length": 24, "random_init_seeds": []}
    | {"checkpoint_minutes": 0},
    "suggestion": {"methods": ["ken-rescaled"], "margin": 0.2, "resolution": 0.25},
}
COMMAND = ["--configfile", "config/killed.yaml", "--"]
SCORES = "results/killed/scores.csv"
CELL = "results/killed/cells/my-bert/questions/seed0"
KILLS = 6


def prepared(folder: Path) -> Path:
    """A checkout with the data, the model and the config of the study."""
    checkout = copy_checkout(folder)
    write_own_data(checkout)
    (checkout / "config" / "killed.yaml").write_text(yaml.safe_dump(CONFIG))
    return checkout


def begin(checkout: Path, *targets: str) -> subprocess.Popen:
    """A run that is not waited for."""
    with open(checkout / "run.log", "a") as log:
        command = [sys.executable, "-m", "snakemake", *COMMAND, *targets]
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
        _, left = psutil.wait_procs(steps, timeout=120)
        assert not left, "steps end with their run"
        return "snakemake"
    victim = choose.choice(steps)
    name = next(word for word in victim.cmdline() if word.startswith(("study.", "report.")))
    victim.kill()
    run.wait()  # --keep-going finishes what does not depend on it
    return name


def wait_for_a_step(run: subprocess.Popen) -> None:
    """Until a run has started one of its steps, or has ended."""
    while run.poll() is None and not steps_of(run):
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout in which the study has run undisturbed up to its scores, and the seconds that took."""
    checkout = prepared(tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    snakemake(checkout, *COMMAND, SCORES)
    return checkout, time.monotonic() - start


def test_a_study_that_is_killed_again_and_again_ends_with_the_same_numbers(tmp_path, finished):
    undisturbed, seconds = finished
    checkout, choose, killed = prepared(tmp_path), random.Random(0), []
    for targets in [[SCORES]] * KILLS + [[], []]:
        run = begin(checkout, *targets)
        wait_for_a_step(run)
        try:
            run.wait(timeout=choose.uniform(0, seconds / 4))
        except subprocess.TimeoutExpired:
            killed.append(kill_something(run, choose))
    print(killed)
    assert len(killed) >= KILLS // 2
    assert "report: " in snakemake(checkout, *COMMAND)
    pd.testing.assert_frame_equal(numbers(undisturbed / SCORES), numbers(checkout / SCORES), check_exact=True)
    for name in ("initial", "model"):
        path = f"{CELL}/finetuned/{name}.safetensors"
        assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()
    left = [path for path in (checkout / CELL).rglob("*") if path.name.startswith(".") or "training" in path.name]
    assert not left, "nothing of the killed steps is left behind"
    assert "Nothing to be done" in snakemake(checkout, *COMMAND)


def test_a_killed_fine_tuning_goes_on_from_its_state(tmp_path, finished):
    undisturbed, _ = finished
    checkout = prepared(tmp_path)
    state = checkout / CELL / "finetuned.training" / "state.safetensors"
    run = begin(checkout, SCORES)
    while not state.exists() and run.poll() is None:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    snakemake(checkout, *COMMAND, f"{CELL}/finetuned/manifest.json")
    log = checkout / "results/killed/logs/finetune_model/my-bert-questions-0.log"
    assert "resuming in epoch" in log.read_text()
    path = f"{CELL}/finetuned/model.safetensors"
    assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()


def test_two_runs_at_once_are_told_apart(tmp_path):
    checkout = prepared(tmp_path)
    run = begin(checkout)
    wait_for_a_step(run)
    output = snakemake(checkout, *COMMAND, SCORES, expect=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"is being run by process {run.pid}" in errors[0] and "Traceback" not in output
    assert planned_only(checkout), "looking does not disturb a run"
    run.kill()
    run.wait()


def planned_only(checkout: Path) -> bool:
    """Whether a dry run works while another run is under way."""
    return "finetune_model" in snakemake(checkout, "--dry-run", *COMMAND, SCORES)
