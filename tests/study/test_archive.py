"""Archives are restored byte for byte, and entries that differ from an archive's list are never written."""

import hashlib
import json
import stat
import zipfile

import pytest

from ken.errors import UserError
from study import archive, manifest, verify
from study.running import files
from tests.steps import run_step
from tests.study.test_damage import CELL, flip_bit, small_study, study  # noqa: F401


@pytest.fixture
def packed(small_study, tmp_path):  # noqa: F811
    """An archive of the small study."""
    archive.pack(small_study, tmp_path / "small.zip")
    return tmp_path / "small.zip"


def malicious_archive(path, entries, listed=None, study="small", **flags):  # noqa: F811
    """Write a malicious archive; entries are name -> bytes or ZipInfo -> bytes."""
    plain = {getattr(entry, "filename", entry): data for entry, data in entries.items()}
    if listed is None:
        listed = {name: {"sha256": digest(data), "bytes": len(data)} for name, data in plain.items()}
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive.json", json.dumps({"study": study, "files": listed, **flags}))
        for entry, data in entries.items():
            zipped.writestr(entry, data)
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_files_of_the_report_are_restored_byte_for_byte(small_study, packed, tmp_path, capsys):  # noqa: F811
    folder = archive.restore(packed, tmp_path / "elsewhere")
    assert folder == tmp_path / "elsewhere" / "small"
    restored = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert restored >= {"scores.csv", "tasks/words/test.parquet", f"{CELL}/compressed/ken/predictions.parquet"}
    assert not any(name.endswith((".safetensors", "tokenizer.json", "train.parquet", ".log")) for name in restored)
    for name in restored - {"archive.json"}:
        assert (folder / name).read_bytes() == (small_study / name).read_bytes()
    run_step(verify, folder)
    assert len({path.stat().st_mtime_ns for path in folder.rglob("*")}) == 1, "none is newer than another"
    named = set(files.read_json(folder / "archive.json")["left_out"])
    assert named == set(manifest.read(small_study / "manifest.json")) - restored
    left_out = len(manifest.read(small_study / "manifest.json")) - (len(restored) - 2)
    assert f"{left_out} files were left out when the study was packed." in capsys.readouterr().out
    flip_bit(folder / "scores.csv")
    with pytest.raises(SystemExit, match="1 of"):
        run_step(verify, folder)


