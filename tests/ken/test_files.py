"""Atomic replacement of files, and paths that leave their folder."""

import pytest

from ken.files import leads_out, replacing


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
