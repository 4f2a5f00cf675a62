"""Temporary folders in memory: where they are made, and what killed processes leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.running import scratch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(scratch, "MEMORY", folder)
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    return folder


def test_a_folder_in_memory_is_used_and_removed(memory, tmp_path):
    with scratch.folder(1, tmp_path / "disk") as folder:
        assert folder.parent == memory
        (folder / "file").write_text("x")
    assert not list(memory.iterdir())


def test_another_folder_can_be_named_and_the_disk_takes_what_does_not_fit(memory, tmp_path, monkeypatch):
    with scratch.folder(10**18, tmp_path / "disk") as folder:
        assert folder.parent == tmp_path / "disk" and folder.name.startswith(".")
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    with scratch.folder(1, tmp_path / "disk") as folder:
        assert folder.parent == tmp_path
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "missing"))
    with scratch.folder(1, tmp_path / "disk") as folder:
        assert folder.parent == tmp_path / "disk"


def test_what_a_killed_process_left_is_removed_and_nothing_else(memory, tmp_path, monkeypatch):
    code = (
        "import sys, time; from pathlib import Path; from study.running import scratch\n"
        "with scratch.folder(1, Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"
    )
    environment = os.environ | {scratch.VARIABLE: str(memory)}
    command = [sys.executable, "-c", code, str(tmp_path / "disk")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        left = Path(process.stdout.readline().strip())
        monkeypatch.setattr(scratch, "AGE", -1.0)
        scratch.remove_abandoned(memory)
        assert left.is_dir(), "its process is alive"
        process.send_signal(signal.SIGKILL)
    monkeypatch.setattr(scratch, "AGE", 60.0)
    scratch.remove_abandoned(memory)
    assert left.is_dir(), "too young to be abandoned"
    hour_ago = time.time() - 3600
    os.utime(left, (hour_ago, hour_ago))
    (memory / "others").mkdir()
    scratch.remove_abandoned(memory)
    assert [path.name for path in memory.iterdir()] == ["others"]
