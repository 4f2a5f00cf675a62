"""The contract of all registered methods on all seven models: exact budgets, unchanged inputs, round trips, seeds."""

import dataclasses
import json
import math

import pandas as pd
import pytest
import torch

from baselines import METHODS, Method, TrainedMethod, module_of
from baselines.base import FAMILIES, UNITS, Selection, StoredSubnetwork, register
from baselines.estimates import ModelShapes
from ken.coding.coder import Coding
from ken.selection import as_rows, kept_count
from ken.subnetwork import Subnetwork
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.running.code import dependencies
from tests.baselines.storing import store_and_restore
from tests.conftest import MODELS

BUDGETS = [0.02, 0.25, 0.75, 1, 7]  # on BERT; fewer on the others, since budgets do not depend on the architecture
SETTINGS = {"kept_shares": BUDGETS, "draws": 2, "batch_size": 16, "max_length": 24}
FEW = {name: {"budgets": list(method.budgets or [0.25])[:1], "rate_factors": [1]} for name, method in METHODS.items()
       if method.needs_data}  # fmt: skip
SMALL_SETTINGS = SETTINGS | {"kept_shares": [0.25, 3], "methods": FEW}
CODED = ("ken-rescaled-4bit", "magnitude-8bit", "ken-base-rescaled-3bit", "seeded-rescaled-2bit", "seeded-1bit")
"""Some of the methods that every selection has besides its own."""
GLOBAL = ("magnitude-zero", "delta-global", "lt-sft", "fish")


# Methods that train or use gradients take seconds per model: two models by default, all seven in the slow tests.
PAIRS = [
    pytest.param(name, model, marks=pytest.mark.slow)
    if METHODS[name].needs_data and model not in ("bert", "bloom-560m")
    else (name, model)
    for name in [*sorted(METHODS), *CODED]
    for model in MODELS
]


@pytest.fixture(scope="session")
def cells(finetuned_cells, task_folder):
    def cell(model, folder):
        budgets = BUDGETS if model == "bert" else [0.25, 7]
        return FinetunedCell(folder, task_folder, SETTINGS | {"kept_shares": budgets, "methods": FEW})

    return {model: cell(model, folder) for model, folder in finetuned_cells.items()}


def is_coded(method):
    """Whether values have fewer than 32 bits: then vectors are kept whole, and unchanged rows are not kept."""
    return isinstance(getattr(method, "coding", None), Coding) and not method.coding.exact


def shapes_of(cell) -> ModelShapes:
    linear = {layer: tuple(cell.pretrained[f"{layer}.weight"].shape) for layer in cell.linear_layers}
    head = sum(tensor.numel() for name, tensor in cell.finetuned.items() if name not in cell.pretrained)
    return ModelShapes({name: tuple(tensor.shape) for name, tensor in cell.pretrained.items()}, head, linear)


