"""Large files that no later step reads: which stay, and how the others are removed and recorded."""

import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

import baselines
from ken.errors import UserError
from study import manifest, verify
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.definition.config import read
from study.definition.kept_files import kept_files
from study.definition.paths import Paths
from study.definition.study import Study
from study.planning.rules import Rules
from study.release import release
from study.running import files
from tests.study.test_scored_texts import EVALUATION
from tests.test_workflow import ROOT


@pytest.fixture(scope="module")
def paper():
    return Study(read(ROOT / "config" / "paper.yaml", baselines.METHODS))


def test_files_stay_where_a_later_step_reads_them(paper):
    first, trained = ("distilbert", "ag-news", 0), ("bert", "trec", 1)
    assert kept_files(paper, ("electra", "emo", 2)) == {}
    assert kept_files(paper, first) == {name: [128] for name in ("ken", "magnitude", "delta-magnitude")}
    drawn = kept_files(paper, ("bert", "ag-news", 0))
    assert set(drawn) == set(paper.methods) and 128 in drawn["ken"]
    measured = kept_files(paper, trained)
    assert measured == {"full": [1.0], "ken": [16], "bitdelta": [1], "lora": [1, 4, 16], "flop": [0.25, 0.5, 0.75]}
    assert kept_files(Study(paper.config | {"keep_files": "all"}), trained) is None


def test_a_cell_is_released_when_everything_on_it_is_made(paper):
    rules = Rules(paper, Paths("results/paper"))
    assert paper.first_cells[0] == ("bert", "ag-news", 0) and len(paper.released_cells) == 7 * 6 * 3 - 2 * 7
    needed = [str(path) for path in rules.finished_cell(SimpleNamespace(model="bert", task="sst2", seed="2"))]
    folder = "results/paper/cells/bert/sst2/seed2"
    for part in ("compressed/ken/scores.csv", "compressed/lora/scores.csv", "inference.csv", "checks/checks.csv"):
        assert f"{folder}/{part}" in needed
    others = [str(path) for path in rules.finished_cell(SimpleNamespace(model="ernie", task="sst2", seed="2"))]
    assert not [path for path in others if "lora" in path or "checks" in path]
    assert rules.released()[0] in rules.results()
    everything = Study(paper.config | {"keep_files": "all"})
    assert Rules(everything, Paths("results/paper")).released() == []


def test_a_released_cell_is_whole_for_verify_and_says_how_to_make_its_model_again(
    finetuned_cells, task_folder, tmp_path
):
    cell = tmp_path / "cells" / "bert" / "words" / "seed0"
    shutil.copytree(finetuned_cells["bert"], cell / "finetuned")
    before = manifest.recorded(tmp_path)
    size = release(cell / "finetuned", cell / "released.json")
    assert size > 0 and not list((cell / "finetuned").glob("*.safetensors"))
    removed = files.read_json(cell / "released.json")["removed"]
    assert set(removed) == {"initial.safetensors", "model.safetensors"}
    after = manifest.recorded(tmp_path)
    assert set(before) - set(after) == {f"cells/bert/words/seed0/finetuned/{name}" for name in removed}
    assert verify.problems(tmp_path, after) == {}
    with pytest.raises(UserError, match=r"is missing: remove it with `rm -r .*finetuned` and run the same"):
        FinetunedCell(cell / "finetuned", task_folder, EVALUATION)


def test_only_the_files_that_are_read_stay(finetuned_cells, task_folder, tmp_path):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"kept_files": {"ken": [0.5]}})
    compress(cell, ["full", "ken"], tmp_path)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["0.5.safetensors"]
    assert set(files.read_json(tmp_path / "ken" / "manifest.json")["sha256"]) == {
        "predictions.parquet", "scores.csv", "draw0/0.5.safetensors",
    }  # fmt: skip
    assert pd.read_csv(tmp_path / "ken" / "scores.csv")["stored_bytes"].gt(0).all()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path.name != "manifest.json"}
    compress(cell, ["full", "ken"], tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "nothing is scored again"
