"""One GPU per process, with GPUs that a fake nvidia-smi reports."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from baselines.estimates import HELD_BYTES
from ken import cli
from ken.errors import UserError
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.running import device
from study.running.workflow import run

HOLD = """
import sys, time
from pathlib import Path
from study.running import device
device.LOCKS, device.POLL = Path(sys.argv[1]), 0.05
print(device.hold_one(sys.argv[3:], int(sys.argv[2])), flush=True)
sys.stdin.readline()
"""

# A job on a machine whose torch has CUDA: it takes a GPU, works for a while, and reports which one and when.
WORK = """
import os, sys, time
from pathlib import Path
import torch
from study.running import device
device.LOCKS, device.POLL = Path(sys.argv[1]), 0.05
torch.backends.cuda.is_built = torch.cuda.is_available = lambda: True
assert device.acquire_device().type == "cuda"
start = time.time()
time.sleep(1)
Path(sys.argv[2]).write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {start} {time.time()}")
"""
WORKFLOW = """
rule all:
    input: expand("{job}.txt", job=range(5))
rule work:
    output: "{job}.txt"
    resources: gpu=1
    shell: "PYTHON work.py . {output}"
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A machine with two GPUs, according to nvidia-smi and torch's build."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\nprintf "0, GPU-aa\\n1, GPU-bb\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(device.VARIABLE, raising=False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(device, "LOCKS", tmp_path)
    monkeypatch.setattr(device, "_held", [])
    device.acquire_device.cache_clear()
    yield monkeypatch
    for file in device._held:
        os.close(file)
    device.acquire_device.cache_clear()


def holder(folder, *names: str, parts: int = device.PARTS) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), str(parts), *names]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_third_process_waits_for_one_of_two_gpus(tmp_path):
    names = ("GPU-aa", "GPU-bb")
    processes = [holder(tmp_path, *names)]
    assert processes[0].stdout.readline() == "GPU-aa\n"
    processes += [holder(tmp_path, *names)]
    assert processes[1].stdout.readline() == "GPU-bb\n"
    processes += [holder(tmp_path, *names)]
    assert "waiting for a GPU" in processes[2].stdout.readline()
    processes[0].kill()
    assert processes[2].stdout.readline() == "GPU-aa\n"
    for process in processes:
        process.kill()
        process.communicate()


def test_jobs_share_a_gpu_up_to_its_parts_and_never_with_one_that_needs_all_of_it(tmp_path):
    """Jobs of 3, 3 and 2 eighths fill a GPU; another of 3 waits for one of them, one of 8 for all."""
    jobs = [holder(tmp_path, "GPU-aa", parts=parts) for parts in (3, 3, 2)]
    assert all(job.stdout.readline() == "GPU-aa\n" for job in jobs)
    waiting = [holder(tmp_path, "GPU-aa", parts=parts) for parts in (3, 8)]
    assert all("waiting for a GPU" in job.stdout.readline() for job in waiting)
    jobs[0].kill()
    assert waiting[0].stdout.readline() == "GPU-aa\n", "its 3 eighths are free again"
    for job in (*jobs[1:], waiting[0]):
        job.kill()
    assert waiting[1].stdout.readline() == "GPU-aa\n"
    jobs += [*waiting, holder(tmp_path, "GPU-aa", parts=1)]
    assert "waiting for a GPU" in jobs[-1].stdout.readline()
    for job in jobs:
        job.kill()
        job.communicate()


def test_the_part_of_a_gpu_that_a_job_takes_follows_from_its_memory(environment, tmp_path):
    gib = 2**30
    small, large = (device.Needs.of_model(size * gib, trains=True) for size in (0.5, 6.5))
    assert (small.parts(1, 80 * gib, 128 * gib), small.parts(4, 80 * gib, 128 * gib)) == (8, 2)
    assert large.parts(4, 80 * gib, 128 * gib) == 5, "(7 x 6.5 + 4.5) GiB of 80"
    assert device.Needs.of_model(6.5 * gib, trains=False).parts(4, 80 * gib, 128 * gib) == 4, "37 GiB of 80"
    assert device.Needs.of_model(6.5 * gib, trains=False).parts(4, 80 * gib, 96 * gib) == 6, "61 GiB beside, of 96"
    assert device.HELD == HELD_BYTES / 4
    assert large.parts(4, 24 * gib, 128 * gib) == 8
    program = '#!/bin/sh\ncase "$*" in *memory.total*) echo "0, 12288";; *) echo "0, GPU-aa";; esac\n'
    (tmp_path / "nvidia-smi").write_text(program)
    assert device.parts_of(small, 1) == 8, "jobs share no GPU by default"
    environment.setenv(device.JOBS, "4")
    tiny = device.Needs(gib, gib / 2**10)
    assert [device.parts_of(needs, 1) for needs in (tiny, small, None)] == [2, 6, 8]
    environment.setenv(device.JOBS, "9")
    with pytest.raises(UserError, match='is "9", expected a number from 1 to 8'):
        device.jobs_per_gpu()


