"""A full, read-only or closed disk is one sentence wherever it shows."""

import errno
import os
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import report.errors
import report.results
import study.errors
import study.files
from ken import cli, disk


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "there is no room left on the disk of /data/a: make some, then run the same command again"),
        (errno.EDQUOT, "there is no room left on the disk of /data/a"),
        (errno.EFBIG, "/data/a may not grow so large here"),
        (errno.EROFS, r"/data/a cannot be read or written \(the disk is read-only\)"),
        (errno.EACCES, r"/data/a cannot be read or written \(the system does not permit it\)"),
        (errno.ENOENT, None),
        (errno.ECONNREFUSED, None),
    ],
)
def test_sentences(number, said):
    found = disk.sentence(OSError(number, os.strerror(number), "/data/a"))
    assert found is None if said is None else re.match(said, found)
    assert disk.sentence(ValueError("x")) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_really_comes_from_a_full_disk():
    with pytest.raises(OSError) as refused, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "no room left" in disk.sentence(refused.value)


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
    with files_of_at_most(4096), pytest.raises(SystemExit, match=r"error: .* may not grow so large here .*raise the"):
        cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    cli.main(["prune", *arguments, "--k", "0.9", "--quiet"])
    assert (tmp_path / "sub.safetensors").stat().st_size > 4096


@pytest.mark.parametrize("end", [study.errors.run, report.errors.run], ids=["study", "report"])
def test_steps_end_with_the_sentence_and_leave_nothing(end, tmp_path):
    frame = pd.DataFrame({"a": range(10_000)})
    writers = [lambda: study.files.write_csv(tmp_path / "a.csv", frame)]
    writers += [lambda: study.files.write_parquet(tmp_path / "a.parquet", frame)]
    writers += [lambda: report.results.write_text(tmp_path / "a.svg", "x" * 10_000)]
    for write in writers:
        with files_of_at_most(4096), pytest.raises(SystemExit, match=r"^error: .* may not grow so large here "):
            end(write)
        assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        end((tmp_path / "absent").read_text)


def test_errors_of_safetensors_are_understood(tmp_path):
    save = lambda: save_file({"weight": torch.zeros(10_000)}, tmp_path / "a.safetensors")  # noqa: E731
    with files_of_at_most(4096), pytest.raises(SystemExit, match="may not grow so large here"):
        study.errors.run(save)
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert disk.sentence(error).startswith("there is no room left on the disk")
