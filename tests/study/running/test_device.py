"""One GPU per process, with GPUs that a fake nvidia-smi reports."""

import itertools
import os
import select
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
from study.running import device, locks
from study.running.workflow import run

HOLD = """
import sys, time
from pathlib import Path
from study.running import locks
locks.LOCKS, locks.POLL = Path(sys.argv[1]), 0.05
print(locks.hold_one(dict.fromkeys(sys.argv[3:], int(sys.argv[2]))), flush=True)
sys.stdin.readline()
"""

# A job on a machine whose torch has CUDA: it takes a GPU, works for a while, and reports which one and when.
WORK = """
import os, sys, time
from pathlib import Path
import torch
from study.running import device, locks
locks.LOCKS, locks.POLL = Path(sys.argv[1]), 0.05
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

GIB = 2**30
TINY = device.Needs(GIB, GIB / 2**10)


def pretend_gpus(folder: Path, *lines: str) -> None:
    """An nvidia-smi that answers with an index, a UUID, MiB of memory and the mode of MIG on each line."""
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    program.chmod(0o755)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A machine with two GPUs, according to nvidia-smi and torch's build."""
    pretend_gpus(tmp_path, "0, GPU-aa, 12288, [N/A]", "1, GPU-bb, 12288, [N/A]")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(device.VARIABLE, raising=False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(device, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(locks, "LOCKS", tmp_path)
    monkeypatch.setattr(locks, "_held", [])
    device.acquire_device.cache_clear()
    yield monkeypatch
    for file in locks._held:
        os.close(file)
    device.acquire_device.cache_clear()


def holder(folder, *names: str, parts: int = device.PARTS) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), str(parts), *names]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def start(tmp_path):
    """Starts a process that takes parts of one of some GPUs, and waits until it has said a line."""
    jobs = []

    def started(parts: int, *names: str) -> tuple[subprocess.Popen, str]:
        jobs.append(holder(tmp_path, *names, parts=parts))
        return jobs[-1], jobs[-1].stdout.readline()

    yield started
    for job in jobs:
        job.kill()
        job.communicate()


def test_small_jobs_do_not_keep_passing_a_large_one(start):
    small, line = start(2, "GPU-aa")
    assert line == "GPU-aa\n"
    large, line = start(7, "GPU-aa")
    assert "waiting for a GPU" in line
    behind = [start(2, "GPU-aa") for _ in range(2)]
    assert all("waiting for a GPU" in line for _, line in behind), "six parts are free, but another is next in line"
    small.kill()
    assert large.stdout.readline() == "GPU-aa\n"
    large.kill()
    assert [job.stdout.readline() for job, _ in behind] == ["GPU-aa\n"] * 2


def test_a_large_job_waits_for_one_gpu_and_leaves_the_other_to_small_ones(start):
    _, line = start(4, "GPU-aa")
    other, second = start(4, "GPU-bb")
    large, third = start(8, "GPU-aa", "GPU-bb")
    assert (line, second) == ("GPU-aa\n", "GPU-bb\n") and "waiting for a GPU" in third
    passing, line = start(2, "GPU-aa", "GPU-bb")
    assert line == "GPU-bb\n"
    behind, line = start(2, "GPU-aa")
    assert "waiting for a GPU" in line
    for job in (other, passing):
        job.kill()
    assert large.stdout.readline() == "GPU-bb\n", "which is free first"
    assert behind.stdout.readline() == "GPU-aa\n", "nobody is next in line for it now"


def test_a_killed_process_leaves_its_place_in_line(start):
    start(2, "GPU-aa")
    large, _ = start(8, "GPU-aa")
    behind, line = start(2, "GPU-aa")
    assert "waiting for a GPU" in line
    large.kill()
    assert behind.stdout.readline() == "GPU-aa\n"


