"""One-line messages for full, read-only and inaccessible disks."""

import errno
import os
import re
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import report.results
import study.running.files
import study.running.workflow
from ken import cli
from ken.errors import disk_sentence, run
from tests.test_workflow import STUDY, copy_checkout, snakemake


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "the disk of /data/a is full: free some space, then run the same command again"),
        (errno.EDQUOT, "the disk of /data/a is full"),
        (errno.EFBIG, "/data/a exceeds the size limit for files"),
        (errno.EROFS, r"/data/a cannot be read or written \(the disk is read-only\)"),
        (errno.EACCES, r"/data/a cannot be read or written \(permission denied\)"),
        (errno.ENOENT, None),
        (errno.ECONNREFUSED, None),
    ],
)
def test_messages_for_disk_errors(number, expected):
    sentence = disk_sentence(OSError(number, os.strerror(number), "/data/a"))
    assert sentence is None if expected is None else re.match(expected, sentence)
    assert disk_sentence(ValueError("x")) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_gives_that_message():
    with pytest.raises(OSError) as refused, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "is full" in disk_sentence(refused.value)


@contextmanager
def file_size_limit(size: int):
    """Make writing beyond this many bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_prune_leaves_no_partial_file(tmp_path):
    for name, value in {"base": 0.0, "tuned": 1.0}.items():
        save_file({"weight": torch.full((100, 100), value)}, tmp_path / f"{name}.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    names = {"--pretrained": "base.safetensors", "--finetuned": "tuned.safetensors", "--out": "sub.safetensors"}
    arguments = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    with (
        file_size_limit(4096),
        pytest.raises(SystemExit, match=r"error: .* exceeds the size limit for files.*raise the"),
    ):
        cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert (tmp_path / "sub.safetensors").stat().st_size > 4096


@pytest.mark.parametrize("runner", [study.running.workflow.run, run], ids=["study", "report"])
def test_steps_report_disk_errors_and_leave_no_partial_file(runner, tmp_path):
    frame = pd.DataFrame({"a": range(10_000)})
    writers = [lambda: study.running.files.write_csv(tmp_path / "a.csv", frame)]
    writers += [lambda: study.running.files.write_parquet(tmp_path / "a.parquet", frame)]
    writers += [lambda: report.results.write_text(tmp_path / "a.svg", "x" * 10_000)]
    for write in writers:
        with file_size_limit(4096), pytest.raises(SystemExit, match=r"^error: .* exceeds the size limit for files"):
            runner(write)
        assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        runner((tmp_path / "absent").read_text)


def test_disk_errors_of_safetensors_are_recognised(tmp_path):
    save = lambda: save_file({"weight": torch.zeros(10_000)}, tmp_path / "a.safetensors")  # noqa: E731
    with file_size_limit(4096), pytest.raises(SystemExit, match="exceeds the size limit for files"):
        study.running.workflow.run(save)
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (
        disk_sentence(error)
        == "the disk is full: free some space, then run the same command again; finished work is kept."
    )


@contextmanager
def small_disk(folder: Path, size: str):
    """Mount a file system of a fixed size at a folder."""
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_study_reports_a_full_or_read_only_disk_and_resumes(tmp_path):
    checkout = copy_checkout(tmp_path)
    results = checkout / "results"
    target = [*STUDY, "--", "results/test/models/bert/pretrained/manifest.json"]
    with small_disk(results, "1500k"):  # enough to start, not enough for the weights
        output = snakemake(checkout, *target, expect=1)
        assert "is full: free some space" in output and "Traceback" not in output
        assert not list(results.rglob("*.safetensors"))
        subprocess.run(["mount", "-o", "remount,size=1100k", results], check=True)
        (results / "filler").write_bytes(b"x" * 2**19)
        output = snakemake(checkout, *target, expect=1)
        assert f"error: the disk of {results}" in output and "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,ro,size=20m", results], check=True)
        output = snakemake(checkout, *target, expect=1)
        assert "cannot be read or written (the disk is read-only)" in output and "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,rw,size=20m", results], check=True)
        snakemake(checkout, *target)
        assert len(list(results.rglob("*.safetensors"))) == 1 and not list(results.rglob(".*"))
