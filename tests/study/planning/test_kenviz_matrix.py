"""The name of the matrix that KENviz shows is checked before anything is computed."""

from pathlib import Path

import pytest
import yaml

from baselines import METHODS
from ken.errors import UserError
from study import import_model
from study.definition import config
from study.definition.paths import Paths
from study.definition.study import Study
from study.planning import kenviz_matrix
from tests.study.test_config import SMALL

VALID = {
    "bert": "query.weight",
    "distilbert": "q_lin",
    "deberta": "in_proj",
    "ernie": "query.weight",
    "electra": "query.weight",
    "bloom-560m": "query_key_value",
    "bloom-1b7": "h.*.mlp.dense_h_to_4h.weight",
}


def study_of(model: dict, matrix: str | None) -> Study:
    raw = yaml.safe_load(SMALL) | {"models": {"mine": model}, "kenviz": {"matrix": matrix} if matrix else {}}
    return Study(config.load(raw, METHODS))


@pytest.mark.parametrize("model", VALID)
def test_the_matrix_of_a_folder_is_checked(checkpoints, tmp_path, model):
    section = {"source": "directory", "path": str(checkpoints[model])}
    for matrix in (VALID[model], None):
        kenviz_matrix.check(study_of(section, matrix), Paths(tmp_path))
    for matrix in ("no_such_matrix", "weight", "classifier"):
        with pytest.raises(UserError, match=rf"kenviz.matrix: '{matrix}' fits \d kinds of matrices, expected one of"):
            kenviz_matrix.check(study_of(section, matrix), Paths(tmp_path))


def test_the_matrix_of_a_model_that_is_pretrained_later_is_checked(tmp_path):
    section = yaml.safe_load(SMALL)["models"]["small"]
    kenviz_matrix.check(study_of(section, "q_lin"), Paths(tmp_path))
    with pytest.raises(UserError, match=r"'query.weight' fits 0 kinds"):
        kenviz_matrix.check(study_of(section, "query.weight"), Paths(tmp_path))


def test_the_matrix_of_a_model_of_the_hub_is_checked_when_it_is_imported(checkpoints, tmp_path, monkeypatch):
    section = {"source": "hub", "repository": "a/b", "revision": "main"}
    study, paths = study_of(section, "qury"), Paths(tmp_path)
    kenviz_matrix.check(study, paths)
    study.write(tmp_path)
    snapshot = type("Snapshot", (), {"folder": checkpoints["bert"]})
    monkeypatch.setattr(import_model.hub, "fetch_model", lambda *_: snapshot)
    monkeypatch.setattr("sys.argv", ["import_model", str(tmp_path), "--model", "mine"])
    with pytest.raises(UserError, match="'qury' fits 0 kinds of matrices"):
        import_model.main()
    folder = Path(paths.pretrained("mine"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((checkpoints["bert"] / "config.json").read_text())
    with pytest.raises(UserError, match="'qury' fits 0 kinds of matrices"):
        kenviz_matrix.check(study, paths)
