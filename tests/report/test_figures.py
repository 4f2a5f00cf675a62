"""Looks are stable, figures are deterministic and show what the tables hold."""

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from report import figures, style
from report.errors import ReportError
from report.tables import Tables
from tests.report.conftest import run_step


def test_two_builds_from_tables_alone_give_identical_files(built_study, tmp_path):
    (tmp_path / "tables").symlink_to(built_study / "tables")
    run_step(figures, "--results", tmp_path)
    first = {path.name: path.read_bytes() for path in (built_study / "figures").glob("[!k]*")}
    second = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()
    for stem in ("summary", "bytes", "pretraining_gain", "curves"):
        assert {f"{stem}.{kind}" for kind in ("svg", "png", "pdf")} <= first.keys()
    assert {"model_bert.svg", "model_bloom.svg"} <= first.keys()


def test_curves_draw_the_means_of_the_table(built_study):
    tables = Tables.read(built_study)
    with style.applied():
        figure = figures.curves(tables, tables.counts["models"])
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "bert · t1"
    drawn = {line.get_color(): line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 2}
    summary = tables.scores_summary
    for method in ("ken", "random"):
        rows = summary[(summary["model"] == "bert") & (summary["method"] == method)]
        np.testing.assert_allclose(drawn[style.FIXED[method].colour], rows[["kept_share", "weighted_f1"]])
    heights = {round(float(line.get_ydata()[0]), 6) for line in axes.lines if line.get_color() == style.INK}
    assert heights == {0.91, 0.3}
    assert len(axes.collections) == 2  # one band a method


def test_legend_names_every_method_once(built_study):
    tables = Tables.read(built_study)
    for draw in (figures.summary, figures.stored_bytes):
        with style.applied():
            texts = [text.get_text() for text in draw(tables).legends[0].get_texts()]
        assert texts == ["KEN", "Random", "Full (nothing reset)", "None (whole body reset)"]


def test_hostile_names_are_drawn_as_text(hostile_study):
    svg = (hostile_study / "figures" / "curves.svg").read_text()
    assert "<script" not in svg
    files = {path.name for path in (hostile_study / "figures").iterdir()}
    assert all(re.fullmatch(r"[\w.-]+", name) for name in files)


def test_known_methods_differ_in_colour_and_marker_and_lightness():
    looks = style.looks(style.FIXED)
    assert len({look.colour for look in looks.values()}) == len({look.marker for look in looks.values()}) == len(looks)
    assert looks == style.FIXED


@given(st.lists(st.text(min_size=1), max_size=30, unique=True))
def test_every_method_gets_its_own_look(names):
    looks = style.looks([*names, "ken"])
    assert len(set(looks.values())) == len(looks)
    assert looks["ken"] == style.FIXED["ken"]
    assert looks == style.looks(["ken", *reversed(names)])


def test_the_look_of_an_unknown_method_does_not_depend_on_the_others():
    assert style.looks(["lora"])["lora"] == style.looks(["lora", "flop", "ken", "dare"])["lora"]


@pytest.mark.parametrize(
    ("value", "expected"), [(-0.04, "±0.0"), (0.04, "±0.0"), (-12.34, "−12.3"), (3, "+3.0"), (float("nan"), "")]
)
def test_points(value, expected):
    assert style.points(value) == expected


@pytest.mark.parametrize(("budget", "expected"), [(0.02, "2 %"), (0.125, "12.5 %"), (1.0, "100 %"), (128, "k = 128")])
def test_budget_label(budget, expected):
    assert style.budget_label(budget).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345, "12.3 kB"), (999_999, "1000 kB"), (3.2e6, "3.2 MB")],
)
def test_size(count, expected):
    assert style.size(count).replace("\xa0", " ") == expected


def test_settings_do_not_leak():
    before = matplotlib.rcParams["svg.hashsalt"]
    with style.applied():
        assert matplotlib.rcParams["svg.hashsalt"] == "report"
    assert matplotlib.rcParams["svg.hashsalt"] == before


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(ReportError, match=r"scores_summary\.csv does not exist"):
        run_step(figures, "--results", tmp_path)


def test_computing_does_not_load_matplotlib():
    code = "import sys, report.tables; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