def test_archives_are_deterministic_and_may_include_weights_and_logs(small_study, packed, tmp_path):  # noqa: F811
    archive.pack(small_study, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    archive.pack(small_study, tmp_path / "all.zip", weights=True, logs=True)
    folder = archive.restore(tmp_path / "all.zip", tmp_path / "elsewhere")
    original = {path.relative_to(small_study): path.read_bytes() for path in small_study.rglob("*") if path.is_file()}
    restored = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    added = {path for path in restored if path.name == "archive.json"}
    assert len(added) == 1 and {path: data for path, data in restored.items() if path not in added} == original


def test_files_shown_by_kenviz_are_packed_and_nothing_outside_the_study(study, tmp_path):  # noqa: F811
    shown = [f"../{CELL}/compressed/ken/draw0/0.1.safetensors", f"../{CELL}/finetuned/initial.safetensors"]
    files.write_json(study / "figures" / "kenviz.json", {"files": [*shown, "../../../outside.safetensors"]})
    run_step(manifest, study)
    names = archive.files_to_pack(study, weights=False, kenviz=True)
    assert {name for name in names if name.endswith(".safetensors")} == {name.removeprefix("../") for name in shown}
    assert not [name for name in archive.files_to_pack(study, False, kenviz=False) if name.endswith(".safetensors")]


def test_unfinished_and_damaged_studies_are_not_packed(study, tmp_path):  # noqa: F811
    flip_bit(study / "figures" / "frontier.svg")
    with pytest.raises(UserError, match=r"frontier.svg is missing or has changed: `python -m study.verify"):
        archive.pack(study, tmp_path / "a.zip")
    (study / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not a finished study"):
        archive.pack(study, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def assert_refused(path, into, match, **options):
    """Assert that an archive is refused with a one-line message and leaves no files."""
    before = set(into.parent.rglob("*"))
    with pytest.raises(UserError, match=match) as error:
        archive.restore(path, into, **options)
    assert "\n" not in str(error.value)
    assert set(into.parent.rglob("*")) - before <= {into}


LINK = zipfile.ZipInfo("link")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
FOLDER = zipfile.ZipInfo("folder/")


def test_hostile_archives_write_nothing(tmp_path):
    into, path = tmp_path / "into", tmp_path / "evil.zip"
    for name in ("../out", "/tmp/out", "a/../../out", "..\\out", "C:out", "C:/out"):
        assert_refused(malicious_archive(path, {name: b"x"}), into, "leads out of the folder")
        assert_refused(malicious_archive(path, {name: b"x"}, {}), into, "which differs from its list")
    assert_refused(malicious_archive(path, {LINK: b"/etc/passwd"}), into, "'link', which differs from its list")
    assert_refused(malicious_archive(path, {FOLDER: b""}, {}), into, "'folder/', which differs from its list")
    assert_refused(malicious_archive(path, {"extra": b"x"}, {}), into, "'extra', which differs from its list")
    assert_refused(
        malicious_archive(path, {"a": b"xx"}, {"a": {"sha256": digest(b"xx"), "bytes": 1}}),
        into,
        "differs from its list",
    )
    assert_refused(
        malicious_archive(path, {"a": b"x"}, {"a": {"sha256": digest(b"y"), "bytes": 1}}),
        into,
        "does not have the listed hash",
    )
    assert_refused(
        malicious_archive(path, {}, {"a": {"sha256": "", "bytes": 1}}), into, "lists 'a', which it does not hold"
    )
    assert_refused(malicious_archive(path, {"a": b"x"}, []), into, "not a list of the files")
    for name in ("..", "../out", "/tmp/out", "", None, "a\n", "a/b", ".hidden"):
        assert_refused(malicious_archive(path, {"a": b"x"}, study=name), into, "not a valid name")
    with pytest.warns(UserWarning, match="Duplicate"):
        double = malicious_archive(path, {"a": b"x"})
        with zipfile.ZipFile(double, "a") as zipped:
            zipped.writestr("a", b"y")
    assert_refused(double, into, "'a', which differs from its list")
    assert not list(tmp_path.rglob("out"))


def test_a_decompression_bomb_is_refused_before_writing(tmp_path):
    data = b"\0" * 2**24
    bomb = malicious_archive(tmp_path / "bomb.zip", {f"zeros{i}": data for i in range(4)})
    assert_refused(bomb, tmp_path / "into", r"unpacks to 0.1 GiB: allow that with --gibibytes", gibibytes=0.05)
    listed = {"a": {"sha256": digest(b"x"), "bytes": 2**60}}
    assert_refused(
        malicious_archive(tmp_path / "a.zip", {"a": b"x"}, listed), tmp_path / "into", "differs from its list"
    )


def test_damaged_and_truncated_archives_give_one_line_messages(packed, tmp_path):
    into, data = tmp_path / "into", packed.read_bytes()
    for broken in (b"", b"text", data[: len(data) // 2], data[:-30]):
        packed.write_bytes(broken)
        assert_refused(packed, into, "is damaged or not an archive of a study")
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("a", "x")
    assert_refused(packed, into, "has no archive.json")
    with pytest.raises(UserError, match=r"absent.zip does not exist"):
        archive.restore(tmp_path / "absent.zip", into)
    step = max(1, len(data) // 50)
    end_record = range(len(data) - 22, len(data))
    for position in (*range(0, len(data), step), *end_record):
        packed.write_bytes(data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :])
        try:
            folder = archive.restore(packed, tmp_path / f"flipped{position}")
        except UserError:
            continue
        assert verify.problems(folder, verify.expected(folder)[0]) == {}, "the byte has no effect, such as a date"


def test_an_existing_study_is_never_overwritten(packed, tmp_path):
    archive.restore(packed, tmp_path / "into")
    (tmp_path / "into" / "small" / "scores.csv").write_text("mine")
    with pytest.raises(UserError, match="exists: move it away"):
        archive.restore(packed, tmp_path / "into")
    assert (tmp_path / "into" / "small" / "scores.csv").read_text() == "mine"