def content_bytes(path) -> int:
    """Bytes of a file without the names and shapes of its tensors, which matter only for such small models."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start]).get("table", {"data_offsets": [0, 0]})["data_offsets"]
    return len(content) - start - (table[1] - table[0])


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_contract(name, model, cells, tmp_path):
    method, finetuned = METHODS[name], cells[model]
    cell = finetuned.for_method(method, draw=0)
    before = {key: tensor.clone() for key, tensor in (cell.pretrained | cell.finetuned).items()}
    assert method.decline(cell) is None
    assert method.family in FAMILIES and method.unit in UNITS
    for budget in finetuned.budgets(method):
        report, state = store_and_restore(method, cell, budget, tmp_path / "file")
        assert 0 <= report.kept <= 1.1 * cell.body_size
        estimate, size = method.stored_bytes(budget, shapes_of(cell)), content_bytes(tmp_path / "file")
        if is_coded(method):  # rows that did not change take nothing; tables of Huffman codes matter only here
            tables = 40 * len(cell.finetuned)
            assert 0.6 * estimate - tables <= size <= 1.05 * estimate + tables, "the estimate is a close upper bound"
        else:
            assert estimate == pytest.approx(size, rel=0.05), "the estimate is close"
        if report.parameters is None:
            assert_same_architecture(state, cell, isinstance(method, TrainedMethod), is_coded(method))
        rows = {key: as_rows(tensor) for key, tensor in cell.pretrained.items()}
        if (isinstance(method, Selection) and not is_coded(method) and method.scope == "all") or name in GLOBAL:
            assert report.kept == sum(len(row) * kept_count(row.shape[1], budget) for row in rows.values())
        again = store_and_restore(method, cell, budget, tmp_path / "again")[1]
        assert all(torch.equal(state[key], again[key]) for key in state), "the result depends only on the seed"
        assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()
    now = cell.pretrained | cell.finetuned
    assert all(torch.equal(before[key], now[key]) for key in before), "inputs are not changed"


def assert_same_architecture(state, cell, trains, coded):
    assert set(state) == set(cell.finetuned)
    for key, tensor in state.items():
        assert tensor.shape == cell.finetuned[key].shape and tensor.dtype == cell.finetuned[key].dtype
        if key not in cell.pretrained and coded:
            assert (tensor - cell.finetuned[key]).abs().max() <= 1e-4 * cell.finetuned[key].abs().max()
        elif key not in cell.pretrained and not trains:
            assert torch.equal(tensor, cell.finetuned[key]), "the head is kept in full"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_restore_into_equals_restore(name, cells, tmp_path):
    method, finetuned = METHODS[name], cells["bert"]
    finetuned.reset_model()
    cell = finetuned.for_method(method, draw=0)
    prepared = method.prepare(cell)
    budgets = finetuned.budgets(method)
    for budget in [*budgets, *budgets[::-1]]:
        method.store(cell, prepared, budget, tmp_path / "file")
        model = method.restore_into(finetuned.model, cell.pretrained, tmp_path / "file")
        expected = method.restore(cell.pretrained, tmp_path / "file")
        state = model.state_dict()
        assert set(state) == set(expected)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_rows_record_time_and_memory_and_are_reused(name, finetuned_cells, task_folder, tmp_path, capsys, monkeypatch):
    method = METHODS[name]
    cell = FinetunedCell(finetuned_cells["distilbert"], task_folder, SMALL_SETTINGS)
    compress(cell, [name], tmp_path)
    shown = capsys.readouterr().out
    assert "s left" in shown
    scores = pd.read_csv(tmp_path / name / "scores.csv", keep_default_na=False)
    assert len(scores) == cell.draws(method) * len(cell.budgets(method)) and (scores["status"] == "ok").all()
    assert (scores["seconds"] >= 0).all() and (scores["peak_mib"] > 0).all() and (scores["stored_bytes"] > 0).all()
    assert (scores["weighted_f1"].between(0, 1)).all()
    (tmp_path / name / "scores.csv").unlink()
    monkeypatch.setattr(type(method), "store", None)  # a second call would fail
    compress(cell, [name], tmp_path)
    assert pd.read_csv(tmp_path / name / "scores.csv", keep_default_na=False).equals(scores)


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, method in METHODS.items()
        if isinstance(method, Selection) and method.rule == "reset" and method.scope == "all" and not is_coded(method)
    ),
)
def test_a_selection_keeps_some_entries_and_resets_the_others(name, cells, tmp_path):
    cell = cells["bert"].for_method(METHODS[name], 0)
    _, state = store_and_restore(METHODS[name], cell, 0.25, tmp_path / "file")
    for key, base in cell.pretrained.items():
        is_kept, is_reset = state[key] == cell.finetuned[key], state[key] == base
        assert (is_kept | is_reset).all()
        count = kept_count(as_rows(base).shape[1], 0.25)
        assert (as_rows(~is_reset).sum(dim=1) <= count).all() and (as_rows(is_kept).sum(dim=1) >= count).all()


@pytest.mark.parametrize("model", MODELS)
def test_scopes_partition_the_body_by_kind_of_module(model, cells, tmp_path):
    """Every tensor in the scope has KEN's entries, every other is kept in full; the kinds come from the modules."""
    cell = cells[model].for_method(METHODS["ken"], 0)
    _, everywhere = store_and_restore(METHODS["ken"], cell, 0.25, tmp_path / "all")
    owners = {}  # name of a tensor -> class of the module that holds it
    for name, _ in cell.skeleton.named_parameters():
        module = cell.skeleton
        for part in name.split(".")[:-1]:
            module = getattr(module, part)
        owners[name] = module
    in_scope = {
        "linear": lambda name: isinstance(owners[name], torch.nn.Linear) and name.endswith("weight"),
        "layers": lambda name: any(part.isdigit() for part in name.split(".")),
        "embeddings": lambda name: isinstance(owners[name], torch.nn.Embedding),
    }
    for scope, belongs in in_scope.items():
        report, state = store_and_restore(METHODS[f"ken-{scope}"], cell, 0.25, tmp_path / scope)
        kept = 0
        for key, base in cell.pretrained.items():
            pruned = key in owners and belongs(key)
            assert torch.equal(state[key], everywhere[key] if pruned else cell.finetuned[key]), (scope, key)
            kept += len(as_rows(base)) * kept_count(as_rows(base).shape[1], 0.25) if pruned else base.numel()
        assert report.kept == kept < cell.body_size
        assert f"ken-{scope}-4bit" not in METHODS