def test_jobs_that_see_different_gpus_do_not_wait_for_each_other_for_ever(start):
    seen = [("GPU-aa", "GPU-bb"), ("GPU-bb", "GPU-aa"), ("GPU-aa",), ("GPU-bb", "GPU-cc"), ("GPU-cc", "GPU-aa")]
    first = [start(3, name)[0] for name in ("GPU-aa", "GPU-bb", "GPU-cc")]
    waiting = [start(8, *names) for names in seen]
    assert all("waiting for a GPU" in line for _, line in waiting)
    for job in first:
        job.kill()
    holds = {job.stdout: job for job, _ in waiting}
    while holds:
        ready, _, _ = select.select(list(holds), [], [], 60)
        assert ready, "every job gets a GPU"
        for output in ready:
            assert output.readline().startswith("GPU-")
            holds.pop(output).kill()


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


def test_jobs_share_a_gpu_up_to_its_parts_and_never_with_one_that_needs_all_of_it(start):
    """Jobs of 3, 3 and 2 eighths fill a GPU; another of 3 waits for one of them, one of 8 for all."""
    jobs, lines = zip(*(start(parts, "GPU-aa") for parts in (3, 3, 2)), strict=True)
    assert set(lines) == {"GPU-aa\n"}
    (three, first), (eight, second) = start(3, "GPU-aa"), start(8, "GPU-aa")
    assert "waiting for a GPU" in first and "waiting for a GPU" in second
    jobs[0].kill()
    assert three.stdout.readline() == "GPU-aa\n", "its 3 eighths are free again"
    for job in (*jobs[1:], three):
        job.kill()
    assert eight.stdout.readline() == "GPU-aa\n"
    _, line = start(1, "GPU-aa")
    assert "waiting for a GPU" in line


def test_the_part_of_a_gpu_that_a_job_takes_follows_from_its_memory(environment):
    gib = 2**30
    small, large = (device.Needs.of_model(size * gib, device.MASKED_TRAINING) for size in (0.5, 6.5))
    assert (small.parts(1, 80 * gib, 128 * gib), small.parts(4, 80 * gib, 128 * gib)) == (8, 2)
    assert large.parts(4, 80 * gib, 128 * gib) == 5, "43.5 GiB of 80"
    assert device.Needs.of_model(6.5 * gib, device.COMPRESSION).parts(4, 80 * gib, 128 * gib) == 4, "37 GiB of 80"
    assert device.Needs.of_model(6.5 * gib, device.COMPRESSION).parts(4, 80 * gib, 96 * gib) == 6, (
        "61 GiB beside, of 96"
    )
    assert device.HELD == HELD_BYTES / 4
    assert large.parts(4, 24 * gib, 128 * gib) == 8
    assert device.parts_of(small, ["GPU-aa"]) == {"GPU-aa": 8}, "jobs share no GPU by default"
    environment.setenv(device.JOBS, "4")
    assert [device.parts_of(needs, ["GPU-aa"])["GPU-aa"] for needs in (TINY, small, None)] == [2, 5, 8]
    environment.setenv(device.JOBS, "9")
    with pytest.raises(UserError, match='is "9", expected a number from 1 to 8'):
        device.jobs_per_gpu()


def test_as_many_jobs_share_a_gpu_as_asked_for():
    needed = {jobs: TINY.parts(jobs, 80 * GIB, 128 * GIB) for jobs in range(1, 9)}
    assert all(jobs * parts <= device.PARTS for jobs, parts in needed.items()) and needed[3] == 2


