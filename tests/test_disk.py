"""A full, read-only or closed disk is one sentence wherever it shows."""

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
    ("number", "said"),
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
def test_sentences(number, said):
    found = disk_sentence(OSError(number, os.strerror(number), "/data/a"))
    assert found is None if said is None else re.match(said, found)
    assert disk_sentence(ValueError("x")) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_really_comes_from_a_full_disk():
    with pytest.raises(OSError) as refused, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "is full" in disk_sentence(refused.value)


@contextmanager
def files_of_at_most(size: int):
    """Writing beyond this many bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_command_leaves_nothing_half_written(tmp_path):
    for name, value in {"base": 0.0, "tuned": 1.0}.items():
        save_file({"weight": torch.full((100, 100), value)}, tmp_path / f"{name}.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    names = {"--pretrained": "base.safetensors", "--finetuned": "tuned.safetensors", "--out": "sub.safetensors"}
    arguments = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    with (
        files_of_at_most(4096),
        pytest.raises(SystemExit, match=r"error: .* exceeds the size limit for files.*raise the"),
    ):
        cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert (tmp_path / "sub.safetensors").stat().st_size > 4096


@pytest.mark.parametrize("end", [study.running.workflow.run, run], ids=["study", "report"])
def test_steps_end_with_the_sentence_and_leave_nothing(end, tmp_path):
    frame = pd.DataFrame({"a": range(10_000)})
    writers = [lambda: study.running.files.write_csv(tmp_path / "a.csv", frame)]
    writers += [lambda: study.running.files.write_parquet(tmp_path / "a.parquet", frame)]
    writers += [lambda: report.results.write_text(tmp_path / "a.svg", "x" * 10_000)]
    for write in writers:
        with files_of_at_most(4096), pytest.raises(SystemExit, match=r"^error: .* exceeds the size limit for files"):
            end(write)
        assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        end((tmp_path / "absent").read_text)


def test_errors_of_safetensors_are_understood(tmp_path):
    save = lambda: save_file({"weight": torch.zeros(10_000)}, tmp_path / "a.safetensors")  # noqa: E731
    with files_of_at_most(4096), pytest.raises(SystemExit, match="exceeds the size limit for files"):
        study.running.workflow.run(save)
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (
        disk_sentence(error)
        == "the disk is full: free some space, then run the same command again; finished work is kept."
    )


@contextmanager
def small_disk(place: Path, size: str):
    """A file system of a fixed size, mounted at a folder."""
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_study_says_that_its_disk_is_full_or_read_only_and_goes_on_when_it_is_not(tmp_path):
    checkout = copy_checkout(tmp_path)
    place = checkout / "results"
    goal = [*STUDY, "--", "results/test/models/bert/pretrained/manifest.json"]
    with small_disk(place, "1500k"):  # enough to start, not enough for the weights
        output = snakemake(checkout, *goal, expect=1)
        assert "is full: free some space" in output and "Traceback" not in output
        assert not list(place.rglob("*.safetensors"))
        subprocess.run(["mount", "-o", "remount,size=1100k", place], check=True)
        (place / "filler").write_bytes(b"x" * 2**19)
        output = snakemake(checkout, *goal, expect=1)
        assert f"error: the disk of {place}" in output and "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,ro,size=20m", place], check=True)
        output = snakemake(checkout, *goal, expect=1)
        assert "cannot be read or written (the disk is read-only)" in output and "Traceback" not in output
        subprocess.run(["mount", "-o", "remount,rw,size=20m", place], check=True)
        snakemake(checkout, *goal)
        assert len(list(place.rglob("*.safetensors"))) == 1 and not list(place.rglob(".*"))
