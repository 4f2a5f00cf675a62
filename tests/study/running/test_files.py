"""Files are whole or absent; steps end with a sentence and a status."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.errors import UserError, did_you_mean
from ken.files import replacing
from study.running import files

ROOT = Path(__file__).parents[3]


def test_replacing_takes_its_place_or_leaves_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    files.write_text(path, "one\r\ntwo 😀\n")
    assert path.read_bytes() == "one\r\ntwo 😀\n".encode()
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one\ntwo 😀\n" and list(path.parent.iterdir()) == [path]


def test_replacing_without_a_file_written_is_an_error_and_keeps_the_old_one(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_replacing_folder_leaves_nothing_of_the_old_one(tmp_path):
    path = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with files.replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
    with pytest.raises(RuntimeError), files.replacing_folder(path) as temporary:
        (temporary / "half").write_text("")
        raise RuntimeError
    assert [each.name for each in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(value=json_values.filter(lambda value: "\\ud" not in ascii(value)))
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_is_the_same_for_equal_values_and_has_no_nan(tmp_path):
    for name, value in {"a": {"x": 1, "y": [2]}, "b": {"y": [2], "x": 1}}.items():
        files.write_json(tmp_path / name, value)
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", float("nan"))
    assert files.read_json(tmp_path / "a") == {"x": 1, "y": [2]}


def test_unreadable_json_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"missing.json does not exist"):
        files.read_json(tmp_path / "missing.json")
    files.write_json(tmp_path / "m.json", {"text": "long enough"})
    for damaged in ((tmp_path / "m.json").read_bytes()[:-5], b"", b"\xff\xfe{}"):
        (tmp_path / "m.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"m.json is not a whole JSON file .*delete it"):
            files.read_json(tmp_path / "m.json")


def test_tables_come_back_without_an_index(tmp_path):
    frame = pd.DataFrame({"text": ["a\nb", 'c "d", é'], "n": [1, 2]}, index=[5, 7])
    files.write_csv(tmp_path / "t.csv", frame)
    files.write_parquet(tmp_path / "t.parquet", frame)
    for back in (pd.read_csv(tmp_path / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")):
        pd.testing.assert_frame_equal(back, frame.reset_index(drop=True))


def test_sha256(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_nearest_name():
    assert did_you_mean("brt", ["bloom", "bert"]) == ' Did you mean "bert"?'
    assert did_you_mean("BERT", ["bloom", "bert"]) == ' Did you mean "bert"?'
    assert did_you_mean("xyz", ["bloom", "bert"]) == " Valid: bert, bloom."
    assert did_you_mean("!", map(str, range(100))).endswith(" and 88 more.")
    assert did_you_mean("x", []) == ""


@pytest.mark.parametrize(
    ("statement", "status", "last", "has_traceback"),
    [
        ("raise UserError('found this.')", 1, "error: found this.", False),
        ("metrics.scores([], [])", 1, "error: got 0 references and 0 predictions: need equally many.", True),
        ("int('x')", 1, "ValueError: invalid literal for int() with base 10: 'x'", True),
        ("{}['key']", 1, "KeyError: 'key'", True),
        ("pass", 0, "", False),
    ],
)
def test_how_a_step_ends(statement, status, last, has_traceback):
    program = f"""
from study.training import metrics
from ken.errors import UserError
from study.running.workflow import run
def main():
    {statement}
run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert (done.stderr.strip().splitlines() or [""])[-1] == last
    assert ("Traceback" in done.stderr) == has_traceback
