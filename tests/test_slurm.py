"""The SLURM profile: what it sets, and a study on a real one-node cluster, started and stopped by a script."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from study import slurm
from tests.test_workflow import copy_checkout

ROOT = Path(__file__).parents[1]
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
missing = [name for name in NEEDED if shutil.which(name) is None]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    missing.append("snakemake-executor-plugin-slurm")
if os.geteuid():
    missing.append("root")

# As the study's Snakefile does with `jobs_per_gpu: 4` in the config.
SHARING = """
from study.running.workflow import prepare_environment
prepare_environment("auto", 4, 5)
rule all:
    output: "jobs"
    shell: "echo $STUDY_JOBS_PER_GPU > {output}"
"""


@pytest.mark.parametrize(("own", "jobs"), [(None, "1"), ("2", "2")])
def test_a_slurm_job_has_a_gpu_of_its_own_unless_the_user_shares_it(tmp_path, monkeypatch, own, jobs):
    monkeypatch.delenv("STUDY_JOBS_PER_GPU", raising=False)
    if own:
        monkeypatch.setenv("STUDY_JOBS_PER_GPU", own)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    lines = slurm.PROFILE.read_text().splitlines(keepends=True)
    local = [line for line in lines if not line.startswith(("executor: slurm", "slurm-"))]  # no cluster is needed
    (tmp_path / slurm.PROFILE.name).write_text("".join(local))
    (tmp_path / "Snakefile").write_text(SHARING)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(tmp_path), "--cores", "1"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "jobs").read_text().split() == [jobs]


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: see profiles/slurm/one-node.sh")
def test_a_study_runs_on_slurm_to_its_report(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    python_path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": python_path}
    command = ["profiles/slurm/one-node.sh", "config/test.yaml"]
    completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=environment, timeout=1500)
    assert completed.returncode == 0, (completed.stdout + completed.stderr)[-5000:]
    results = checkout / "results" / "test"
    assert (results / "report" / "index.html").stat().st_size > 50_000
    assert (pd.read_csv(results / "scores.csv", keep_default_na=False)["status"] == "ok").all()
    jobs = int(completed.stdout.rpartition("jobs went through SLURM")[0].split()[-1])
    assert jobs >= len(list((results / "logs").rglob("*.log"))), "every step was a SLURM job"
    folder = re.search(r"^a SLURM of one node in (\S+)$", completed.stdout, re.M)[1]
    assert not Path(folder).exists()
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if folder in command], "no daemon is left running"
