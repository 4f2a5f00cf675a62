"""Measured speeds: what they predict, and how a plan uses them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ken.errors import UserError
from study import plan
from study.planning import cost, jobs, speeds
from study.running import files

ROOT = Path(__file__).parents[3]


@pytest.fixture
def quick(monkeypatch):
    """Short measurements with one thread."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(speeds, "SECONDS", 0.2)
    monkeypatch.setattr(speeds, "FILE_BYTES", 2**20)
    monkeypatch.setattr(
        speeds, "START", "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_coefficients_solve_exact_times_and_are_never_negative():
    units = [[1.0, 10.0], [2.0, 50.0], [1.0, 90.0]]
    times = [0.5 * one + 0.02 * other for one, other in units]
    assert speeds.coefficients(units, times) == pytest.approx([0.5, 0.02])
    assert min(speeds.coefficients([[1.0, 1.0], [1.0, 10.0]], [5.0, 1.0])) >= 0


def test_the_speeds_of_a_core_predict_a_model_that_was_not_measured(quick):
    machine, core = (
        speeds.measure_core(),
        {name: 1.0 for name in ("ranked", "grid", "chosen", "coded", "items", "file_s")},
    )
    core |= {"start_s": 0.0, "write_gb_per_s": 1.0, "read_gb_per_s": 1.0}
    other = speeds.Probe.of(256, 40, 16, speeds.CPU)
    for work, taken in (
        (other.evaluation(), other.evaluation_seconds(speeds.clock_of(speeds.CPU))),
        (other.step(), other.step_seconds(speeds.clock_of(speeds.CPU))),
    ):
        assert 0.5 < cost.seconds_of(work, machine, core) / taken < 2
    wider = speeds.Probe.of(512, 32, 16, speeds.CPU)
    work = cost.evaluation(wider.size, len(wider.texts), wider.tokens, {"batch_size": 16, "precision": "bfloat16"})
    taken = wider.evaluation_seconds(speeds.clock_of(speeds.CPU), "bfloat16")
    assert 0.5 < cost.seconds_of(work, machine, core) / taken < 2


def test_processor_seconds_are_measured(quick):
    assert 0.3 <= speeds.measure_start() < 1
    assert speeds.seconds_of(lambda: sum(range(200_000)), speeds.clock_of(speeds.CPU)) > 0


def test_the_disk_and_the_storing_of_files_have_speeds(quick, tmp_path):
    assert min(speeds.measure_disk(tmp_path).values()) > 0
    stored = speeds.measure_storing(tmp_path)
    assert stored["coded"] > stored["chosen"] > 0 < stored["file_s"] < 1, "choosing takes longer than storing"
    assert speeds.measure_grid(speeds.CPU) > 0
    assert not (tmp_path / "disk.bin").exists()


def test_a_measured_machine_is_the_default_of_later_plans(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results" / "machine.json"
    assert plan.chosen_machine(None, plan.known_machines(path)) == "cpu", "not measured yet"
    with pytest.raises(UserError, match="this machine has not been measured: measure it first"):
        plan.chosen_machine("here", plan.known_machines(path))
    record = files.read_json(ROOT / "results" / "reference" / "benchmarks" / "machine.json")
    record["core"] |= {"ranked": 77}
    record["host"] = "my-machine"
    monkeypatch.setattr(speeds, "measure", lambda device, folder: record)
    plan.measure_into(path)
    known = plan.known_machines(path)
    assert plan.chosen_machine(None, known) == "here" and plan.chosen_machine("a100", known) == "a100"
    assert known["core"]["ranked"] == 77 and known["core"]["items"] == jobs.read_plan()["core"]["items"]
    assert "on my-machine" in known["machines"]["here"]["basis"] and not cost.is_gpu(known["machines"]["here"])
    speeds_of_gpu = {"tflops": 90, "memory_gib": 24, "cores": 8, "beside_gib": 60}
    gpu = record | {"gpu": speeds_of_gpu, "machine": record["machine"] | {"gpu": "GPU X"}}
    here = jobs.with_machine_at_hand(jobs.read_plan(), gpu)["machines"]["here"]
    assert cost.is_gpu(here) and here["title"] == "GPU X" and here["beside_gib"] == 60
    del speeds_of_gpu["beside_gib"]
    with pytest.raises(UserError, match="the measured speeds lack 'beside_gib': measure the machine again"):
        jobs.with_machine_at_hand(jobs.read_plan(), gpu)
    with pytest.raises(UserError, match=r"'H100' is not known: .* name another\. Did you mean \"h100\"\?"):
        plan.chosen_machine("H100", known)


@pytest.mark.slow
def test_a_calibration_takes_at_most_two_minutes_and_is_used(tmp_path):
    command = [sys.executable, "-m", "study.plan", "--config", "config/test.yaml", "--all", "--measure"]
    path = tmp_path / "machine.json"
    done = subprocess.run([*command, "--measured", str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    record = files.read_json(path)
    assert record["seconds"] <= 120 and all(value > 0 for value in (record["cpu"] | record["core"]).values())
    assert f"measured on {record['measured'][:10]} on {record['host']}" in done.stdout
    assert done.stdout.count(" s] ") >= 5, "progress"
