"""Libraries of sub-networks: adding, checking, restoring, swapping and removing, on real small models."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ken
from ken import cli
from ken.library import ENTRY, INDEX, Library
from ken.subnetwork import Subnetwork

SMALL = {"k": 0.25, "values": "3bit", "positions": "seed", "rule": "rescale"}


@pytest.fixture(scope="module")
def base(checkpoints):
    return checkpoints["bert"]


@pytest.fixture(scope="module")
def tuned(finetuned_cells):
    return finetuned_cells["bert"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, base, tuned):
    """A library of three sub-networks: two of one model in few bits, and one that restores it to the bit."""
    library = Library.create(tmp_path_factory.mktemp("made") / "library", base)
    library.add(tuned, "small", **SMALL)
    library.add(tuned, "other", **(SMALL | {"seed": 3}))
    library.add(tuned, "exact", k=1.0)
    return library


@pytest.fixture
def library(made, tmp_path):
    """A copy of `made` that a test may change."""
    return Library(shutil.copytree(made.folder, tmp_path / "library"))


def printed(capsys, *arguments: object) -> str:
    cli.main(["library", *map(str, arguments)])
    return capsys.readouterr().out


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_command_from_init_to_remove(base, tuned, tmp_path, capsys):
    folder, out = tmp_path / "library", tmp_path / "restored"
    assert "a library for" in printed(capsys, "init", folder, "--pretrained", base)
    added = printed(capsys, "add", folder, "--finetuned", tuned, "--name", "words", "--preset", "balanced", "--quiet")
    assert "added words" in added
    listed = json.loads(printed(capsys, "list", folder, "--json"))
    (entry,) = listed["entries"]
    assert (entry["k"], entry["values"], entry["positions"], entry["rule"]) == (0.25, "3bit", "seed", "rescale")
    assert entry["labels"] == ["fruit", "tool"] and entry["added"].startswith("20")
    assert entry["bytes"] == (folder / "words" / "words.ken.safetensors").stat().st_size == listed["bytes"]
    assert listed["fingerprint"] == ken.fingerprint(base) and listed["dense_bytes"] > listed["bytes"]
    text = printed(capsys, "list", folder)
    assert "random 3bit seed k 0.25  fruit, tool" in text and "1 sub-networks: " in text
    assert "restores the recorded weights" in printed(capsys, "verify", folder)
    assert json.loads(printed(capsys, "verify", folder, "words", "--json")) == {"checked": 1, "problems": {}}
    assert "written in" in printed(capsys, "restore", folder, "words", "--out", out, "--quiet")
    assert "removed words" in printed(capsys, "remove", folder, "words")
    assert [path.name for path in folder.iterdir()] == [INDEX]
    assert "0 sub-networks: 0 bytes" in printed(capsys, "list", folder)


def test_the_file_is_that_of_prune_and_the_model_that_of_inject(base, tuned, tmp_path, capsys):
    folder, file = tmp_path / "library", tmp_path / "words.ken.safetensors"
    pair = ["--pretrained", str(base), "--finetuned", str(tuned)]
    cli.main(["prune", *pair, "--preset", "small", "--quiet", "--out", str(file)])
    printed(capsys, "init", folder, "--pretrained", base)
    printed(capsys, "add", folder, "--finetuned", tuned, "--name", "pruned", "--preset", "small", "--quiet")
    printed(capsys, "add", folder, "--subnetwork", file)
    library = Library(folder)
    assert library.names() == ["pruned", "words"]
    assert library.path("pruned").read_bytes() == library.path("words").read_bytes() == file.read_bytes()
    assert library.entry("pruned").restored == library.entry("words").restored
    library.restore("words", tmp_path / "restored")
    ken.inject(base, file, tmp_path / "injected")
    assert [path.name for path in sorted((tmp_path / "restored").iterdir())] == [
        path.name for path in sorted((tmp_path / "injected").iterdir())
    ]
    assert (tmp_path / "restored/model.safetensors").read_bytes() == (
        tmp_path / "injected/model.safetensors"
    ).read_bytes()


def test_a_restored_folder_loads_with_its_tokenizer(made, tuned, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made.restore("exact", tmp_path / "model")
    restored = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert same(restored.state_dict(), AutoModelForSequenceClassification.from_pretrained(tuned).state_dict())
    assert restored.config.id2label == {0: "fruit", 1: "tool"}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")("apple")["input_ids"]) > 2


def test_swapping_in_a_live_model(made, base):
    model = {name: tensor.clone() for name, tensor in made.load("exact").apply(base).items()}
    live = torch.nn.Module()
    live.state_dict = lambda: model
    pretrained = load_file(base / "model.safetensors")
    prefix = "bert."
    for name in model:
        if name.removeprefix(prefix) in pretrained:
            model[name] = pretrained[name.removeprefix(prefix)].to(model[name].dtype, copy=True)
    before = {name: tensor.clone() for name, tensor in model.items()}
    for name in ("small", "exact", "other", "other", "exact", "exact", "small"):
        swapped = made.swap(live, name)
        assert same(model, made.load(name).apply(base)), name
    swapped.eject(live)
    assert same(model, before)


def test_what_prune_says_is_printed_and_recorded(library, base, tuned, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(base).save_pretrained(tmp_path / "untrained")
    cli.main(["library", "add", str(library.folder), "--finetuned", str(tmp_path / "untrained"), "--quiet"])
    assert "note: fine-tuning changed nothing" in capsys.readouterr().err
    assert library.entry("untrained").notes[0].startswith("fine-tuning changed nothing")


def test_names_are_checked(library, tuned):
    before = contents(library.folder)
    for name in ("", ".", "..", ".hidden", "a/b", "../b", "a\\b", "/a", "a b", "-a", "a.", "a\n", "x" * 101, INDEX):
        with pytest.raises(ValueError, match="cannot name a sub-network"):
            library.add(tuned, name, **SMALL)
        with pytest.raises(ValueError, match="cannot name a sub-network"):
            library.remove(name)
    with pytest.raises(ValueError, match="has no name: give one"):
        library.add(load_file(tuned / "model.safetensors"), k=3)
    with pytest.raises(ValueError, match=r'has no sub-network "smal". Did you mean "small"\?'):
        library.entry("smal")
    with pytest.raises(ValueError, match=r'has no sub-network "zzz". Valid: exact, other, small\.'):
        library.swap(torch.nn.Linear(2, 2), "zzz")
    assert contents(library.folder) == before


def test_nothing_is_overwritten_without_replace(library, base, tuned, tmp_path):
    before = contents(library.folder)
    with pytest.raises(ValueError, match='has a sub-network "small" already: name another, or give --replace'):
        library.add(tuned, "small", **SMALL)
    (library.folder / "notes").mkdir()
    (library.folder / "notes" / "text").write_text("mine")
    with pytest.raises(ValueError, match="notes exists and is not a sub-network of the library"):
        library.add(tuned, "notes", replace=True, **SMALL)
    shutil.rmtree(library.folder / "notes")
    for folder in (library.folder, tuned):
        with pytest.raises(ValueError, match=r"is a library already|is not an empty folder"):
            Library.create(folder, base)
    assert contents(library.folder) == before
    library.add(tuned, "small", replace=True, **(SMALL | {"k": 0.5}))
    assert library.entry("small").k == 0.5 and library.names() == ["exact", "other", "small"]
    library.verify("small")
    assert not list(library.folder.glob(".*"))


def test_a_moved_base_is_named_again(made, base, tmp_path):
    shutil.copytree(base, tmp_path / "first")
    shutil.copytree(made.folder, tmp_path / "library")
    library = Library.create(tmp_path / "library", tmp_path / "first", replace=True)
    (tmp_path / "first").rename(tmp_path / "second")
    for use in (library.check_base, lambda: library.verify("small"), lambda: library.restore("small", tmp_path / "o")):
        with pytest.raises(ValueError, match=r"cannot be read \(.*if it was moved, give its new place"):
            use()
    library = Library.create(tmp_path / "library", tmp_path / "second", replace=True)
    for name in library.names():
        library.verify(name)
    changed = load_file(base / "model.safetensors")
    next(iter(changed.values())).view(-1)[0] += 1
    save_file(changed, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match="give the base of "):
        Library.create(tmp_path / "library", tmp_path / "changed.safetensors", replace=True)


def test_a_changed_base_is_refused(library, base, tuned, tmp_path, capsys):
    shutil.copytree(base, tmp_path / "base")
    library = Library.create(library.folder, tmp_path / "base", replace=True)
    changed = load_file(base / "model.safetensors")
    changed["encoder.layer.0.output.dense.weight"][0, 0] += 1
    save_file(changed, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    before = contents(library.folder)
    with pytest.raises(ValueError, match="has fingerprint "):
        library.add(tuned, "new", **SMALL)
    with pytest.raises(ValueError, match="the base has fingerprint"):
        library.verify("small")
    with pytest.raises(ValueError, match="the base has fingerprint"):
        library.restore("small", tmp_path / "out")
    with pytest.raises(SystemExit, match="has fingerprint"):
        cli.main(["library", "verify", str(library.folder)])
    assert contents(library.folder) == before and not (tmp_path / "out").exists()


def test_files_of_another_base_are_refused(library, checkpoints, finetuned_cells, tmp_path):
    before = contents(library.folder)
    changed = load_file(checkpoints["bert"] / "model.safetensors")
    changed["encoder.layer.0.output.dense.weight"][0, 0] += 1
    save_file(changed, tmp_path / "base.safetensors")
    ken.prune(tmp_path / "base.safetensors", finetuned_cells["bert"], tmp_path / "changed.ken.safetensors", **SMALL)
    ken.prune(checkpoints["ernie"], finetuned_cells["ernie"], tmp_path / "ernie.ken.safetensors", k=3)
    for name in ("changed", "ernie"):
        with pytest.raises(ValueError, match=rf"{name}.ken.safetensors does not fit the base of"):
            library.add_file(tmp_path / f"{name}.ken.safetensors")
    with pytest.raises(ValueError, match=r"ernie model and .* a bert model"):
        library.add(finetuned_cells["ernie"], "ernie", k=3)
    assert contents(library.folder) == before


def damage(library: Library) -> dict[str, str]:
    """Damage all three sub-networks; name -> part of the sentence expected."""
    data = bytearray(library.path("small").read_bytes())
    data[-40] ^= 1
    library.path("small").write_bytes(data)
    shutil.copyfile(library.path("exact"), library.path("other"))  # whole and of this base, but not what was added
    (library.folder / "exact" / ENTRY).write_text("{")
    return {"small": "was altered", "other": "restores other weights", "exact": "entry.json is damaged"}


def test_verify_names_every_damage(library, capsys):
    sentences = damage(library)
    with pytest.raises(SystemExit, match=r"error: 3 of 3 sub-networks of .* failed the check"):
        cli.main(["library", "verify", str(library.folder)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(sentence in "\n".join(lines) for sentence in sentences.values())
    with pytest.raises(SystemExit):
        cli.main(["library", "verify", str(library.folder), "--json"])
    assert json.loads(capsys.readouterr().out)["problems"].keys() == sentences.keys()
    with pytest.raises(SystemExit, match=r"entry.json is damaged: add the sub-network again with --replace"):
        cli.main(["library", "list", str(library.folder)])
    library.path("small").unlink()
    with pytest.raises(FileNotFoundError):
        library.verify("small")
    for name in library.names():
        library.remove(name)
    assert [path.name for path in library.folder.iterdir()] == [INDEX]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "NOWHERE"], "is not a library: make one with `ken library init`"),
        (["init", "NEW", "--pretrained", "NOWHERE"], "does not exist"),
        (["add", "LIB", "--finetuned", "NOWHERE"], "does not exist"),
        (["add", "LIB", "--finetuned", "BASE", "--name", "base"], "has the same values"),
        (["add", "LIB", "--finetuned", "TUNED", "--name", "a/b"], "cannot name a sub-network"),
        (["add", "LIB", "--finetuned", "TUNED", "--name", "small"], "give --replace"),
        (["add", "LIB", "--finetuned", "TUNED", "--name", "n", "--positions", "seed"], "need values of 16 bits"),
        (["add", "LIB", "--subnetwork", "NOWHERE"], "No such file"),
        (["add", "LIB", "--subnetwork", "BASE/model.safetensors"], "is not a sub-network"),
        (["add", "LIB", "--subnetwork", "SUB", "--k", "0.5"], "--k cannot change a file"),
        (["restore", "LIB", "smal", "--out", "NEW"], 'Did you mean "small"?'),
        (["restore", "LIB", "small", "--out", "LIB"], "exists already"),
        (["verify", "LIB", "gone"], "1 of 1 sub-networks"),
        (["remove", "LIB", "../library"], "cannot name a sub-network"),
    ],
)
def test_errors_are_one_line_and_change_nothing(library, base, tuned, tmp_path, arguments, sentence, capsys):
    names = {"NOWHERE": "/nowhere/x", "NEW": tmp_path / "new", "LIB": library.folder, "BASE": base, "TUNED": tuned}
    for name, value in (names | {"SUB": library.path("small")}).items():
        arguments = [argument.replace(name, str(value)) for argument in arguments]
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["library", *arguments])
    message = str(ended.value)
    assert message.startswith("error: ") and "\n" not in message and sentence in message
    assert contents(tmp_path) == before and not list(library.folder.glob(".*"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "ken-library-9", "pretrained": "x", "fingerprint": ""}'])
def test_a_damaged_or_newer_index_is_refused(library, text):
    (library.folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"library.json is damaged|has format ken-library-9"):
        Library(library.folder)


def _add(folder: Path, file: Path, names: list[str]) -> None:
    for name in names:
        try:
            Library(folder).add_file(file, name)
        except ValueError as error:
            assert "give --replace" in str(error)
            (folder.parent / f"refused-{multiprocessing.current_process().pid}-{name}").touch()


def test_processes_add_at_the_same_time(made, base, tmp_path):
    library, file = Library.create(tmp_path / "library", base), made.path("small")
    context = multiprocessing.get_context("fork")
    names = [f"n{i}" for i in range(4)]
    running = [context.Process(target=_add, args=(library.folder, file, names)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0]
    assert library.names() == names and not list(library.folder.glob(".*"))
    assert len(list(tmp_path.glob("refused-*"))) == len(names)  # each name was added once and refused once
    for name in names:
        library.verify(name)


def test_an_interrupted_addition_leaves_nothing_visible(library, tuned, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    before = contents(library.folder)
    monkeypatch.setattr("ken.library.restored_digest", interrupted)
    for replace in (False, True):
        with pytest.raises(KeyboardInterrupt):
            library.add(tuned, "small" if replace else "new", replace=replace, **SMALL)
    assert contents(library.folder) == before


def test_a_failed_replacement_keeps_the_old_one(library, tuned, monkeypatch):
    rename = Path.rename

    def failing(path, target):
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    before = contents(library.folder)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        library.add(tuned, "small", replace=True, **(SMALL | {"k": 0.5}))
    assert contents(library.folder) == before


def test_the_file_loads_as_any_other(made, base):
    assert made.load("exact").base == Subnetwork.load(made.path("exact")).base
    assert ken.Library is Library
