"""README and documents match the committed runs, the rules of the Snakefile and the learning-rate search."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from baselines import METHODS
from ken.errors import UserError
from report import documents, reference
from report.statistics import read_sample
from study import manifest, verify
from study.definition import config as study_config
from study.running import files
from tests.report.test_statistics import labels_of, predict, write_predictions
from tests.sources import code_blocks

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference" / "mini"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_LINES = 150  # of the README


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_numbers_come_from_the_committed_runs(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert documents.updated(name, text) == text, "run `python -m report.documents`"
    for picture in re.findall(r"\((?:\.\./)*(results/reference/[\w/.]+)\)", text):
        assert (ROOT / picture).stat().st_size > 10_000


def test_a_document_without_markers_is_refused():
    with pytest.raises(UserError, match=r"README\.md lacks the marks .*answer: written by"):
        documents.updated("README.md", "no marks")


def test_a_reference_is_copied_from_a_finished_run(tmp_path):
    labels = labels_of("t1")
    cell = {("full", 1.0, 0): labels, ("ken", 0.5, 0): predict(labels, 9)}
    results = write_predictions(tmp_path / "results" / "x", {("a", "t1", 0): cell})
    for name in (
        "tables/a.csv",
        "tables/comparisons.md",
        "figures/model_a.png",
        "figures/b.png",
        "c.bin",
    ):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("new")
    old = tmp_path / "reference" / "x"
    for name in ("tables/gone.csv", "tuning/bert.csv"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text("old")
    with pytest.raises(UserError, match="no finished study"):
        reference.keep(results, tmp_path / "reference")
    (results / "manifest.json").write_text('{"study": "x", "files": {"scores.csv": {}}}')
    with pytest.raises(UserError, match=r"figures/b.png is not in manifest.json"):
        reference.keep(results, tmp_path / "reference")
    files.write_json(results / "manifest.json", {"study": "x", "files": manifest.describe(results)})
    assert reference.keep(results, tmp_path / "reference") == old
    kept = {path.relative_to(old).as_posix() for path in old.rglob("*.*")}
    written = {"scores.csv", "tasks.csv", "models.csv", "predictions.parquet", "manifest.json"}
    assert kept == written | {"tables/a.csv", "figures/b.png", "tuning/bert.csv"}
    whole, committed = read_sample(results), read_sample(old)
    assert whole.rows.equals(committed.rows) and np.array_equal(whole.influence, committed.influence)
    assert verify.problems(old, verify.expected(old)[0]) == {}
    (results / "tables" / "a.csv").write_text("edited")
    with pytest.raises(UserError, match=r"tables/a.csv was changed after the study ended"):
        reference.keep(results, tmp_path / "reference")
    files.write_json(results / "manifest.json", {"study": "x", "files": manifest.describe(results)})
    (results / "cells" / "a" / "t1" / "seed0" / "compressed" / "ken" / "predictions.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"predictions\.parquet"):
        reference.keep(results, tmp_path / "reference")
    assert (old / "tables" / "a.csv").read_text() == "new" and len(list((tmp_path / "reference").iterdir())) == 1


@pytest.mark.parametrize("study", sorted(path.parent.name for path in REFERENCE.parent.glob("*/provenance.json")))
def test_committed_runs_match_their_hashes(study):
    folder = REFERENCE.with_name(study)
    sha256, left_out = verify.expected(folder)
    assert verify.problems(folder, sha256) == {} and not left_out
    assert {path.as_posix() for path in reference.files_of(folder) if path.parts[0] != "tuning"} <= set(sha256)


def test_the_dag_diagram_shows_every_rule():
    (diagram,) = code_blocks(ROOT / "docs" / "dag.md", "mermaid")
    drawn = set(re.findall(r"\b([a-z]+_[a-z_]+)\b", diagram))
    workflow = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    rules = {rule for path in workflow for rule in re.findall(r"^rule (\w+):", path.read_text(), re.M)}
    assert drawn == {rule for rule in rules if "_" in rule}


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= MAX_LINES


def test_paths_named_in_the_readme_exist():
    for path in re.findall(r"`((?:config|results/reference|ken|baselines|report|envs)/[\w./-]*)`", TEXT):
        assert (ROOT / path).exists() or path == "config/mine.yaml", path


def test_learning_rates_are_the_best_of_the_committed_search():
    config = study_config.read(ROOT / "config" / "mini.yaml", METHODS)
    for name, model in config["models"].items():
        settings = config["finetuning"] | model
        search = pd.read_csv(REFERENCE / "tuning" / f"{name}.csv").groupby(["arm", "learning_rate"])
        means = search["validation_weighted_f1"].mean()
        assert settings["learning_rate"] == means["pretrained"].idxmax(), name
        assert settings["random_init_learning_rate"] == means["random-init"].idxmax(), name
