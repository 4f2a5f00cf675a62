"""Killed runs: a small study killed at random moments and resumed ends with the scores of an undisturbed run."""

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
    # Writes a checkpoint after every training step, so that one exists whenever the run is killed.
    "finetuning": {"epochs": 15, "batch_size": 4, "learning_rate": 5e-4, "max_length": 24, "random_init_seeds": []}
    | {"checkpoint_minutes": 0},
    "suggestion": {"methods": ["ken-rescaled"], "margin": 0.2, "resolution": 0.25},
}
COMMAND = ["--configfile", "config/killed.yaml", "--"]
SCORES = "results/killed/scores.csv"
CELL = "results/killed/cells/my-bert/questions/seed0"
KILLS = 6


def prepare(folder: Path) -> Path:
    """Create a checkout with the data, the model and the config of the study."""
    checkout = copy_checkout(folder)
    write_own_data(checkout)
    (checkout / "config" / "killed.yaml").write_text(yaml.safe_dump(CONFIG))
    return checkout


def start(checkout: Path, *targets: str) -> subprocess.Popen:
    """Start a run in the background."""
    with open(checkout / "run.log", "a") as log:
        command = [sys.executable, "-m", "snakemake", *COMMAND, *targets]
        return subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log)


def steps_of(run: subprocess.Popen) -> list[psutil.Process]:
    """Processes of the steps of a run."""
    steps = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if any(word.startswith(("study.", "report.")) for word in process.cmdline()):
                steps.append(process)
        except psutil.Error:
            continue
    return steps


def kill_something(run: subprocess.Popen, generator: random.Random) -> str:
    """Kill the run itself or one of its steps with SIGKILL; returns the name of the victim."""
    steps = steps_of(run)
    if not steps or generator.random() < 0.5:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        _, left = psutil.wait_procs(steps, timeout=120)
        assert not left, "steps end with their run"
        return "snakemake"
    victim = generator.choice(steps)
    name = next(word for word in victim.cmdline() if word.startswith(("study.", "report.")))
    victim.kill()
    run.wait()  # --keep-going finishes independent jobs
    return name


def wait_for_a_step(run: subprocess.Popen) -> None:
    """Wait until a run has started a step or has ended."""
    while run.poll() is None and not steps_of(run):
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout in which the study has run undisturbed up to its scores, and the seconds it took."""
    checkout = prepare(tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    snakemake(checkout, *COMMAND, SCORES)
    return checkout, time.monotonic() - started


def test_a_repeatedly_killed_study_ends_with_the_same_scores(tmp_path, finished):
    undisturbed, seconds = finished
    checkout, generator, killed = prepare(tmp_path), random.Random(0), []
    for targets in [[SCORES]] * KILLS + [[], []]:
        run = start(checkout, *targets)
        wait_for_a_step(run)
        try:
            run.wait(timeout=generator.uniform(0, seconds / 4))
        except subprocess.TimeoutExpired:
            killed.append(kill_something(run, generator))
    print(killed)
    assert len(killed) >= KILLS // 2
    snakemake(checkout, *COMMAND)  # has nothing to do if no kill hit the last run
    assert (checkout / "results/killed/report/index.html").exists()
    pd.testing.assert_frame_equal(numbers(undisturbed / SCORES), numbers(checkout / SCORES), check_exact=True)
    for name in ("initial", "model"):
        path = f"{CELL}/finetuned/{name}.safetensors"
        assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()
    left = [path for path in (checkout / CELL).rglob("*") if path.name.startswith(".") or "training" in path.name]
    assert not left, "the killed steps leave no files behind"
    assert "Nothing to be done" in snakemake(checkout, *COMMAND)


def test_a_killed_fine_tuning_resumes_from_its_checkpoint(tmp_path, finished):
    undisturbed, _ = finished
    checkout = prepare(tmp_path)
    state = checkout / CELL / "finetuned.training" / "state.safetensors"
    run = start(checkout, SCORES)
    while not state.exists() and run.poll() is None:
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    snakemake(checkout, *COMMAND, f"{CELL}/finetuned/manifest.json")
    log = checkout / "results/killed/logs/finetune_model/my-bert/questions/0.log"
    assert "resuming in epoch" in log.read_text()
    path = f"{CELL}/finetuned/model.safetensors"
    assert (undisturbed / path).read_bytes() == (checkout / path).read_bytes()


def test_a_second_run_of_the_same_study_is_refused(tmp_path):
    checkout = prepare(tmp_path)
    run = start(checkout)
    wait_for_a_step(run)
    output = snakemake(checkout, *COMMAND, SCORES, expect=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"is being run by process {run.pid}" in errors[0] and "Traceback" not in output
    assert dry_run_works(checkout), "a dry run is allowed meanwhile"
    run.kill()
    run.wait()


def dry_run_works(checkout: Path) -> bool:
    """Whether a dry run succeeds while another run is in progress."""
    return "finetune_model" in snakemake(checkout, "--dry-run", *COMMAND, SCORES)
