"""Fixtures for the report: invented studies, stored sub-networks and built reports."""

import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from ken.subnetwork import Subnetwork
from report import figures, kenviz, page, tables
from tests.report.synthetic import (
    arm,
    check_row,
    choice_row,
    claim_row,
    comparison_row,
    controls,
    pairwise_row,
    rank_rows,
    score_row,
    spread_row,
    study_rows,
    suggestion,
    timing,
    update_row,
    whole_evidence,
    wide_rows,
    write_evidence,
    write_results,
)
from tests.steps import run_step

HOSTILE = "</script><script>alert('1 & 2')</script> $x_1$ \"--> ]]>"


def single_row(table: pd.DataFrame, **values: object) -> pd.Series:
    """The only row of a table with these values in its columns."""
    for column, value in values.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def build(folder: Path) -> str:
    """Make the tables, figures and pages of a results folder; returns the text of both pages."""
    for step in (tables, figures, page):
        run_step(step, "--results", folder)
    return pages_of(folder)


def pages_of(folder: Path) -> str:
    """The page of a study and its appendix, one after the other."""
    return "".join((folder / "report" / name).read_text(encoding="utf-8") for name in ("index.html", page.APPENDIX))


def write_study(folder: Path) -> Path:
    """Write the invented study with both arms of pre-training."""
    arms = [
        arm(model, "t1", seed, name, f1 - 0.01 * seed)
        for model in ("bert", "bloom")
        for seed in (0, 1)
        for name, f1 in (("pretrained", 0.9), ("random-init", 0.8))
    ]
    shares = [suggestion(model, seed=seed, share=0.3 + 0.1 * seed) for model in ("bert", "bloom") for seed in (0, 1)]
    return write_results(folder, study_rows(), arms, shares)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Result files of the invented study, without any tables yet."""
    return write_study(tmp_path / "study")


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Two layers of 3 × 4 with known kept entries."""
    names = [f"encoder.layer.{layer}.query.weight" for layer in (0, 1)]
    base = {name: torch.zeros(3, 4) for name in names}
    tuned = {name: torch.arange(12.0).reshape(3, 4) for name in names} | {"classifier.weight": torch.ones(2, 4)}
    square = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()
    masks = {names[0]: square, names[1]: torch.zeros(3, 4).bool()}
    path = tmp_path_factory.mktemp("cell") / "0.25.safetensors"
    Subnetwork.from_masks(base, tuned, masks).save(path)
    return path


@pytest.fixture(scope="session")
def built_study(tmp_path_factory, stored) -> Path:
    """The invented study with tables, figures, KENviz and page; read-only."""
    folder = write_study(tmp_path_factory.mktemp("built") / "study")
    run_step(kenviz, "--subnetwork", stored, "--matrix", "query", "--out", folder / "figures" / "kenviz")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def wide_study(tmp_path_factory) -> Path:
    """A built study with methods of every family and unit, the trained ones in some cells only; read-only."""
    times = [timing(), timing("ken", 0.25, "restored", 1.01), timing("lora", 4, "beside", 1.3)]
    folder = write_results(tmp_path_factory.mktemp("wide") / "study", wide_rows(), inference=times)
    write_evidence(folder, **whole_evidence())
    (folder / "report").mkdir()
    (folder / "report" / "kenviz.html").write_text("the explorer")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def hostile_study(tmp_path_factory) -> Path:
    """A built study of one cell with a declined method and markup in every name."""
    rows = [*controls(model=HOSTILE, task=HOSTILE), score_row(model=HOSTILE, task=HOSTILE, f1=0.8)]
    rows += [score_row(model=HOSTILE, task=HOSTILE, method=HOSTILE, f1=0.7)]
    rows += [
        score_row(model=HOSTILE, task=HOSTILE, method="magnitude", f1=None, status="declined", reason=f"why: {HOSTILE}")
    ]
    folder = tmp_path_factory.mktemp("hostile") / "study"
    rows += [score_row(model=HOSTILE, task=HOSTILE, method=f"{HOSTILE}2", f1=0.7, budget=3, unit=HOSTILE)]
    write_results(
        folder,
        rows,
        inference=[timing(HOSTILE, 3, HOSTILE, 0.5) | {"unit": HOSTILE}],
        study=HOSTILE,
        versions={HOSTILE: HOSTILE},
        config={HOSTILE: HOSTILE},
        dirty=True,
        wall_seconds=90.0,
    )
    ranks = [row | {"method": f"{HOSTILE}{row['method']}", "unit": HOSTILE} for row in rank_rows(a=1, b=2, c=3)]
    write_evidence(
        folder,
        claims=[claim_row(HOSTILE, HOSTILE, HOSTILE, short=HOSTILE, scope=HOSTILE, unit=HOSTILE)],
        comparisons=[comparison_row(HOSTILE, 0.1, HOSTILE, model=HOSTILE, task=HOSTILE)],
        pairwise=[pairwise_row(HOSTILE, HOSTILE) | {"unit": HOSTILE}],
        ranks=ranks,
        checks=[check_row(check, HOSTILE, method=HOSTILE, model=HOSTILE) for check in ("zero", "matrices", HOSTILE)],
        spread=[spread_row(HOSTILE, method=HOSTILE, model=HOSTILE)],
        timing=[{"method": HOSTILE, "size": 10, "k": 2, "seconds": 0.1}],
        choices=[choice_row(method, measure, HOSTILE) for method in ("ken", HOSTILE) for measure in ("size", HOSTILE)],
        updates=[update_row(kind, HOSTILE) for kind in ("body", HOSTILE)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # the names are longer than the figures
        build(folder)
    return folder