def test_a_job_that_shares_a_gpu_may_take_its_part_of_the_memory(environment):
    limits = []
    environment.setenv(device.JOBS, "2")
    environment.setattr(device, "_query", lambda what: {"0": {"uuid": "GPU-aa", "memory.total": "81920"}[what]})
    environment.setattr(torch.cuda, "is_available", lambda: True)
    properties = type("Properties", (), {"total_memory": 80 * 2**30})
    environment.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    environment.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    device.acquire_device(device.Needs.of_model(2**30, trains=False))
    assert limits == [pytest.approx(0.5 - 0.7 / 80)] and len(device._held) == 1 + 4


def test_snakemake_uses_two_gpus_at_once_and_never_one_for_two_jobs(environment, tmp_path):
    """Snakemake may start three jobs at once on a machine with two GPUs, so the third must wait."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "Snakefile").write_text(WORKFLOW.replace("PYTHON", sys.executable))
    environment.setenv("PYTHONPATH", str(Path(device.__file__).parents[2]))
    command = [sys.executable, "-m", "snakemake", "--directory", tmp_path, "--snakefile", tmp_path / "Snakefile"]
    subprocess.run([*command, "--cores", "3", "--resources", "gpu=3"], check=True, capture_output=True)
    reports = [path.read_text().split() for path in tmp_path.glob("*.txt")]
    spans = {name: sorted((float(start), float(end)) for gpu, start, end in reports if gpu == name)
             for name in ("GPU-aa", "GPU-bb")}  # fmt: skip
    assert len(reports) == 5 == sum(map(len, spans.values())) and all(spans.values()), "both GPUs were used"
    for held in spans.values():
        assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(held)), "one job at a time on a GPU"
    together = [min(a[1], b[1]) - max(a[0], b[0]) for a in spans["GPU-aa"] for b in spans["GPU-bb"]]
    assert max(together) > 0, "two jobs at once"


def test_gpus_are_limited_by_the_environment(environment):
    assert device.gpus() == ["GPU-aa", "GPU-bb"]
    for allowed, names in {"1": ["GPU-bb"], "GPU-aa,MIG-1": ["GPU-aa", "MIG-1"], "": [], "-1": []}.items():
        environment.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert device.gpus() == names
    environment.setenv(device.VARIABLE, "cpu")
    environment.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device.gpus() == []


def test_a_step_acquires_one_gpu_and_hides_the_others(environment):
    environment.setattr(torch.cuda, "is_available", lambda: os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa")
    environment.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert device.acquire_device() == torch.device("cuda") == device.acquire_device(), "two calls acquire one GPU"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa" and len(device._held) == 1


def test_without_a_gpu_a_step_uses_the_cpu_unless_cuda_is_requested(environment):
    environment.setattr(torch.cuda, "is_available", lambda: False)
    environment.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert device.gpus() == [] and device.acquire_device() == torch.device("cpu")
    device.acquire_device.cache_clear()
    environment.setenv(device.VARIABLE, "cuda")
    with pytest.raises(UserError, match="torch finds none"):
        device.acquire_device()
    environment.setenv(device.VARIABLE, "gpu")
    with pytest.raises(UserError, match='"gpu", which is not known here'):
        device.acquire_device()


def no_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_too_little_gpu_memory_gives_a_one_line_message(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: the GPU does not have enough memory: .*`device: cpu` in a study"):
        run(no_memory)
    monkeypatch.setattr(cli.streaming, "prune", no_memory)
    options = ["--pretrained", "a", "--finetuned", "b", "--k", "4", "--out", str(tmp_path / "c"), "--device", "cuda"]
    with pytest.raises(SystemExit, match=r"^error: the GPU does not have enough memory: .*`--device cpu`"):
        cli.main(["prune", *options])


def test_running_out_of_gpu_memory_ends_the_job_without_a_result(tmp_path, finetuned_cells, task_folder, monkeypatch):
    settings = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1], "draws": 1, "methods": {}}
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, settings)
    with monkeypatch.context() as patched:
        patched.setattr("study.training.examples.Predictor.__call__", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            compress(cell, ["ken"], tmp_path)
    assert not (tmp_path / "ken" / "scores.csv").exists()
    compress(cell, ["ken"], tmp_path)
    assert list(pd.read_csv(tmp_path / "ken" / "scores.csv")["status"]) == ["ok"]
