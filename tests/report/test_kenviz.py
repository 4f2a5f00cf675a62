"""The KENviz step on a mask whose neighbours are counted by hand."""

import json

import pytest
import torch

from ken.errors import UserError
from ken.subnetwork import Subnetwork
from report import kenviz
from report.page import kenviz_picture
from tests.steps import run_step


def test_picture_and_its_facts(stored, built_study, tmp_path):
    stem = tmp_path / "kenviz"
    run_step(kenviz, "--subnetwork", stored, "--out", stem)
    facts = json.loads(stem.with_suffix(".json").read_text())
    assert facts["matrix"] == "encoder.layer.*.query.weight"
    first, second = facts["layers"]
    # The four entries of the square have two kept neighbours each, the isolated one none.
    assert first["neighbours"] == pytest.approx(8 / 5)
    assert first["kept_share"] == pytest.approx(5 / 12)
    assert (second["neighbours"], second["kept_share"]) == (0, 0)
    for kind in ("svg", "png"):
        assert stem.with_suffix(f".{kind}").read_bytes() == (built_study / "figures" / f"kenviz.{kind}").read_bytes()


def test_the_page_names_no_folder_outside_the_results(built_study):
    picture = kenviz_picture(built_study)
    assert picture["source"] == "0.25.safetensors"
    assert "data:image/png" in picture["svg"] and "http" not in picture["svg"]


def test_an_unknown_matrix_is_refused_with_the_valid_names(stored, tmp_path):
    with pytest.raises(UserError, match=r"expected one of encoder\.layer\.\*\.query\.weight"):
        run_step(kenviz, "--subnetwork", stored, "--matrix", "value", "--out", tmp_path / "a")


def test_files_that_are_no_sub_network_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        kenviz.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(UserError, match=r"text\.safetensors"):
        kenviz.load(tmp_path / "text.safetensors")


def test_without_a_pattern_the_queries_are_drawn():
    names = ["layer.0.attention.dense.weight", "layer.0.attention.q_lin.weight"]
    base = {name: torch.zeros(2, 2) for name in names}
    tuned = {name: torch.ones(2, 2) for name in names}
    subnetwork = Subnetwork.extract(base, tuned, 1)
    assert kenviz.choose_kind(subnetwork, None) == "layer.*.attention.q_lin.weight"
    flat = Subnetwork.extract({"weight": torch.zeros(2, 2)}, {"weight": torch.ones(2, 2)}, 1)
    with pytest.raises(UserError, match="no matrices that repeat"):
        kenviz.choose_kind(flat, None)
