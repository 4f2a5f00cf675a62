"""Ablations of KEN on one cell: kinds of matrices, bandwidths, and zeroing instead of resetting."""

import pandas as pd
import pytest
import torch

import ken
from ken import kde, selection
from study import checks
from study.cells.finetuned_cell import FinetunedCell
from tests.conftest import MODELS

SETTINGS = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24, "methods": {}}
CHECKS = {"bandwidth_factors": [0.5, 1, 2], "kept_shares": [0.25, 0.5], "zero": True, "matrices": True,
          "matrices_kept_share": 0.05}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_every_matrix_is_assigned_a_kind(model, finetuned_cells, task_folder):
    cell = FinetunedCell(finetuned_cells[model], task_folder, SETTINGS)
    kinds = {name: checks.kind_of(name, tensor) for name, tensor in cell.pretrained.items()}
    fused = model in ("deberta", "bloom-560m", "bloom-1b7")
    attention = {"query, key, value"} if fused else {"query", "key", "value"}
    if model == "deberta":  # projections of the relative positions
        attention |= {"query", "key"}
    assert set(kinds.values()) == {"embeddings", *attention, "attention output", "feed-forward", "others"}
    plain = {name for name, tensor in cell.pretrained.items() if tensor.ndim > 1 and kinds[name] == "others"}
    assert plain <= {"electra.embeddings_project.weight"}, plain
    per_layer = sum(kind == "feed-forward" for kind in kinds.values())
    assert per_layer == 2 * sum(kind == "attention output" for kind in kinds.values())


def test_ablation_rows_of_a_cell(finetuned_cells, task_folder, tmp_path):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, SETTINGS)
    table = checks.run_ablations(cell, CHECKS, tmp_path)
    counts = table.groupby("check").size().to_dict()
    assert counts == {"bandwidth": 6, "zero": 8, "matrices": 7}
    assert (
        table["weighted_f1"].between(0, 1).all() and (table["full_weighted_f1"] == table["full_weighted_f1"][0]).all()
    )
    ones = table[(table["check"] == "bandwidth") & (table["variant"] == 1)]
    resets = table[(table["check"] == "zero") & (table["variant"] == "reset") & (table["method"] == "ken")]
    assert ones["weighted_f1"].tolist() == resets["weighted_f1"].tolist(), "factor 1 is KEN"
    matrices = table[table["check"] == "matrices"]
    assert matrices["parameters"].sum() == sum(tensor.numel() for tensor in cell.pretrained.values())
    assert (matrices["kept_share"] > 0.05).all()
    stored = set(tmp_path.glob("*.safetensors"))
    assert len(stored) == len(table) + 2
    for path in stored:
        path.unlink()
    pd.testing.assert_frame_equal(table, checks.run_ablations(cell, CHECKS, tmp_path, stay=False))
    assert not list(tmp_path.iterdir()), "no file stays"


def test_bandwidth_masks_and_zeroed_entries(finetuned_cells, task_folder, tmp_path):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, SETTINGS)
    masks = checks.bandwidth_masks(cell, 2.0, 0.25)
    name = next(key for key in masks if key.endswith("query.weight"))
    rows = cell.finetuned[name]
    density = kde.density(rows, "exact", bandwidth=2 * kde.scott_bandwidth(rows))
    assert torch.equal(masks[name], selection.rank_scores(density) < 4)
    checks.evaluate(cell, masks, True, tmp_path / "zero")
    state = cell.model.state_dict()
    assert torch.equal(state[name], torch.where(masks[name], cell.finetuned[name], 0.0))
    with pytest.raises(ValueError, match="fingerprint"):
        ken.Subnetwork.load(tmp_path / "zero").apply(cell.pretrained)
