"""Overlaps of choices and sizes of updates in tables, figures, sentences and on the page."""

import statistics

import numpy as np
import pytest

from report import figures, outputs, page
from report.measurements import choices, update_size
from report.tables import Tables
from tests.report.conftest import build
from tests.report.synthetic import controls, score_row, write_evidence, write_results

SHARES = (0.05, 0.25, 0.5)
MODELS = ("bert", "bloom")


def choice_rows() -> list[dict]:
    rows = []
    for m, model in enumerate(MODELS):
        for seed in (0, 1):
            for share in SHARES:
                at = {"model": model, "seed": seed, "budget": share, "kept_share": share}
                for method, measure, value in (
                    ("ken", "pretrained", 0.9 + 0.01 * m + 0.02 * seed), ("ken", "size", 1.0), ("ken", "task", 0.8),
                    ("delta-magnitude", "size", 2 - share), ("delta-magnitude", "task", share + 0.1 * m),
                ):  # fmt: skip
                    other = "t2" if measure == "task" else ""
                    named = {"task": "t1", "method": method, "measure": measure, "other_task": other, "value": value}
                    rows.append(at | named)
    return rows


def update_rows() -> list[dict]:
    return [
        {"model": model, "task": "t1", "seed": seed, "kind": kind, "parameters": 100, "relative_update": size}
        for m, model in enumerate(MODELS)
        for seed in (0, 1)
        for kind, size in (("body", 0.05), ("linear layers", 0.07 + 0.01 * m + 0.001 * seed), ("embeddings", 0.03))
    ]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    rows = []
    for model in MODELS:
        for seed in (0, 1):
            at = {"model": model, "seed": seed}
            rows += controls(**at)
            for share in SHARES:
                rows.append(score_row(**at, budget=share, f1=0.9 - 0.2 * (1 - share)))
                whole = {"family": "control", "kept_share": 1.0, "stored_bytes": 4100}
                rows.append(score_row(**at, method="shrink", budget=share, f1=0.9 - 0.21 * (1 - share), **whole))
    folder = write_results(tmp_path_factory.mktemp("described") / "study", rows)
    write_evidence(folder, choices=choice_rows(), updates=update_rows())
    build(folder)
    return folder


def test_means_against_a_loop(described):
    table = Tables.read(described).choices
    assert len(table) == 5 * len(SHARES)
    for row in table.itertuples():
        key = (row.method, row.measure, row.budget)
        values = [r["value"] for r in choice_rows() if (r["method"], r["measure"], r["budget"]) == key]
        assert row.rows == len(values) == 4 and row.value == pytest.approx(statistics.fmean(values))
        assert (row.value_min, row.value_max) == pytest.approx((min(values), max(values)))


def test_losses_lie_beside_the_update_of_their_cell(described):
    tables = Tables.read(described)
    assert set(tables.update_losses["kind"]) == {"linear layers"}
    sizes = {(r["model"], r["seed"]): r["relative_update"] for r in update_rows() if r["kind"] == "linear layers"}
    assert len(tables.update_losses) == 4 * len(SHARES), "KEN alone"
    for row in tables.update_losses.itertuples():
        assert row.relative_update == pytest.approx(sizes[row.model, row.seed])
        assert row.difference_points == pytest.approx(-20 * (1 - row.budget))
    updates = tables.updates.set_index(["model", "kind"])
    assert updates.loc[("bloom", "linear layers"), "relative_update"] == pytest.approx(0.0805)


def test_sentences_name_the_overlap_the_chance_and_what_no_choice_costs(described):
    (text,) = choices.sentences(Tables.read(described))
    text = text.replace("\u00a0", " ")
    assert "With 25 % of each row kept, KEN would choose 91.5 % of the same entries from the pre-trained" in text
    assert "By chance it would be 25 %." in text and "For another task, KEN keeps 80 % of the same" in text
    assert "1.000 times the mean size" in text
    assert "without any choice, loses 15.8 points. KEN loses 15.0." in text
    (text,) = update_size.sentences(Tables.read(described))
    text = text.replace("\u00a0", " ")
    assert "the weights of linear layers by 7 % to 8.1 % of their norm" in text
    assert "For embeddings it is 3 %. For the body it is 5 %." in text


def test_the_figures_show_every_measure_and_cell(described):
    drawn = {name: drawing.draw() for name, drawing in figures.drawings(Tables.read(described)).items()}
    overlap, size, loss = drawn["choices"].axes
    assert len(overlap.lines) == 3 + 1 and len(size.lines) == 2 + 1
    shrunk = next(line for line in loss.lines if line.get_label() == "Shrunk update")
    assert shrunk.get_xdata().tolist() == list(SHARES)
    assert np.allclose(shrunk.get_ydata(), [-21 * (1 - share) for share in SHARES])
    panels = drawn["update_size"].axes
    assert [axes.get_title().replace("\u00a0", " ") for axes in panels] == ["5 % kept", "25 % kept", "50 % kept"]
    assert all(len(axes.lines[0].get_xdata()) == 4 for axes in panels)
    summary = drawn["summary"].axes[0]
    shrunk = [line for line in summary.lines if list(line.get_xdata()) == list(SHARES)]
    assert len(shrunk) == 2, "KEN, and the shrunk update at the shares by which it shrinks"


def test_a_shrunk_update_is_not_called_a_method_that_keeps_a_share(described):
    tables = Tables.read(described)
    html = page.render(described)[1]
    assert "Does the choice matter?" in html and "How large are the updates?" in html
    assert not any("Shrunk" in line for line in outputs.MEASUREMENTS[1].call("sentences", tables))


def test_a_study_without_both_says_so(tmp_path):
    folder = write_results(tmp_path / "study", [*controls(), score_row()])
    build(folder)
    html = page.render(folder)[1]
    assert "What methods choose was not described in this study." in html
    assert "The size of updates was not measured in this study." in html
    assert not choices.sentences(Tables.read(folder)) and not update_size.sentences(Tables.read(folder))
