"""The KENviz step against a mask whose neighbours are counted by hand."""

import json

import pytest
import torch

import ken
from report import kenviz
from report.errors import ReportError
from report.page import kenviz_picture
from tests.report.conftest import run_step


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two layers of 3 × 4 with known kept entries."""
    names = [f"encoder.layer.{layer}.query.weight" for layer in (0, 1)]
    base = {name: torch.zeros(3, 4) for name in names}
    tuned = {name: torch.arange(12.0).reshape(3, 4) for name in names} | {"classifier.weight": torch.ones(2, 4)}
    square = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()
    masks = {names[0]: square, names[1]: torch.zeros(3, 4).bool()}
    path = tmp_path_factory.mktemp("cell") / "0.25.safetensors"
    ken.Subnetwork.from_masks(base, tuned, masks).save(path)
    return path


def test_picture_and_facts(stored, tmp_path):
    stem = tmp_path / "figures" / "kenviz"
    run_step(kenviz, "--subnetwork", stored, "--matrix", "query", "--out", stem)
    facts = json.loads(stem.with_suffix(".json").read_text())
    assert facts["matrix"] == "encoder.layer.*.query.weight"
    first, second = facts["layers"]
    # The four entries of the square have two kept neighbours each, the lone one none.
    assert first["neighbours"] == pytest.approx(8 / 5)
    assert first["kept_share"] == pytest.approx(5 / 12)
    assert (second["neighbours"], second["kept_share"]) == (0, 0)
    assert stem.with_suffix(".png").stat().st_size > 1000
    picture = kenviz_picture(tmp_path)
    assert picture["source"] == "0.25.safetensors"
    assert "http" not in picture["svg"]


def test_two_builds_are_identical(stored, tmp_path):
    for name in ("a", "b"):
        run_step(kenviz, "--subnetwork", stored, "--out", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_unknown_matrix_names_the_known_ones(stored, tmp_path):
    with pytest.raises(ReportError, match=r"expected one of encoder\.layer\.\*\.query\.weight"):
        run_step(kenviz, "--subnetwork", stored, "--matrix", "value", "--out", tmp_path / "a")


def test_files_that_are_no_subnetwork(tmp_path):
    with pytest.raises(ReportError, match="does not exist"):
        kenviz.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ReportError, match=r"text\.safetensors"):
        kenviz.load(tmp_path / "text.safetensors")
