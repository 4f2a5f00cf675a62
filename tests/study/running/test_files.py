"""Reading and writing files: atomic, deterministic, and with one-line messages for damaged ones."""

import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.errors import UserError
from study.running import files


def test_text_is_written_unchanged(tmp_path):
    files.write_text(tmp_path / "new folder" / "a.txt", "one\r\ntwo 😀\n")
    assert (tmp_path / "new folder" / "a.txt").read_bytes() == "one\r\ntwo 😀\n".encode()


def test_replacing_a_folder_is_atomic(tmp_path):
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
def test_json_survives_a_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_is_deterministic_and_refuses_nan(tmp_path):
    for name, value in {"a": {"x": 1, "y": [2]}, "b": {"y": [2], "x": 1}}.items():
        files.write_json(tmp_path / name, value)
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", float("nan"))
    assert files.read_json(tmp_path / "a") == {"x": 1, "y": [2]}


def test_unreadable_json_gives_a_one_line_message(tmp_path):
    with pytest.raises(UserError, match=r"missing.json does not exist"):
        files.read_json(tmp_path / "missing.json")
    files.write_json(tmp_path / "m.json", {"text": "long enough"})
    for damaged in ((tmp_path / "m.json").read_bytes()[:-5], b"", b"\xff\xfe{}"):
        (tmp_path / "m.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"m.json is not a complete JSON file .*delete it"):
            files.read_json(tmp_path / "m.json")


def test_tables_are_written_without_an_index(tmp_path):
    frame = pd.DataFrame({"text": ["a\nb", 'c "d", é'], "n": [1, 2]}, index=[5, 7])
    files.write_csv(tmp_path / "t.csv", frame)
    files.write_parquet(tmp_path / "t.parquet", frame)
    for back in (pd.read_csv(tmp_path / "t.csv"), files.read_parquet(tmp_path / "t.parquet")):
        pd.testing.assert_frame_equal(back, frame.reset_index(drop=True))
    assert list(files.read_parquet(tmp_path / "t.parquet", columns=["n"])) == ["n"]


def test_unreadable_parquet_gives_a_one_line_message(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(UserError, match=r"t.parquet does not exist: run the step that writes it"):
        files.read_parquet(path)
    files.write_parquet(path, pd.DataFrame({"text": ["a"] * 100}))
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"cannot be read as Parquet \(No match for FieldRef.Name\(label\) in text"):
        files.read_parquet(path, columns=["label"])
    for damaged in (b"", b"text", whole[:-20], whole[: len(whole) // 2], b"\0" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t.parquet cannot be read as Parquet \(.+\): delete it") as refused:
            files.read_parquet(path)
        assert "\n" not in str(refused.value)


def test_sha256(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_file_is_linked_or_copied_to_another_disk(tmp_path, monkeypatch):
    source, cached = tmp_path / "blob", tmp_path / "cached"
    source.write_text("x")
    cached.symlink_to(source)
    files.link_or_copy(cached, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source) and not (tmp_path / "linked").is_symlink()

    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr(files.os, "link", refuse)
    files.link_or_copy(cached, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "x" and not (tmp_path / "copied").samefile(source)
