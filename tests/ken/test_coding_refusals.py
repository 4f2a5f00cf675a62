"""Format 2 of sub-network files: damaged files, files that do not fit, and wrong choices get one sentence each."""

import json
import random
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ken
from ken import cli, options
from ken.coding import blocks
from ken.storage import open_reader
from ken.storage.container import ContainerWriter
from ken.subnetwork import Subnetwork
from tests.ken.test_coding import pair
from tests.oracles import format_reader as oracle


@pytest.fixture
def model(tmp_path):
    """A base and a fine-tuned model on disk."""
    base, tuned = pair([(6, 40), (9,)])
    base = {f"layer.0.{name}": tensor for name, tensor in base.items()}
    tuned = {name.replace("w", "layer.0.w"): tensor for name, tensor in tuned.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    return base, tuned


def prune(folder, *arguments, tuned="tuned.safetensors"):
    pair_of_paths = ["--pretrained", str(folder / "base.safetensors"), "--finetuned", str(folder / tuned)]
    common = [*pair_of_paths, "--quiet", "--allow-head", "--out", str(folder / "sub.ken.safetensors")]
    cli.main(["prune", *common, *arguments])


def refusal(*arguments) -> str:
    """The one sentence with which a command ends with status 1."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    sentence = stopped.value.code
    assert isinstance(sentence, str), "a sentence, thus status 1"
    assert sentence.startswith("error: ") and "\n" not in sentence
    return sentence


def refusal_of_inject(folder, sub="sub.ken.safetensors", base="base.safetensors") -> str:
    sentence = refusal(
        "inject",
        "--pretrained",
        folder / base,
        "--subnetwork",
        folder / sub,
        "--quiet",
        "--out",
        folder / "o.safetensors",
    )
    assert not (folder / "o.safetensors").exists()
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Subnetwork.load(folder / sub).apply(folder / base)
    return sentence


def rebuilt(path: Path, header=None, table=None, data=None) -> None:
    """Write a file again, with changes of its header, table or bytes, and a right checksum."""
    metadata, _, parts = oracle.safetensors(path.read_bytes())
    old = json.loads(metadata["ken"])
    old.pop("checksum")
    contents = json.loads(zlib.decompress(parts["table"][2]))
    stored = bytearray(parts["blocks"][2])
    for change, what in ((header, old), (table, contents), (data, stored)):
        if change is not None:
            change(what)
    for name in ("torch", "block"):
        old.pop(name)
    with ContainerWriter(path) as writer:
        writer.add("blocks", bytes(stored))
        writer.add("table", zlib.compress(json.dumps(contents).encode()))
        writer.write(old, ["blocks", "table"])


def replace_part(path: Path, index: int, new) -> None:
    """Replace bytes of the first record of the first tensor: 0 rows, 1 mask, 2 scales, 3 levels."""
    positions_of_lengths = (7, 10, 11, 12)
    contents = json.loads(zlib.decompress(oracle.safetensors(path.read_bytes())[2]["table"][2]))
    record = contents["tensors"][0][4][0]
    start = sum(record[at] for at in positions_of_lengths[:index])
    length = record[positions_of_lengths[index]]

    def of_data(stored):
        stored[start : start + length] = new(bytes(stored[start : start + length]))

    old = len(oracle.safetensors(path.read_bytes())[2]["blocks"][2])
    rebuilt(path, data=of_data)
    grown = len(oracle.safetensors(path.read_bytes())[2]["blocks"][2]) - old

    def of_table(contents):
        contents["tensors"][0][4][0][positions_of_lengths[index]] += grown

    rebuilt(path, table=of_table)


def test_a_newer_format(model, tmp_path):
    prune(tmp_path, "--values", "4bit")
    rebuilt(tmp_path / "sub.ken.safetensors", header=lambda old: old.update(format="ken-subnetwork-3"))
    sentence = refusal_of_inject(tmp_path)
    assert "has format ken-subnetwork-3, newer than ken-subnetwork-2" in sentence and "install a newer ken" in sentence
    assert "newer" in refusal("info", tmp_path / "sub.ken.safetensors")


@pytest.mark.parametrize("values", ["16bit", "4bit", "2bit", "1bit"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_no_finite_number(model, tmp_path, values, bad):
    prune(tmp_path, "--values", values, "--k", "1.0")
    width = 4 if values == "16bit" else 2

    def spoiled(data):
        planes = np.frombuffer(zlib.decompress(data, -15), np.uint8).reshape(width, -1).copy()
        number = np.array([bad], "<f4").view(np.uint8)
        planes[:, 0] = number if width == 4 else number[2:]
        return blocks._deflated(planes.tobytes())

    replace_part(tmp_path / "sub.ken.safetensors", 2, spoiled)
    assert "tensor 'layer.0.w0': it has a scale that is not a finite number" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize(("values", "level"), [("8bit", -128), ("4bit", 8), ("3bit", 4), ("16bit", -32768)])
def test_a_level_beyond_its_range(model, tmp_path, values, level):
    prune(tmp_path, "--values", values)

    def spoiled(data):
        width = 2 if values == "16bit" else 1
        planes = np.frombuffer(zlib.decompress(data, -15), np.uint8).reshape(width, -1).copy()
        planes[:, 0] = np.array([level], f"<i{width}").view(np.uint8)
        return blocks._deflated(planes.tobytes())

    replace_part(tmp_path / "sub.ken.safetensors", 3, spoiled)
    assert "it has a level beyond" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize("values", ["8bit", "2bit"])
@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("new", [b"", b"\x00" * 5, b"\xff" * 30])
def test_bytes_that_hold_no_levels_or_scales(model, tmp_path, values, index, new):
    prune(tmp_path, "--values", values)
    replace_part(tmp_path / "sub.ken.safetensors", index, lambda data: new)
    assert "write it again" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("new", [b"", b"\x00" * 3, b"\xff" * 50, b"\x01" * 300])
def test_bytes_that_hold_no_positions(model, tmp_path, index, new):
    prune(tmp_path, "--values", "4bit", "--k", "7")
    replace_part(tmp_path / "sub.ken.safetensors", index, lambda data: new if data else b"")

    def of_table(contents):
        record = contents["tensors"][0][4][0]
        record[5 + 3 * index] = "gaps"

    rebuilt(tmp_path / "sub.ken.safetensors", table=of_table)
    assert "tensor 'layer.0.w0'" in refusal_of_inject(tmp_path)


def test_an_altered_seed(model, tmp_path):
    prune(tmp_path, "--values", "4bit", "--positions", "seed", "--seed", "41")
    path = tmp_path / "sub.ken.safetensors"
    data = path.read_bytes()
    assert data.count(b'\\"seed\\": 41') == 1
    path.write_bytes(data.replace(b'\\"seed\\": 41', b'\\"seed\\": 42'))
    assert "was altered after it was written (its checksum differs)" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize("values", ["16bit", "3bit", "1bit", "rounded"])
def test_another_base(model, tmp_path, values):
    prune(tmp_path, "--values", values)
    other = model[0] | {"layer.0.w1": model[0]["layer.0.w1"].clone()}
    other["layer.0.w1"][3] += 1
    save_file(other, tmp_path / "other.safetensors")
    assert "the base has fingerprint" in refusal_of_inject(tmp_path, base="other.safetensors")
    arguments = ["--pretrained", tmp_path / "other.safetensors", "--subnetwork", tmp_path / "sub.ken.safetensors"]
    assert "the base has fingerprint" in refusal("check", *arguments)


def test_another_base_where_positions_come_from_it(model, tmp_path):
    prune(tmp_path, "--values", "4bit", "--positions", "base")
    save_file({name: tensor.flip(0) for name, tensor in model[0].items()}, tmp_path / "other.safetensors")
    sentence = refusal_of_inject(tmp_path, base="other.safetensors")
    assert "give the pre-trained values the sub-network was made from" in sentence


def test_positions_from_the_base_that_differ_on_this_machine(model, tmp_path):
    prune(tmp_path, "--values", "4bit", "--positions", "base")

    def of_table(contents):
        contents["tensors"][0][4][0][4] ^= 1

    rebuilt(tmp_path / "sub.ken.safetensors", table=of_table)
    assert "the positions derived from the base differ from those of the writer" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize("values", ["32bit", "4bit"])
def test_truncated_files(model, tmp_path, values):
    prune(tmp_path, "--values", values)
    data = (tmp_path / "sub.ken.safetensors").read_bytes()
    for size in {0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1}:
        (tmp_path / "short").write_bytes(data[:size])
        assert "truncated" in refusal_of_inject(tmp_path, "short")
        assert "truncated" in refusal("info", tmp_path / "short")
    (tmp_path / "long").write_bytes(data + b"\0")
    refusal_of_inject(tmp_path, "long")


@pytest.mark.parametrize(
    ("values", "positions"), [("4bit", "stored"), ("3bit", "seed"), ("2bit", "base"), ("rounded", "stored")]
)
def test_hundreds_of_altered_bytes(model, tmp_path, values, positions):
    prune(tmp_path, "--values", values, "--positions", positions)
    path, base, draw = tmp_path / "sub.ken.safetensors", tmp_path / "base.safetensors", random.Random(0)
    data, expected = path.read_bytes(), Subnetwork.load(path).apply(base)
    for _ in range(400):
        altered = bytearray(data)
        for _ in range(draw.choice([1, 1, 1, 3])):
            altered[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "altered").write_bytes(altered)
        try:
            state = Subnetwork.load(tmp_path / "altered").apply(base)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "choice", [["4bit", "stored"], ["4bit", "seed"], ["4bit", "base"], ["16bit", "stored"], ["rounded", "stored"]]
)
def test_weights_that_are_not_finite(model, tmp_path, bad, choice):
    model[1]["layer.0.w0"][2, 3] = bad
    save_file(model[1], tmp_path / "bad.safetensors")
    with pytest.raises(SystemExit) as stopped:
        prune(tmp_path, "--values", choice[0], "--positions", choice[1], tuned="bad.safetensors")
    assert "tensor 'layer.0.w0' has 1 updates that are NaN or infinite" in stopped.value.code
    assert not (tmp_path / "sub.ken.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--positions", "seed"], "positions 'seed' need values of 16 bits or fewer: give --values 4bit"),
        (["--positions", "base", "--values", "32bit"], "positions 'base' need values of 16 bits or fewer"),
        (["--positions", "seed", "--values", "rounded"], "rounded values are kept where they are not zero"),
        (["--positions", "seed", "--values", "4bit", "--method", "ken-grid"], "leave method 'ken-grid' nothing to"),
        (["--preset", "small", "--method", "ken-grid"], "leave method 'ken-grid' nothing to choose"),
        (["--preset", "small", "--values", "32bit"], "need values of 16 bits or fewer"),
    ],
)
def test_choices_that_do_not_go_together(model, tmp_path, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        prune(tmp_path, *arguments)
    assert stopped.value.code.startswith("error: ") and sentence in stopped.value.code
    assert not (tmp_path / "sub.ken.safetensors").exists()


@pytest.mark.parametrize("arguments", [["--values", "5bit"], ["--positions", "sead"], ["--preset", "tiny"]])
def test_unknown_choices_are_wrong_usage(model, tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        prune(tmp_path, *arguments)
    assert stopped.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_unknown_choices_in_python(model, tmp_path):
    for choice, sentence in [
        ({"values": "5bit"}, "unknown values '5bit': expected one of 32bit, 16bit"),
        ({"values": "4bit", "positions": "sede"}, "unknown positions 'sede'.* Did you mean \"seed\""),
        ({"values": "4bit", "rule": "rescaled"}, "unknown rule 'rescaled'"),
        ({"values": "4bit", "k": 0}, "k must be an int of at least 1"),
        ({"values": "4bit", "k": 1.5}, "k must be an int of at least 1"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            ken.prune(*model, tmp_path / "sub", **{"k": 0.1} | choice)
    assert not (tmp_path / "sub").exists()


def test_an_update_too_large_for_a_scale(tmp_path):
    base, tuned = {"w": torch.zeros(2, 40)}, {"w": torch.full((2, 40), 3e38)}
    with pytest.raises(ValueError, match=r"tensor 'w': an update is too large for a scale: .*--values 32bit"):
        ken.prune(base, tuned, tmp_path / "sub", 3, values="4bit", rule="rescale")
    assert not (tmp_path / "sub").exists()


def test_tensors_of_other_dtypes(tmp_path):
    base, tuned = pair([(4, 30)], torch.float64)
    extra = {"bytes": torch.arange(9, dtype=torch.uint8), "none": torch.zeros(0, dtype=torch.int32)}
    tuned |= extra | {"flags": torch.tensor([True, False]), "zero": torch.tensor(5)}
    ken.prune(base, tuned, tmp_path / "sub", 5, values="4bit", positions="seed")
    state = Subnetwork.load(tmp_path / "sub").apply(base)
    assert state["w0"].dtype == torch.float64
    assert all(torch.equal(state[name], tuned[name]) for name in ("bytes", "none", "flags", "zero", "ids"))
    with pytest.raises(ValueError, match=r"tensor 'c' is of torch\.complex64, which a sub-network file cannot hold"):
        ken.prune(base, tuned | {"c": torch.ones(2, dtype=torch.complex64)}, tmp_path / "b", 5, values="4bit")
    with pytest.raises(ValueError, match=r"tensor 'w0' is torch\.float64 .* but torch\.int64"):
        ken.prune({"w0": torch.ones(4, 30, dtype=torch.int64)}, tuned, tmp_path / "b", 5, values="4bit")


@pytest.mark.parametrize("values", ["16bit", "4bit", "rounded"])
def test_a_model_that_is_its_base(model, tmp_path, values):
    base, tuned = model
    save_file(base, tmp_path / "same.safetensors")
    with pytest.raises(SystemExit, match=r"has the same values as .* everywhere: give a model that was fine-tuned"):
        prune(tmp_path, "--values", values, tuned="same.safetensors")
    head = {name: tuned[name] for name in tuned.keys() - base.keys()}
    notes = ken.prune(base, base | head, tmp_path / "sub", 5, values=values)
    assert notes == ["fine-tuning changed nothing of dict; only the head differs"]
    state = Subnetwork.load(tmp_path / "sub").apply(base)
    assert all(torch.equal(state[name], tensor) for name, tensor in base.items())


def test_a_file_of_other_blocks(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ken.tensors.BLOCK", 64)
    prune(tmp_path, "--values", "4bit")
    monkeypatch.undo()
    assert "has blocks of 64 entries, expected 4194304" in refusal_of_inject(tmp_path)


@pytest.mark.parametrize("choice", [["4bit", "stored"], ["3bit", "seed"], ["1bit", "base"], ["rounded", "stored"]])
def test_commands_on_a_file_of_format_2(model, tmp_path, capsys, choice):
    prune(tmp_path, "--values", choice[0], "--positions", choice[1], "--seed", "4", "--json")
    written = json.loads(capsys.readouterr().out)
    path, base = tmp_path / "sub.ken.safetensors", str(tmp_path / "base.safetensors")
    cli.main(["info", str(path), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts.items() <= written.items() and (facts["values"], facts["positions"]) == tuple(choice)
    assert sum(facts["bytes"].values()) == facts["file_bytes"] == path.stat().st_size
    assert facts["kept"] == sum(kept for kept, _ in facts["tensors"].values()) == Subnetwork.load(path).kept_body
    cli.main(["info", str(path), "--tensors"])
    text = capsys.readouterr().out
    seeded = " 4" if choice[1] == "seed" else ""
    assert f"values {choice[0]}, positions {choice[1]}{seeded}\n" in text and "layer.0.w0" in text
    cli.main(["check", "--pretrained", base, "--subnetwork", str(path)])
    assert "injected and ejected bit for bit" in capsys.readouterr().out
    cli.main(["inject", "--pretrained", base, "--subnetwork", str(path), "--quiet", "--out", str(tmp_path / "model")])
    expected = Subnetwork.load(path).apply(base)
    restored = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(restored[name], tensor) for name, tensor in expected.items())


def test_presets(model, tmp_path, capsys):
    for name, preset in options.PRESETS.items():
        prune(tmp_path, "--preset", name, "--json")
        facts = json.loads(capsys.readouterr().out)
        assert {key: facts[key] for key in preset} == preset
    prune(tmp_path, "--preset", "small", "--k", "3", "--values", "2bit", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["k"], facts["values"], facts["positions"], facts["seed"]) == (3, "2bit", "seed", 0)
    prune(tmp_path, "--preset", "exact", "--rule", "reset")
    tuned = load_file(tmp_path / "tuned.safetensors")
    restored = Subnetwork.load(tmp_path / "sub.ken.safetensors").apply(tmp_path / "base.safetensors")
    assert all(torch.equal(restored[name], tensor) for name, tensor in tuned.items())


def test_viz_needs_the_base(model, tmp_path, capsys):
    prune(tmp_path, "--values", "3bit", "--positions", "seed")
    path, picture = tmp_path / "sub.ken.safetensors", tmp_path / "picture.png"
    matrix = ["--matrix", "layer.0.w0"]
    assert "holds updates in few bits" in refusal("viz", path, *matrix, "--out", picture)
    assert "a page does not show" in refusal("viz", path, "--explorer", tmp_path / "page.html")
    base = ["--pretrained", str(tmp_path / "base.safetensors")]
    cli.main(["viz", str(path), *matrix, *base, "--out", str(picture)])
    assert picture.stat().st_size > 5000


def test_a_folder_and_a_missing_file(model, tmp_path):
    prune(tmp_path, "--values", "4bit")
    shutil.copy(tmp_path / "sub.ken.safetensors", tmp_path / "copy")
    assert "is a folder" in refusal("info", tmp_path)
    assert "absent" in refusal("info", tmp_path / "absent")


def items(value, path=()):
    """Paths of all items of nested lists and dicts."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*path, key)
        yield from items(item, (*path, key))


def spoil(contents, draw) -> None:
    """Replace or delete one item."""
    *path, last = draw.choice(list(items(contents)))
    for key in path:
        contents = contents[key]
    old = contents[last]
    near = [old + 1, old - 1] if isinstance(old, int) else ["bits", "gaps"]
    new = draw.choice([None, 0, -1, 1, 2**31, 10**9, "x", [], {}, 1.5, True, *near, "delete"])
    if new == "delete":
        del contents[last]
    else:
        contents[last] = new


@pytest.mark.parametrize("part", ["table", "header"])
@pytest.mark.parametrize(
    ("values", "positions"), [("4bit", "stored"), ("3bit", "seed"), ("2bit", "base"), ("rounded", "stored")]
)
def test_files_of_a_faulty_writer(tmp_path, values, positions, part):
    """The checksum is right, but an item of the table or the header is not: a sentence, never another error."""
    draw, path, (base, tuned) = random.Random(f"{values}{part}"), tmp_path / "sub", pair([(6, 40), (9,), (4, 3, 5)])
    ken.prune(base, tuned, path, 9, values=values, positions=positions)
    data, refused = path.read_bytes(), 0
    for _ in range(100):
        path.write_bytes(data)
        try:
            rebuilt(path, **{part: lambda contents: spoil(contents, draw)})
        except (TypeError, KeyError):  # this header cannot be written
            continue
        for read in (
            lambda: Subnetwork.load(path).apply(base),
            lambda: ken.inject(base, path, tmp_path / "out.safetensors"),
            lambda: cli.summary(path, open_reader(path)),
        ):
            try:
                read()
            except ValueError as error:
                refused += "\n" not in str(error)
    assert refused > 20
