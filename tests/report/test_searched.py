"""Constants chosen on validation: counts over cells against a loop, the values tried, and the section of the page."""

import json
from collections import Counter

import pytest

from report.measurements import searched
from report.tables import Tables
from tests.report.synthetic import arm, controls, score_row, write_results

TRIED = {"lora": {"learning rate": [1, 2, 4]}, "flop": {"learning rate": [4]}, "bitdelta": {"factor": [1, 1.5, 2]}}
FINETUNED = {"bert": 0.001, "bloom": 0.002}  # learning rates
CHOSEN = {("bert", 0): (2, 1.5), ("bert", 1): (4, 1), ("bloom", 0): (4, 2), ("bloom", 1): (4, 2)}  # multiple, factor


def rows():
    made = []
    for (model, seed), (multiple, factor) in CHOSEN.items():
        at = {"model": model, "seed": seed}
        made += [row | {"factor": ""} for row in controls(**at)]
        for method, times in (("lora", multiple), ("flop", 4)):
            rate = times * FINETUNED[model]
            made.append(score_row(**at, method=method, budget=0.5, learning_rate=rate) | {"factor": ""})
        validated = {"validation_weighted_f1": 0.5}
        made.append(score_row(**at, method="bitdelta", budget=1, **validated) | {"factor": factor})
        made.append(score_row(**at, method="bitdelta-rows", budget=1) | {"factor": 1})  # not chosen: no score
    failed = {"status": "failed", "reason": "it diverged", "factor": ""}
    return [*made, score_row(model="bert", seed=2, method="lora", budget=0.5, f1=None) | failed]


@pytest.fixture
def results(tmp_path):
    arms = [
        arm(model, "t1", seed, name, 0.9) | {"learning_rate": rate * (1 if name == "pretrained" else 10)}
        for model, rate in FINETUNED.items()
        for seed in (0, 1)
        for name in ("pretrained", "random-init")
    ]
    folder = write_results(tmp_path / "study", rows(), arms)
    (folder / "collected.json").write_text(json.dumps({"searched": TRIED}))
    return folder


def test_chosen_values_are_counted_over_cells(results):
    tables = Tables.compute(results)
    counted = {(row.method, row.value): (row.times, row.cells, row.split) for row in tables.searched.itertuples()}
    wanted = {("flop", 4.0): (4, 4, "")}
    for method, index in (("lora", 0), ("bitdelta", 1)):
        for value, times in Counter(chosen[index] for chosen in CHOSEN.values()).items():
            wanted[method, float(value)] = (times, 4, "validation")
    assert counted == wanted
    assert dict(zip(tables.searched["method"], tables.searched["tried"], strict=True)) == {
        "lora": "1 2 4", "flop": "4", "bitdelta": "1 1.5 2",
    }  # fmt: skip


def test_the_section_says_what_was_tried_and_chosen(results):
    tables = Tables.compute(results)
    tables.write(results / "tables")
    section = searched.page(Tables.read(results))["section"]
    shown = {row[0].text: [cell.text for cell in row[3:]] for row in section.table.rows}
    assert shown["LoRA"] == ["1, 2, 4", "validation", "2 (1 time), 4 (3 times)", "4"]
    assert shown["FLOP"] == ["4", "not chosen", "4 (4 times)", "4"]
    assert shown["BitDelta"] == ["1, 1.5, 2", "validation", "1 (1 time), 1.5 (1 time), 2 (2 times)", "4"]
    assert "The factor on the scales of BitDelta was chosen on validation in each cell." in section.text
    assert "The learning rate of LoRA was chosen on validation in each cell." in section.text
    assert "The learning rate of FLOP was fixed for all cells." in section.text


def test_values_that_an_older_run_did_not_record_are_not_made_up(results):
    (results / "collected.json").unlink()
    tables = Tables.compute(results)
    section = searched.page(tables)["section"]
    assert {row[3].text for row in section.table.rows} == {"not recorded"} and "FLOP" not in section.text
    assert {row[0].text: row[4].text for row in section.table.rows}["FLOP"] == "not recorded"
    assert dict(zip(tables.searched["method"], tables.searched["split"], strict=True)) == {
        "lora": "validation", "bitdelta": "validation", "flop": "",
    }  # fmt: skip


def test_a_study_without_constants_says_so(tmp_path):
    tables = Tables.compute(write_results(tmp_path / "study", [*controls(), score_row()]))
    section = searched.page(tables)["section"]
    assert not section.table.rows and not section.text and "No method" in section.absent
