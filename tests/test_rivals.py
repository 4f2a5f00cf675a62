"""The comparison with other libraries: a small stand-in for one, libraries that are missing, and those installed."""

import json
from dataclasses import replace

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from benchmarks import common, rival_libraries, rivals
from benchmarks.rival_libraries import Rival
from ken.errors import UserError
from report.benchmarks import rivals_block
from tests import sources
from tests.steps import run_step

HALF = "half precision"


def write_half(pair, folder):
    base, finetuned = map(load_file, pair.files)
    save_file({name: (finetuned[name] - base[name]).half() for name in base}, folder / "delta.safetensors")


def restore_half(pair, folder):
    base, delta = load_file(pair.files[0]), load_file(folder / "delta.safetensors")
    return {name: tensor + delta[name].float() for name, tensor in base.items()}


def half(**changes) -> Rival:
    return replace(Rival(HALF, write_half, restore_half), **changes)


@pytest.fixture
def cell(finetuned_cells):
    return finetuned_cells["bert"]


@pytest.fixture
def pair(cell, tmp_path):
    return rivals.prepare(None, cell, tmp_path / "pair")


def test_the_table_has_size_error_and_exactness(pair):
    table, notes = rivals.compare([half(), *rival_libraries.ours()], pair)
    assert notes == [] and list(table) == [HALF, *(rival.label for rival in rival_libraries.ours())]
    assert 0.45 < table[HALF]["share of the dense file"] < 0.75  # the tiny model's file is a quarter header
    assert 0 < table[HALF]["relative error"] < 1e-3 and table[HALF]["exact"] is False
    exact = table["ken prune --preset exact"]
    assert exact["exact"] is True and exact["relative error"] == 0
    sizes = [table[f"ken prune --preset {name}"]["share of the dense file"] for name in ("small", "balanced", "exact")]
    assert sizes == sorted(sizes)
    assert all(row["writing, s"] > 0 and row["restoring, s"] > 0 for row in table.values())
    lines = rivals.shown(table, ["x is not installed"]).splitlines()
    assert "relative error" in lines[0] and lines[-1] == "x is not installed" and len(lines) == 2 + len(table)


def test_the_error_is_that_of_the_update():
    base, finetuned = {"w": torch.zeros(4)}, {"w": torch.tensor([3.0, 0, 4, 0]), "head": torch.ones(1)}
    assert rivals.relative_error(base, finetuned, base) == 1
    assert rivals.relative_error({"w": torch.tensor([3.0, 0, 0, 0])}, finetuned, base) == pytest.approx(0.8)
    assert rivals.relative_error(finetuned, finetuned, base) == 0


def test_missing_libraries_are_named_once(pair):
    missing = half(package="no-such-package", module="no_such_module.part")
    table, notes = rivals.compare([missing, replace(missing, label="other"), half()], pair)
    assert list(table) == [HALF] and notes == ["no-such-package is not installed"]
    assert rivals.shown({}, notes).endswith("no-such-package is not installed")


def test_a_library_that_fails_does_not_end_the_comparison(pair):
    def fail(pair, folder):
        raise RuntimeError("first line\nsecond line")

    def without_a_tensor(pair, folder):
        return dict(list(restore_half(pair, folder).items())[1:])

    table, notes = rivals.compare(
        [half(label="a", write=fail), half(label="b", restore=without_a_tensor), half()], pair
    )
    assert list(table) == [HALF] and notes[0] == "a failed: RuntimeError: first line"
    assert notes[1].startswith("b failed: ValueError: tensors missing or added: ")


