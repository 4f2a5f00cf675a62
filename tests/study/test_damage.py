"""Changed and missing files are named or recreated by the step that reads them, and reported by study.verify."""

import json
import os
import re
import shutil

import pandas as pd
import pytest

from ken.errors import UserError
from report.results import read_table
from study import collect, corpus, inference, manifest, record, trace, verify
from study.cells.finetuned_cell import FinetunedCell
from study.cells.suggest import COLUMNS, suggest
from study.compress import compress
from study.definition.study import Study
from study.finetune import finetune
from study.import_model import import_model
from study.running import files, provenance
from study.running.workflow import run
from study.training.evaluate_metric import WeightedF1
from tests.conftest import SETTINGS
from tests.steps import run_step

EVALUATION = {"batch_size": 16, "max_length": 24, "kept_shares": [0.1, 0.5], "draws": 1, "methods": {}}
SUGGESTION = {"margin": 0.3, "confidence": 0.9, "resolution": 0.25}
AXES = {"model": "bert", "task": "words", "seed": 0}
CELL = "cells/bert/words/seed0"


@pytest.fixture(scope="session")
def small_study(tmp_path_factory, checkpoints, task_folder):
    """A results folder with one cell as the steps write it; read-only."""
    results = tmp_path_factory.mktemp("results") / "small"
    shutil.copytree(task_folder, results / "tasks" / "words")
    import_model(checkpoints["bert"], "bert", results / "models" / "bert" / "pretrained")
    pretrained, task = results / "models" / "bert" / "pretrained", results / "tasks" / "words"
    finetune(pretrained, task, AXES, SETTINGS, results / CELL / "finetuned")
    cell = FinetunedCell(results / CELL / "finetuned", task, EVALUATION)
    cell.settings["scores_only"] = ["magnitude"]  # its files are not stored and must not be reported as missing
    compress(cell, ["full", "ken", "bitdelta", "magnitude"], results / CELL / "compressed")
    suggest(cell, {"methods": ["ken"]} | SUGGESTION, results / CELL / "suggested")
    files.write_text(results / "figures" / "frontier.svg", "<svg/>")
    files.write_text(results / "logs" / "step.log", "not a result")
    files.write_csv(results / "scores.csv", pd.read_csv(results / CELL / "compressed" / "ken" / "scores.csv"))
    sha256 = {"scores.csv": files.sha256(results / "scores.csv")}
    files.write_json(results / "collected.json", {"sha256": sha256, "made": provenance.describe_process()})
    finished = {"study": "small", "config": {"study": "small"}, **provenance.describe_process()}
    files.write_json(results / "provenance.json", finished)
    run_step(manifest, results)
    return results


@pytest.fixture
def study(small_study, tmp_path):
    """A copy of the small study that a test may damage."""
    return shutil.copytree(small_study, tmp_path / "small")


def flip_bit(path):
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def open_cell(study):
    return FinetunedCell(study / CELL / "finetuned", study / "tasks" / "words", EVALUATION)


def finetune_again(study):
    inputs = study / "models" / "bert" / "pretrained", study / "tasks" / "words"
    return finetune(*inputs, AXES, SETTINGS, study / CELL / "finetuned")


def collect_cell(study):
    references = collect.read_references(study / "tasks" / "words", "words")
    return collect.read_scores(study / CELL / "compressed" / "ken", references, WeightedF1(keep_in_memory=True).compute)


def measure(study):
    return inference.load_models(open_cell(study), ["bitdelta"], study / CELL / "compressed")


def collect_suggestions(study):
    return collect.read_tables([study / CELL / "suggested" / "suggestions.csv"], COLUMNS)