def test_gpus_without_nvidia_smi_are_locked_whole(environment, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    environment.setattr(device, "DEVICES", tmp_path / "dev")
    assert device.gpus() == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    environment.setenv(device.JOBS, "4")
    assert device.gpus() == ["0", "1"] and device.parts_of(TINY, ["0", "1"]) == {"0": 8, "1": 8}


def test_a_job_takes_all_of_a_gpu_whose_memory_is_unknown(environment, tmp_path):
    """Other cards, such as one for a display, do not change that."""
    environment.setenv(device.JOBS, "4")
    whole, mig, unsupported = "0, GPU-aa, 12288, Disabled", "1, GPU-bb, 81920, Enabled", "2, GPU-cc, [N/A], [N/A]"
    pretend_gpus(tmp_path, whole, mig, unsupported, "3, GPU-dd, [Not Supported], [N/A]", "4, GPU-ee, 2048, [N/A]")
    names = ["GPU-aa", "GPU-bb", "GPU-cc", "GPU-dd", "MIG-1"]
    assert device.parts_of(TINY, names) == {"GPU-aa": 2, "GPU-bb": 8, "GPU-cc": 8, "GPU-dd": 8, "MIG-1": 8}
    assert device.parts_of(TINY, ["GPU-ee"]) == {"GPU-ee": 4}, "1 GiB of 2"


@pytest.mark.parametrize(
    ("groups", "limits", "least"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": str(6 * GIB), "memory.max": str(7 * GIB)}, 6 * GIB),
        ("0::/", {"memory.max": str(5 * GIB)}, 5 * GIB),
        ("0::/outside", {"memory.max": str(5 * GIB)}, 5 * GIB),
        ("5:cpu,memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": str(4 * GIB)}, 4 * GIB),
        ("5:memory:/a", {"memory/memory.limit_in_bytes": str(4 * GIB), "a/memory.max": str(GIB)}, 4 * GIB),
        ("5:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 16 * GIB),
        ("0::/a", {"a/memory.max": "max"}, 16 * GIB),
        (None, {}, 16 * GIB),
    ],
)
def test_memory_is_that_of_the_machine_or_what_a_container_allows(environment, tmp_path, groups, limits, least):
    environment.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * GIB // 4096}.get)
    environment.setattr(device, "CGROUPS", tmp_path / "groups")
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups + "\n")
    for name, limit in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit + "\n")
    assert device.memory_beside() == least


def test_jobs_on_all_gpus_of_the_machine_share_its_memory(environment):
    """Another run may use the GPU that this one does not see."""
    environment.setenv(device.JOBS, "8")
    environment.setattr(device, "memory_beside", lambda: 16 * GIB)
    needs = device.Needs(GIB, 4 * GIB)
    environment.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device.parts_of(needs, device.gpus()) == {"GPU-aa": 4}, "4 GiB of 16 for two GPUs"


def test_a_job_that_shares_a_gpu_may_take_its_part_of_the_memory(environment, tmp_path):
    limits = []
    environment.setenv(device.JOBS, "2")
    environment.setattr(device, "memory_beside", lambda: 128 * GIB)
    pretend_gpus(tmp_path, "0, GPU-aa, 81920, Disabled")
    environment.setattr(torch.cuda, "is_available", lambda: True)
    properties = type("Properties", (), {"total_memory": 80 * 2**30})
    environment.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    environment.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    device.acquire_device(device.Needs.of_model(2**30, device.COMPRESSION))
    assert limits == [pytest.approx(0.5 - 0.7 / 80)] and len(locks._held) == 4


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


def test_an_abbreviated_uuid_is_the_whole_one(environment, tmp_path):
    pretend_gpus(tmp_path, "0, GPU-8932f937-d72c, 12288, [N/A]", "1, GPU-89f1-a0b1, 12288, [N/A]")
    environment.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937,GPU-89f1")
    assert device.gpus() == ["GPU-8932f937-d72c", "GPU-89f1-a0b1"]
    environment.setenv("CUDA_VISIBLE_DEVICES", "GPU-89,GPU-1")
    assert device.gpus() == ["GPU-89", "GPU-1"], "ambiguous and unknown ones are left to CUDA"


def test_a_step_acquires_one_gpu_and_hides_the_others(environment):
    environment.setattr(torch.cuda, "is_available", lambda: os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa")
    environment.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert device.acquire_device() == torch.device("cuda") == device.acquire_device(), "two calls acquire one GPU"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa" and len(locks._held) == locks.PARTS


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
