"""Inputs and settings of the rules, without Snakemake; and that every rule is triggered by the code of its own step."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from baselines import METHODS
from ken.errors import UserError
from study.definition import config
from study.definition.paths import Paths
from study.definition.study import Study
from study.planning.rules import Rules, as_json, logged, needs_gpu
from study.running import device, files
from study.running.code import code_hash

ROOT = Path(__file__).parents[3]
RULES = {
    name: body
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(), re.S | re.M)
}
WITHOUT_STEP = {"pretrain", "tune", "figures"}  # targets


def rules_of(name: str) -> Rules:
    raw = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    study = Study(config.load(raw, METHODS))
    return Rules(study, Paths(f"results/{study.name}"))


@pytest.fixture(scope="module")
def mini():
    return rules_of("mini")


def texts(paths) -> list[str]:
    return list(map(str, paths))


def test_methods_that_train_run_on_some_cells(mini):
    assert mini.trained == ["lora", "flop", "lt-sft", "fish"] and "ken" in mini.post_hoc
    scores = texts(mini.scores())
    assert len(scores) == len(set(scores)) == 28 * len(mini.post_hoc) + 2 * 4
    assert "results/mini/cells/bert/scipy-topic4/seed0/compressed/lora/scores.csv" in scores
    assert "results/mini/cells/bert/library6/seed0/compressed/lora/scores.csv" not in scores


def test_a_docstring_task_is_made_from_its_packages(mini):
    assert texts(mini.task_inputs(SimpleNamespace(task="scipy-topic4"))) == ["results/mini/corpus/scipy.parquet"]
    assert len(mini.task_inputs(SimpleNamespace(task="library6"))) == 6


def test_a_model_depends_on_a_small_file_of_its_checkpoint(mini):
    assert texts(mini.checkpoint_inputs(SimpleNamespace(model="bert"))) == ["checkpoints/bert/manifest.json"]
    paper = rules_of("paper")
    assert paper.checkpoint_inputs(SimpleNamespace(model="bert")) == []


def test_kenviz_compares_the_methods_that_reset_and_depends_on_the_scores_of_all(mini):
    assert {"ken", "random", "delta-magnitude"} <= set(mini.kenviz_methods)
    assert not set(mini.kenviz_methods) & {"ken-rescaled", "lora", "full"}
    (own,) = texts(mini.kenviz_files(["ken"]))
    assert own.endswith("cells/bert/library6/seed0/compressed/ken/draw0/0.25.safetensors")
    scored = {Path(path).parent.name for path in texts(mini.kenviz_scores())}
    assert scored == {"ken", *mini.kenviz_methods}
    assert mini.kenviz_matrix == "--matrix query.weight"


CELL = SimpleNamespace(model="bert", task="library6", seed="0")


def test_scores_depend_on_the_settings_that_a_method_uses(mini):
    def settings(**changed) -> list[str]:
        rules = Rules(Study(mini.study.config | changed), mini.paths)
        return [rules.compression_settings([name], CELL) for name in ("ken", "random", "lora")]

    before = settings()
    differs = [a != b for a, b in zip(before, settings(kept_shares=[0.5]), strict=True)]
    assert differs == [False, True, False], "only random has no budgets of its own"
    assert [a != b for a, b in zip(before, settings(draws=2), strict=True)] == [False, True, False]
    assert all(a != b for a, b in zip(before, settings(evaluation={"batch_size": 7}), strict=True))


def test_a_model_from_a_folder_is_imported_again_when_a_file_changes(tmp_path):
    raw = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_text("{}")
    raw["models"]["mine"] = {"source": "directory", "path": str(tmp_path)}
    rules = Rules(Study(config.load(raw, METHODS)), Paths("results/test"))
    before = rules.checkpoint_files(SimpleNamespace(model="mine"))
    assert [name for name, *_ in before] == ["config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").write_text("{ }")
    assert rules.checkpoint_files(SimpleNamespace(model="mine")) != before


def test_tables_that_the_config_no_longer_asks_for_are_removed(tmp_path, monkeypatch):
    rules = Rules(rules_of("test").study, Paths(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    for name in ("spread", "timing", "perplexity", "scores"):
        (tmp_path / "results").mkdir(exist_ok=True)
        rules.paths.table(name).write_text("x\n1\n")
    rules.begin_run()
    assert {path.stem for path in (tmp_path / "results").glob("*.csv")} == {"spread", "timing", "scores"}
    assert Study.read(tmp_path / "results").config == rules.study.config


def own_data_rules(folder: Path) -> Rules:
    """Rules of a study of files in a folder."""
    raw = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    for name in ("train.csv", "test.csv", "model/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    paths = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    raw["tasks"] = {"mine": {"source": "files", "text": "t", "label": "l"} | paths}
    raw["models"]["mine"] = {"source": "directory", "path": str(folder / "model")}
    return Rules(Study(config.load(raw, METHODS)), Paths(folder / "results"))


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "model/config.json"])
def test_a_file_that_was_changed_in_the_future_stops_the_run(tmp_path, monkeypatch, name):
    rules, path = own_data_rules(tmp_path), tmp_path / name
    monkeypatch.chdir(tmp_path)
    rules.check_sources()
    os.utime(path, (time.time() + 3600,) * 2)
    with pytest.raises(UserError, match=rf"{name} was changed in the future .* run `touch {path}`"):
        rules.begin_run()
    assert not (tmp_path / "results").exists()
    path.touch()
    rules.begin_run()


def test_a_study_for_a_gpu_is_refused_before_it_starts_where_there_is_none(tmp_path, monkeypatch):
    rules = own_data_rules(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(device.VARIABLE, "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"a GPU is asked for \(device: cuda\), but torch finds none"):
        rules.begin_run(needs_gpu=True)
    assert not (tmp_path / "results").exists()
    rules.begin_run(needs_gpu=False)


@pytest.mark.parametrize("local", [True, False])
def test_only_jobs_on_this_machine_need_its_gpu(local):
    def workflow(*resources: dict) -> SimpleNamespace:
        jobs = [SimpleNamespace(rule=SimpleNamespace(resources=names)) for names in resources]
        return SimpleNamespace(local_exec=local, dag=SimpleNamespace(needrun_jobs=lambda: iter(jobs)))

    assert needs_gpu(workflow({"_cores": 1}, {"gpu": 0})) == local
    assert not needs_gpu(workflow({"_cores": 1}))


def test_files_that_an_archive_left_out_are_not_made_again(tmp_path):
    rules = Rules(rules_of("test").study, Paths(tmp_path))
    before = texts(rules.results())
    corpus = str(rules.paths.corpus("mpmath"))
    assert corpus in before
    files.write_json(tmp_path / "archive.json", {"left_out": ["corpus/mpmath.parquet", "cells/x/model.safetensors"]})
    assert texts(rules.results()) == [path for path in before if path != corpus]


def test_a_language_study_has_its_perplexities():
    surgeon = rules_of("surgeon")
    assert len(surgeon.perplexities()) == 2 * 2 * 3
    assert str(surgeon.paths.text("pruning")) == "results/surgeon/language/text/pruning"


def test_settings_as_text_do_not_depend_on_the_order_of_keys():
    assert as_json({"b": 1, "a": [2]}) == as_json({"a": [2], "b": 1}) and json.loads(as_json({"a": 1})) == {"a": 1}


def test_a_log_begins_with_its_command():
    command = logged("study.finetune", "results/x --model {wildcards.model}")
    first, *_, last = command.splitlines()
    assert first == "cat > {log} <<'END'" and "python -m study.finetune results/x" in command
    assert last == "python -m study.finetune results/x --model {wildcards.model} >> {log} 2>&1"


@pytest.mark.parametrize("rule", sorted(RULES.keys() - WITHOUT_STEP))
def test_a_rule_is_triggered_by_the_code_of_the_step_it_runs(rule):
    step = re.search(r'logged\(\s*"([\w.]+)"', RULES[rule])[1]
    assert (ROOT / f"{step.replace('.', '/')}.py").is_file()
    assert re.search(rf'code=(lambda wildcards: )?(code_hash|RULES\.method_code)\("{re.escape(step)}"', RULES[rule])


def test_the_code_of_a_rule_includes_its_methods(mini):
    plain = code_hash("study.compress")
    assert len({plain, *(mini.method_code("study.compress", [name]) for name in ("ken", "random", "lora"))}) == 4
    assert mini.method_code("study.compress", ["magnitude"]) == mini.method_code("study.compress", ["delta-magnitude"])
