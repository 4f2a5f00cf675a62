"""Atomic replacement of files, their permissions, outputs that must not be replaced, and paths that leave a folder."""

import os

import pytest
import torch
from safetensors.torch import save_file

from ken.files import check_output, leads_out, path_exists, replacing
from ken.streaming import inject, prune
from study.running.files import replacing_folder


def test_replacing_is_atomic(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_if_nothing_was_written(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("a/b.txt", False),
        ("..a", False),
        ("../a", True),
        ("a/../../b", True),
        ("/a", True),
        ("C:a", True),
        ("..\\a", True),
    ],
)
def test_paths_outside_the_folder_are_detected(name, out):
    assert leads_out(name) is out


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_of_the_umask(mask, tmp_path):
    old = os.umask(mask)
    try:
        with replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"w": torch.ones(2)}, temporary)  # which writes for its user alone
        with replacing(tmp_path / "b.txt") as temporary:
            os.close(os.open(temporary, os.O_CREAT, 0o600))
        with replacing_folder(tmp_path / "folder") as folder:
            save_file({"w": torch.ones(2)}, folder / "model.safetensors")
            (folder / "inner").mkdir()
            os.close(os.open(folder / "inner" / "x", os.O_CREAT, 0o600))
        prune({"a.w": torch.zeros(4, 4)}, {"a.w": torch.ones(4, 4)}, tmp_path / "sub", 2)
        inject({"a.w": torch.zeros(4, 4)}, tmp_path / "sub", tmp_path / "model")
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


LINKS = {
    "itself": lambda path, link: path,
    "a symbolic link": lambda path, link: link.symlink_to(path) or link,
    "a hard link": lambda path, link: link.hardlink_to(path) or link,
}


@pytest.mark.parametrize("how", LINKS)
def test_an_output_is_never_an_input(how, tmp_path):
    (tmp_path / "in").write_text("in")
    out = LINKS[how](tmp_path / "in", tmp_path / "link")
    with pytest.raises(ValueError, match=r"is an input of this command .*: name another file"):
        check_output(out, [tmp_path / "in"], "a text", lambda path: True)
    check_output(tmp_path / "new", [tmp_path / "in"], "a text", lambda path: True)


def test_an_output_replaces_only_its_kind(tmp_path):
    (tmp_path / "notes").write_text("notes")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="notes exists and is not a picture: remove it, or name another file"):
        check_output(tmp_path / "notes", [], "a picture", lambda path: False)
    check_output(tmp_path / "notes", [], "a text", lambda path: True)
    check_output(tmp_path / "empty", [], "a picture", lambda path: False)
    with pytest.raises(ValueError, match="is not a picture"):
        check_output("/dev/null", [], "a picture", lambda path: True)


def test_a_folder_that_may_not_be_searched(monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(ValueError, match="may not be read"):
        path_exists("/somewhere/a")