def test_scores_of_the_simple_criteria_against_plain_loops(cells, tmp_path):
    cell = cells["bert"].for_method(METHODS["magnitude"], 0)
    key = next(name for name in cell.pretrained if name.endswith("query.weight"))
    base, tuned = cell.pretrained[key], cell.finetuned[key]
    for name, score in (("magnitude", lambda w, w0: abs(w)), ("delta-magnitude", lambda w, w0: abs(w - w0))):
        _, state = store_and_restore(METHODS[name], cell, 4, tmp_path / name)
        for i, row in enumerate(tuned.tolist()):
            scores = [score(w, w0) for w, w0 in zip(row, base[i].tolist(), strict=True)]
            kept = sorted(range(len(row)), key=lambda j: (-scores[j], j))[:4]
            expected = [row[j] if j in kept else base[i].tolist()[j] for j in range(len(row))]
            assert state[key][i].tolist() == expected


@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if m.stochastic))
def test_random_draws_depend_on_the_seed(name, cells, tmp_path):
    cell = cells["bert"].for_method(METHODS[name], 0)
    _, one = store_and_restore(METHODS[name], cell, 0.25, tmp_path / "one")
    _, other = store_and_restore(METHODS[name], dataclasses.replace(cell, seed=6), 0.25, tmp_path / "other")
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_controls_restore_the_fine_tuned_and_the_pre_trained_model(cells, tmp_path):
    cell = cells["bert"].for_method(METHODS["full"], 0)
    _, full = store_and_restore(METHODS["full"], cell, 1.0, tmp_path / "full")
    _, none = store_and_restore(METHODS["none"], cell, 0.0, tmp_path / "none")
    assert all(torch.equal(full[key], cell.finetuned[key]) for key in full)
    assert all(torch.equal(none[key], cell.pretrained[key]) for key in cell.pretrained)


def test_a_name_can_be_registered_only_once():
    with pytest.raises(ValueError, match="registered twice"):
        register(Selection("ken", criterion="ken"))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_estimates_its_costs_on_all_models(name, cells):
    method = METHODS[name]
    for model, cell in cells.items():
        shapes = shapes_of(cell.for_method(method, 0))
        for budget in {*cell.budgets(method), *(method.budgets or BUDGETS)}:
            assert 0 < method.stored_bytes(budget, shapes) < math.inf, (model, budget)
        assert shapes.dense_bytes <= method.memory_bytes(shapes) < math.inf
        once, twice = method.effort(shapes, 1), method.effort(shapes, 2)
        for cost in dataclasses.fields(once):
            assert 0 <= getattr(once, cost.name) <= getattr(twice, cost.name) < math.inf


def test_default_estimates_are_those_of_a_ranking():
    class Plain(Method):
        name, store, restore = "plain", None, None

    shapes = ModelShapes({"layer.weight": (40, 80), "norm.bias": (80,)}, head=6, linear={"layer": (40, 80)})
    half, whole = (Plain().stored_bytes(share, shapes) for share in (0.5, 1.0))
    assert 4 * 6 < half < 0.6 * whole and whole == pytest.approx(shapes.dense_bytes, rel=0.03)
    assert Plain().effort(shapes, 3).ranked == 40 * 80 + 80


def test_the_module_of_a_method_is_the_one_that_registered_it():
    assert {name: module_of(name) for name in ("magnitude", "random", "ken-delta-rescaled", "full", "fish")} == {
        "magnitude": "baselines.magnitude",  # which baselines.llm_surgeon imports too
        "random": "baselines.random_choice",
        "ken-delta-rescaled": "baselines.kernel_density",
        "full": "baselines.controls",
        "fish": "baselines.masked_training",
    }
    assert module_of("llm-surgeon") == "baselines.llm_surgeon.method"
    assert all(module_of(name).startswith("baselines.") for name in METHODS)


def test_a_method_depends_on_its_module_and_its_imports():
    assert module_of("magnitude") == module_of("delta-magnitude") == "baselines.magnitude"
    names = {path.name for path in dependencies(module_of("magnitude"))}
    assert {"magnitude.py", "base.py", "kde.py", "selection.py", "subnetwork.py"} <= names
    assert "random_choice.py" not in names


@pytest.mark.parametrize("name", ["full", "none", "ken", "ken-grid", "rounded", *CODED])
def test_the_kept_entries_of_a_file_are_counted_as_it_is_written(name, cells, tmp_path):
    cell, method = cells["bert"].for_method(METHODS[name], 0), METHODS[name]
    assert isinstance(method, StoredSubnetwork)
    for budget in method.budgets or (0.02, 0.75):
        path = tmp_path / f"{budget}.safetensors"
        stored = method.store(cell, method.prepare(cell), budget, path)
        assert stored.kept == Subnetwork.load(path).kept_body