DAMAGED = [
    ("tasks/words/test.parquet", open_cell, "tasks/words"),
    ("tasks/words/train.parquet", finetune_again, "tasks/words"),
    ("models/bert/pretrained/model.safetensors", finetune_again, "models/bert/pretrained"),
    ("models/bert/pretrained/tokenizer.json", finetune_again, "models/bert/pretrained"),
    (f"{CELL}/finetuned/initial.safetensors", open_cell, f"{CELL}/finetuned"),
    (f"{CELL}/finetuned/model.safetensors", open_cell, f"{CELL}/finetuned"),
    (f"{CELL}/finetuned/tokenizer.json", open_cell, f"{CELL}/finetuned"),
    (f"{CELL}/compressed/bitdelta/draw0/1.safetensors", measure, f"{CELL}/compressed/bitdelta/scores.csv"),
    (f"{CELL}/compressed/ken/predictions.parquet", collect_cell, f"{CELL}/compressed/ken/scores.csv"),
    (f"{CELL}/compressed/ken/scores.csv", collect_cell, f"{CELL}/compressed/ken/scores.csv"),
    (f"{CELL}/suggested/suggestions.csv", collect_suggestions, f"{CELL}/suggested/suggestions.csv"),
]


@pytest.mark.parametrize(
    ("name", "read", "removed"), DAMAGED, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_step_that_reads_a_damaged_file_names_it(study, name, read, removed, how):
    read(study)
    flip_bit(study / name) if how == "changed" else (study / name).unlink()
    with pytest.raises(UserError) as refused:
        read(study)
    message = str(refused.value)
    assert message.startswith(f"{study / name} ") and f"`rm -r {study / removed}`" in message and "\n" not in message
    assert message.partition(str(study / name))[2].startswith(" is missing" if how == "missing" else " was changed")


def test_only_the_damaged_sub_network_is_recomputed(study):
    folder = study / CELL / "compressed" / "ken" / "draw0"
    before = files.sha256_of(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    flip_bit(folder / "0.1.safetensors")
    compress(open_cell(study), ["ken"], study / CELL / "compressed")
    after = files.sha256_of(folder)
    recomputed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert after["0.1.safetensors"] == before["0.1.safetensors"]
    assert recomputed == {"0.1.safetensors", "0.1.json"}


def test_an_edited_manifest_or_record_is_detected(study):
    path = study / CELL / "finetuned" / "manifest.json"
    text = path.read_text()
    path.write_text(re.sub(r'("weighted_f1": )[\d.]+', r"\g<1>0.123", text))
    with pytest.raises(UserError, match=rf"{path} was changed or damaged .*`rm {path}`"):
        open_cell(study)
    path.write_text(text)
    record = study / CELL / "compressed" / "ken" / "draw0" / "0.1.json"
    whole = record.read_text()
    record.write_text(re.sub(r'("weighted_f1": )[\d.]+', r"\g<1>0.123", whole))
    compress(open_cell(study), ["ken"], study / CELL / "compressed")
    scores = [files.read_json(record)["row"]["weighted_f1"], json.loads(whole)["row"]["weighted_f1"]]
    assert scores[0] == scores[1] != 0.123, "the record is recomputed"


def test_a_damaged_corpus_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "corpus" / "mpmath.parquet"
    Study({"study": "mine", "corpus": {"packages": ["mpmath"]}}).write(tmp_path)
    run_step(corpus, tmp_path, "--package", "mpmath")
    assert len(corpus.read(path)) > 100
    flip_bit(path)
    with pytest.raises(UserError, match=rf"{path} was changed or damaged .*`rm -r {path}`"):
        corpus.read(path)


def test_a_damaged_checkpoint_of_the_suite_is_refused(tmp_path, checkpoints):
    shutil.copytree(checkpoints["bert"], tmp_path / "bert")
    weights = tmp_path / "bert" / "model.safetensors"
    files.write_json(tmp_path / "bert" / "manifest.json", {"sha256": files.sha256(weights), "objective": "masked"})
    assert import_model(tmp_path / "bert", "bert", tmp_path / "a")["pretraining"]["objective"] == "masked"
    flip_bit(weights)
    with pytest.raises(UserError, match=r"model.safetensors was changed or damaged .*git checkout"):
        import_model(tmp_path / "bert", "bert", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_report_refuses_a_damaged_table(study):
    assert len(read_table(study / "scores.csv", ("method",), ("budget",))) == 2
    flip_bit(study / "scores.csv")
    with pytest.raises(UserError, match=r"scores.csv was changed or damaged .*`rm "):
        read_table(study / "scores.csv", ("method",), ("budget",))


def run_verify(study, capsys) -> tuple[str, str]:
    """Output and exit message of study.verify."""
    try:
        run_step(verify, study)
        ended = ""
    except SystemExit as error:
        ended = str(error.code)
    return capsys.readouterr().out, ended


def test_every_file_of_a_finished_study_is_listed_with_its_hash(small_study, capsys):
    listed = manifest.read(small_study / "manifest.json")
    there = {str(path.relative_to(small_study)) for path in small_study.rglob("*") if path.is_file()}
    assert set(listed) == there - {"manifest.json", "logs/step.log"}
    for name, entry in listed.items():
        assert entry == {"sha256": files.sha256(small_study / name), "bytes": (small_study / name).stat().st_size}
    written = manifest.recorded(small_study)
    kinds = ("train.parquet", "initial.safetensors", "tokenizer.json", "0.1.safetensors", "scores.csv", "curves.csv")
    assert all(any(name.endswith(kind) for name in written) for kind in kinds)
    out, ended = run_verify(small_study, capsys)
    assert not ended and f"All {len(listed)} files are unchanged." in out


def test_every_flipped_bit_is_detected(study, capsys):
    for name in manifest.read(study / "manifest.json"):
        before = (study / name).read_bytes()
        flip_bit(study / name)
        assert verify.problems(study, verify.expected(study)[0]) == {name: "changed"}
        (study / name).write_bytes(before)
    flip_bit(study / "figures" / "frontier.svg")
    (study / CELL / "finetuned" / "initial.safetensors").unlink()
    (study / "collected.json").unlink()
    (study / "figures" / "later.svg").write_text("")
    out, ended = run_verify(study, capsys)
    assert f"changed: {study}/figures/frontier.svg (made again after `rm -r {study}/figures/frontier.svg`)" in out
    assert (
        f"missing: {study}/{CELL}/finetuned/initial.safetensors (made again after `rm -r {study}/{CELL}/finetuned`"
        in out
    )
    assert f"missing: {study}/collected.json (made again by the same snakemake command)" in out
    assert re.search(r"fine-tuned models and initial states +\d+ files  1 changed or missing", out)
    assert "1 files were made later and are not listed, such as figures/later.svg" in out
    assert ended.startswith("error: 3 of ")


def test_an_unfinished_study_is_verified_against_its_records(study, capsys):
    (study / "manifest.json").unlink()
    out, ended = run_verify(study, capsys)
    assert not ended and "The study is not finished" in out
    flip_bit(study / CELL / "compressed" / "bitdelta" / "draw0" / "1.safetensors")
    out, ended = run_verify(study, capsys)
    assert ended.startswith("error: 1 of ") and "compressed/bitdelta/scores.csv`" in out


def test_missing_studies_and_invalid_manifests_give_one_line_messages(study, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*absent does not exist: name the results folder"):
        run(lambda: run_step(verify, tmp_path / "absent"))
    for text in ("[]", '{"files": {"a": 1}}', '{"files": {"a": {"sha256": "x", "bytes": -1}}}'):
        (study / "manifest.json").write_text(text)
        with pytest.raises(UserError, match="is not a list of the files of a study"):
            verify.expected(study)
    for name in ("../a", "/a", "a/../../b", "C:a", ""):
        files.write_json(study / "manifest.json", {"files": {name: {"sha256": "x", "bytes": 1}}})
        with pytest.raises(UserError, match="leads out of the folder"):
            verify.expected(study)


def test_to_remove_names_an_output_of_the_rule():
    assert verify.to_remove("tables/overview.csv") == "tables/overview.csv"
    assert verify.to_remove("scores.csv") == "scores.csv"
    assert verify.to_remove(f"{CELL}/inference.json") == f"{CELL}/inference.csv"
    assert verify.to_remove(f"{CELL}/compressed/ken/draw0/0.1.json") == f"{CELL}/compressed/ken/scores.csv"
    assert verify.to_remove(f"{CELL}/random-init/manifest.json") == f"{CELL}/random-init"


def test_a_row_can_be_traced_to_seed_inputs_code_and_machine(study):
    records = trace.trace(study, "bert", "words", 0, "ken", "0.1")
    row = records["row"]
    assert next(iter(records)) == "summary"
    assert records["summary"][0] == (
        f"ken at 0.1 share, bert on words, seed 0, draw 0: weighted F1 {row['row']['weighted_f1']:.4f}"
    )
    assert row["random_seed"] == provenance.seed_of("compress", "bert", "words", 0, "ken", 0)
    stored = study / CELL / "compressed" / row["row"]["file"]
    assert row["row"]["sha256"] == files.sha256(stored)
    assert row["inputs"]["finetuned"]["initial.safetensors"] == files.sha256(
        study / CELL / "finetuned" / "initial.safetensors"
    )
    assert row["inputs"]["task"]["test"] == files.sha256(study / "tasks" / "words" / "test.parquet")
    weights = study / "models" / "bert" / "pretrained" / "model.safetensors"
    assert records["finetuned"]["inputs"]["pretrained"]["model.safetensors"] == files.sha256(weights)
    for part in ("row", "finetuned", "pretrained"):
        made = records[part]["made"]
        assert made["commit"] and made["versions"]["torch"] and made["machine"]["cpu"]
    assert records["config"] == {"study": "small"} and records["finetuned"]["settings"] == SETTINGS
    finetune(study / "models" / "bert" / "pretrained", study / "tasks" / "words", AXES, SETTINGS | {"epochs": 1},
             study / CELL / "finetuned")  # fmt: skip
    with pytest.raises(UserError, match="was made from files that have changed"):
        trace.trace(study, "bert", "words", 0, "ken", "0.1")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (("berd", "words", 0, "ken", "0.1"), 'model is berd, .*Did you mean "bert"'),
        (("bert", "word", 0, "ken", "0.1"), 'task is word, .*Did you mean "words"'),
        (("bert", "words", 1, "ken", "0.1"), "seed is 1, .*Valid: 0"),
        (("bert", "words", 0, "kenn", "0.1"), 'method is kenn, .*Did you mean "ken"'),
        (("bert", "words", 0, "ken", "0.7"), "ken was not run at 0.7 in .*Valid: 0.1, 0.5"),
        (("bert", "words", 0, "ken", "0.1", 7), "draw is 7, .*Valid: 0"),
    ],
)
def test_a_row_that_does_not_exist_is_told_with_those_that_do(study, row, sentence):
    with pytest.raises(UserError, match=sentence):
        trace.trace(study, *row)
    with pytest.raises(UserError, match="absent does not exist: name the results folder"):
        trace.trace(study / "absent", *row)


def test_a_row_without_a_score_is_told_with_its_reason(study):
    scores = study / CELL / "compressed" / "ken" / "scores.csv"
    table = pd.read_csv(scores, keep_default_na=False)
    table.assign(status="failed", reason="the training diverged").to_csv(scores, index=False)
    with pytest.raises(UserError, match=r"has no score \(failed\): the training diverged"):
        trace.trace(study, "bert", "words", 0, "ken", "0.1")


def test_wall_time_counts_only_time_with_a_running_job(tmp_path):
    jobs = {
        "finetune/a": (0, 10),
        "finetune/b": (5, 20),
        "compress/a": (25, 30),
        "collect": (26, 27),
        "report": (40, 41),
    }
    for name, (start, end) in jobs.items():
        path = tmp_path / f"{name}.tsv"
        files.write_text(path, f"s\th:m:s\n{end - start}\t0:00:01\n")
        os.utime(path, (end, end))
    assert record.wall_seconds(tmp_path) == 20 + 5 + 1
    assert record.seconds_per_rule(tmp_path) == {"finetune": 25, "compress": 5, "collect": 1, "report": 1}
    assert record.wall_seconds(tmp_path / "absent") == 0


def test_provenance_lists_every_input_and_maker(study):
    inputs = record.inputs(study)
    assert set(inputs["tasks"]["words"]["sha256"]) == {"train", "validation", "test"}
    assert "model.safetensors" in inputs["models"]["bert"]["sha256"] and inputs["models"]["bert"]["source"]
    (maker,) = record.makers(study)
    rows = len(list(study.rglob("draw0/*.json")))
    assert maker["records"] == rows + 4, "rows, the model, the fine-tuned cell, its suggestions, the collected table"
    assert {key: maker[key] for key in provenance.describe_process()} == provenance.describe_process()
    path = next(study.rglob("draw0/*.json"))
    other = files.read_json(path)
    other["made"]["commit"] = "another"
    files.write_json(path, other)
    assert sorted(entry["records"] for entry in record.makers(study)) == [1, maker["records"] - 1]
