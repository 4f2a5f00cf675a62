"""Sizes of updates and overlaps of choices, compared with plain Python on whole tensors."""

import math
import re
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ken import kde
from ken.selection import kept_count
from study.running import files
from study.updates import CHOICE_COLUMNS, DESCRIBED, KINDS, UPDATE_COLUMNS, Tensors, choices, describe, update_sizes
from tests.conftest import MODELS

BUDGETS = [0.25, 3]


@pytest.fixture(scope="module")
def cells(finetuned_cells, tmp_path_factory):
    """Two "tasks" of one model: the fine-tuned cell, and a copy whose update is another one."""
    other = tmp_path_factory.mktemp("other") / "finetuned"
    shutil.copytree(finetuned_cells["bert"], other)
    generator = torch.Generator().manual_seed(0)
    state = load_file(other / "model.safetensors")
    noise = {name: 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    save_file({name: tensor + noise[name] for name, tensor in state.items()}, other / "model.safetensors")
    manifest = files.read_json(other / "manifest.json")
    manifest["sha256"]["model.safetensors"] = files.sha256(other / "model.safetensors")
    files.write_json(other / "manifest.json", manifest)
    return {"one": Tensors.open(finetuned_cells["bert"]), "two": Tensors.open(other)}


def rows_of(tensor: torch.Tensor) -> list[list[float]]:
    return tensor.reshape(1 if tensor.ndim < 2 else len(tensor), -1).double().tolist()


def kept(scores: list[float], budget: float) -> set[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return set(order[: kept_count(len(scores), budget)])


def densities(row: list[float]) -> list[float]:
    return kde.density(torch.tensor([row], dtype=torch.float32))[0].tolist()


def chosen(method: str, tuned: dict, base: dict, budget: float) -> set[tuple[str, int, int]]:
    """(tensor, row, entry) of everything that a method keeps of the body."""
    entries = set()
    for name in base:
        for i, (row, before) in enumerate(zip(rows_of(tuned[name]), rows_of(base[name]), strict=True)):
            update = [abs(w - w0) for w, w0 in zip(row, before, strict=True)]
            scores = densities(row) if method == "ken" else [float(torch.tensor(u).float()) for u in update]
            entries |= {(name, i, j) for j in kept(scores, budget)}
    return entries


@pytest.mark.parametrize("budget", BUDGETS)
def test_choices_against_sets(cells, budget):
    base = {
        k: v for k, v in load_file(cells["one"].folder / "initial.safetensors").items() if k not in cells["one"].head
    }
    tuned = {task: load_file(cell.folder / "model.safetensors") for task, cell in cells.items()}
    table = pd.DataFrame(choices(cells, BUDGETS))
    assert len(table) == len(BUDGETS) * ((2 + 2 + 1) + (2 + 1))
    table = table[table["budget"] == budget].set_index(["method", "measure", "task"])
    entries = sum(tensor.numel() for tensor in base.values())
    for method in DESCRIBED:
        sets = {task: chosen(method, state, base, budget) for task, state in tuned.items()}
        pair = table.loc[(method, "task", "one")]
        assert pair["other_task"] == "two"
        assert pair["value"] == pytest.approx(len(sets["one"] & sets["two"]) / len(sets["one"]), abs=2e-3)  # ties
        assert pair["kept_share"] == pytest.approx(len(sets["one"]) / entries)
        for task, state in tuned.items():
            of_all = sum((state[name].double() - base[name].double()).abs().sum().item() for name in base) / entries
            rows = {name: (rows_of(tensor), rows_of(base[name])) for name, tensor in state.items() if name in base}
            sizes = [abs(rows[name][0][i][j] - rows[name][1][i][j]) for name, i, j in sets[task]]
            of_kept = math.fsum(sizes) / len(sizes)
            assert table.loc[(method, "size", task), "value"] == pytest.approx(of_kept / of_all, rel=2e-3)
            if method == "ken":
                before = chosen("ken", base, base, budget)
                expected = len(sets[task] & before) / len(before)
                assert table.loc[(method, "pretrained", task), "value"] == pytest.approx(expected, abs=2e-3)


def test_an_equal_model_makes_the_same_choice(cells):
    table = pd.DataFrame(choices({"one": cells["one"], "again": cells["one"]}, [0.25]))
    assert (table.loc[table["measure"] == "task", "value"] == 1).all()
    whole = pd.DataFrame(choices({"one": cells["one"]}, [10**6])).set_index(["method", "measure"])["value"]
    assert len(whole) == 3 and whole.tolist() == pytest.approx([1, 1, 1]), "everything is kept"


@pytest.mark.parametrize("model", MODELS)
def test_relative_updates_against_norms_of_whole_tensors(finetuned_cells, model):
    cell = Tensors.open(finetuned_cells[model])
    initial, tuned = (load_file(cell.folder / f"{name}.safetensors") for name in ("initial", "model"))
    table = {row["kind"]: row for row in update_sizes(cell)}
    assert [kind for kind in KINDS if kind in table] == list(table)

    def ratio(names: list[str]) -> float:
        update = torch.cat([(tuned[name].double() - initial[name].double()).reshape(-1) for name in names])
        return float(update.norm() / torch.cat([initial[name].double().reshape(-1) for name in names]).norm())

    body = [name for name in initial if name not in cell.head]
    for kind, names in {"body": body, "head": sorted(cell.head)}.items():
        assert table[kind]["relative_update"] == pytest.approx(ratio(names), rel=1e-9)
        assert table[kind]["parameters"] == sum(initial[name].numel() for name in names)
    embeddings = [name for name in body if "embeddings" in name and initial[name].ndim == 2 and "project" not in name]
    assert table["embeddings"]["relative_update"] == pytest.approx(ratio(embeddings), rel=1e-9)
    attention = [n for n in body if initial[n].ndim == 2 and "attention" in n and n not in embeddings]
    assert table["attention"]["relative_update"] == pytest.approx(ratio(attention), rel=1e-9)
    feed = [n for n in body if initial[n].ndim == 2 and re.search(r"\d", n) and n not in (*embeddings, *attention)]
    assert table["feed-forward"]["relative_update"] == pytest.approx(ratio(feed), rel=1e-9)
    parts = ("embeddings", "attention", "feed-forward", "others")
    assert sum(table[kind]["parameters"] for kind in parts) == table["body"]["parameters"]


def test_tables_leave_out_cells_without_a_model(cells, tmp_path, capsys):
    folder = tmp_path / "finetuned"
    folder.mkdir()
    files.write_json(folder / "manifest.json", {"reason": "it diverged", "sha256": {}, "head": []})
    assert Tensors.open(folder) is None and "it diverged" in capsys.readouterr().out
    study = type("S", (), {"config": {"kept_shares": [0.5]}})()
    named = {("bert", task, 0): cell for task, cell in cells.items()}
    updates, chosen_of = describe(study, named, torch.device("cpu"))
    assert list(updates.columns) == list(UPDATE_COLUMNS) and list(chosen_of.columns) == list(CHOICE_COLUMNS)
    assert set(updates["task"]) == {"one", "two"} and updates["relative_update"].map(math.isfinite).all()
    assert all(table.empty for table in describe(study, {}, torch.device("cpu")))