def test_the_head_is_the_initial_one_or_zero(cell, pair, tmp_path):
    head = json.loads((cell / "manifest.json").read_text())["head"]
    initial, finetuned = load_file(cell / "initial.safetensors"), load_file(cell / "model.safetensors")
    base, pretrained = load_file(pair.files[0]), load_file(pair.pretrained / "model.safetensors")
    assert base.keys() == finetuned.keys() and pretrained.keys() == finetuned.keys() - set(head)
    assert all(torch.equal(base[name], initial[name]) for name in base)
    body = tmp_path / "body.safetensors"
    save_file(pretrained, body)
    other = rivals.prepare(body, cell, tmp_path / "other")
    assert all(load_file(other.files[0])[name].count_nonzero() == 0 for name in head)
    assert load_file(other.pretrained / "model.safetensors").keys() == pretrained.keys()
    save_file({"x": torch.ones(2)}, body)
    with pytest.raises(UserError, match=r"body\.safetensors and .* share no tensor"):
        rivals.prepare(body, cell, tmp_path / "third")
    with pytest.raises(UserError, match=r"none does not exist: name a safetensors file, or a folder"):
        rivals.prepare(tmp_path / "none", cell, tmp_path / "fourth")


def test_the_benchmark_records_what_the_document_shows(cell, task_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rivals, "rivals", lambda: [half(), half(package="no-such-package", module="no_such_module")])
    out = tmp_path / "rivals.json"
    run_step(rivals, "--threads", 1, "--finetuned", cell, "--task", task_folder, "--max-length", 24, "--out", out)
    numbers = common.read(out)["numbers"]
    expected = json.loads((cell / "manifest.json").read_text())["weighted_f1"]
    assert numbers["dense: weighted F1"] == pytest.approx(expected)
    assert numbers["ken prune --preset exact: weighted F1"] == numbers["dense: weighted F1"]
    assert numbers["notes"] == ["no-such-package is not installed"]
    assert HALF in capsys.readouterr().out
    text = rivals_block(tmp_path)
    assert "no-such-package is not installed." in text and f"| {HALF} |" in text
    assert "`ken prune --preset exact`" in text and "| exact |" in text


def test_an_adapter_of_mergekit_is_added_to_the_base(tmp_path):
    pair = rival_libraries.PairFolders(*(tmp_path / name for name in ("base", "finetuned", "pretrained")))
    base = {
        "l.weight": torch.ones(2, 3),
        "l.bias": torch.ones(2),
        "e.weight": torch.ones(5, 2),
        "n.weight": torch.ones(2),
    }
    down, up, rows, columns = torch.rand(1, 3), torch.rand(2, 1), torch.rand(1, 5), torch.rand(2, 1)
    adapter = {
        "l.lora_A.weight": down, "l.lora_B.weight": up, "l.lora_B.bias": torch.full((2,), 0.5),
        "e.lora_embedding_A": rows, "e.lora_embedding_B": columns, "n.weight": torch.full((2,), 3.0),
    }  # fmt: skip
    pair.base.mkdir()
    save_file(base, pair.files[0])
    save_file({f"base_model.model.{name}": t for name, t in adapter.items()}, tmp_path / "adapter_model.safetensors")
    restored = rival_libraries._mergekit_restore(pair, tmp_path)
    torch.testing.assert_close(restored["l.weight"], 1 + up @ down)
    torch.testing.assert_close(restored["e.weight"], 1 + (columns @ rows).T)
    assert restored["l.bias"].tolist() == [1.5, 1.5] and restored["n.weight"].tolist() == [3, 3]


@pytest.mark.filterwarnings("ignore")  # these libraries use deprecated functions
@pytest.mark.parametrize("rival", rival_libraries.rivals(), ids=lambda rival: rival.label)
def test_installed_libraries_restore_the_model(rival, pair):
    if not rival.installed:
        pytest.skip(f"{rival.package} is not installed")
    measured = rivals.measure(rival, pair, None)
    assert measured["exact"] == rival.label.startswith(("zipnn", "fireworks"))
    assert measured["relative error"] < 1


def test_the_libraries_are_pinned_and_no_dependency():
    lines = (sources.ROOT / "envs" / "rivals.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(one.specifier).startswith("==") for one in pinned)
    packages = {rival.package for rival in rival_libraries.rivals()}
    assert packages <= {one.name for one in pinned}
    for file in ("pyproject.toml", "envs/requirements.txt", "envs/requirements.lock"):
        text = (sources.ROOT / file).read_text()
        assert not [package for package in packages if package in text], file
