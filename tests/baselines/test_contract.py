"""The contract, over all that registers and all seven models: exact budgets, untouched base, round trips, seeds."""

import pytest
import torch
from safetensors.torch import load_file

import baselines
from baselines import METHODS, Cell, source_hash
from baselines.base import Selection, register
from ken.selection import as_rows, kept_count
from study import files
from study.models import empty_classifier
from tests.conftest import MODELS

BUDGETS = [0.02, 0.25, 0.75, 1, 7]


@pytest.fixture(scope="session")
def cells(finetuned_cells):
    found = {}
    for model, folder in finetuned_cells.items():
        head = set(files.read_json(folder / "manifest.json")["head"])
        initial = load_file(folder / "initial.safetensors")
        body = {name: tensor for name, tensor in initial.items() if name not in head}
        found[model] = Cell(body, load_file(folder / "model.safetensors"), seed=5)
    return found


def stored(method, cell, budget, path):
    kept = method.store(cell, method.prepare(cell), budget, path)
    return kept, method.restore(cell.pretrained, path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_contract(name, model, cells, tmp_path):
    method, cell = METHODS[name], cells[model]
    before = {key: tensor.clone() for key, tensor in (cell.pretrained | cell.finetuned).items()}
    assert method.decline(cell) is None
    for budget in method.budgets or BUDGETS:
        kept, state = stored(method, cell, budget, tmp_path / "file")
        assert set(state) == set(cell.finetuned)
        for key, tensor in state.items():
            assert tensor.shape == cell.finetuned[key].shape and tensor.dtype == cell.finetuned[key].dtype
            if key not in cell.pretrained:
                assert torch.equal(tensor, cell.finetuned[key]), "the head is kept in full"
        if isinstance(method, Selection):
            rows = {key: as_rows(tensor) for key, tensor in cell.pretrained.items()}
            assert kept == sum(len(row) * kept_count(row.shape[1], budget) for row in rows.values())
        again = stored(method, cell, budget, tmp_path / "again")[1]
        assert all(torch.equal(state[key], again[key]) for key in state), "the seed decides everything"
    now = cell.pretrained | cell.finetuned
    assert all(torch.equal(before[key], now[key]) for key in before), "inputs are not touched"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_live_model_becomes_what_the_file_restores(name, cells, finetuned_cells, tmp_path):
    method, cell, folder = METHODS[name], cells["bert"], finetuned_cells["bert"]
    model = empty_classifier(folder)
    model.load_state_dict(load_file(folder / "initial.safetensors"))
    prepared = method.prepare(cell)
    for budget in [*(method.budgets or BUDGETS), *(method.budgets or BUDGETS)[::-1]]:
        method.store(cell, prepared, budget, tmp_path / "file")
        method.restore_into(model, cell.pretrained, tmp_path / "file")
        expected = method.restore(cell.pretrained, tmp_path / "file")
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", sorted(n for n, m in METHODS.items() if isinstance(m, Selection) and m.rule == "reset")
)
def test_a_selection_keeps_fine_tuned_values_and_resets_the_rest(name, cells, tmp_path):
    cell = cells["bert"]
    _, state = stored(METHODS[name], cell, 0.25, tmp_path / "file")
    for key, base in cell.pretrained.items():
        is_kept, is_reset = state[key] == cell.finetuned[key], state[key] == base
        assert (is_kept | is_reset).all()
        count = kept_count(as_rows(base).shape[1], 0.25)
        assert (as_rows(~is_reset).sum(dim=1) <= count).all() and (as_rows(is_kept).sum(dim=1) >= count).all()


def test_scores_of_the_simple_criteria_against_plain_loops(cells, tmp_path):
    cell = cells["bert"]
    key = next(name for name in cell.pretrained if name.endswith("query.weight"))
    base, tuned = cell.pretrained[key], cell.finetuned[key]
    for name, score in (("magnitude", lambda w, w0: abs(w)), ("delta-magnitude", lambda w, w0: abs(w - w0))):
        _, state = stored(METHODS[name], cell, 4, tmp_path / name)
        for i, row in enumerate(tuned.tolist()):
            scores = [score(w, w0) for w, w0 in zip(row, base[i].tolist(), strict=True)]
            kept = sorted(range(len(row)), key=lambda j: (-scores[j], j))[:4]
            expected = [row[j] if j in kept else base[i].tolist()[j] for j in range(len(row))]
            assert state[key][i].tolist() == expected


def test_random_draws_depend_on_the_seed(cells, tmp_path):
    cell = cells["bert"]
    _, one = stored(METHODS["random"], cell, 0.25, tmp_path / "one")
    _, other = stored(METHODS["random"], Cell(cell.pretrained, cell.finetuned, 6), 0.25, tmp_path / "other")
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_controls_are_the_two_ends(cells, tmp_path):
    cell = cells["bert"]
    _, full = stored(METHODS["full"], cell, 1.0, tmp_path / "full")
    _, none = stored(METHODS["none"], cell, 0.0, tmp_path / "none")
    assert all(torch.equal(full[key], cell.finetuned[key]) for key in full)
    assert all(torch.equal(none[key], cell.pretrained[key]) for key in cell.pretrained)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="registered twice"):
        register(Selection("ken", criterion="ken"))


def test_source_hash_follows_the_files_a_method_is_made_of():
    assert (
        source_hash(METHODS["magnitude"]) == source_hash(METHODS["delta-magnitude"]) != source_hash(METHODS["random"])
    )
    names = {path.name for path in baselines.source.source_files("baselines.magnitude")}
    assert {"magnitude.py", "base.py", "kde.py", "selection.py", "subnetwork.py"} <= names
    assert "random_choice.py" not in names
