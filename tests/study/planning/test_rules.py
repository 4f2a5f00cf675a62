"""Inputs and settings of the rules, without Snakemake; and that every rule is triggered by the code of its own step."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from baselines import METHODS
from study.definition import config
from study.definition.paths import Paths
from study.definition.study import Study
from study.planning.rules import Rules, as_json, logged
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


def test_kenviz_shows_its_own_file_first_and_then_those_to_compare(mini):
    own, *compared = texts(mini.kenviz_files())
    assert own.endswith("cells/bert/library6/seed0/compressed/ken/draw0/0.25.safetensors")
    methods = {Path(path).parts[-3] for path in compared}
    assert {"ken", "random", "delta-magnitude"} <= methods and not methods & {"ken-rescaled", "lora", "full"}
    assert mini.kenviz_matrix == "--matrix query.weight"


def test_a_language_study_has_its_perplexities():
    surgeon = rules_of("surgeon")
    assert len(surgeon.perplexities()) == 2 * 2 * 2
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
