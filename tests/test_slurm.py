"""The SLURM profile on a real one-node SLURM cluster, started and stopped by a script."""

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

from tests.test_workflow import copy_checkout

NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
missing = [name for name in NEEDED if shutil.which(name) is None]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    missing.append("snakemake-executor-plugin-slurm")
if os.geteuid():
    missing.append("root")


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
