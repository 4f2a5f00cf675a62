"""A study as its config describes it: axes, settings of the steps, and the file that the steps read them from."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from baselines import METHODS
from ken.errors import UserError
from study.definition import config
from study.definition.paths import Paths
from study.definition.step import parse_step
from study.definition.study import Study

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def study():
    raw = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    raw["models"]["bloom-small"] |= {"learning_rate": 0.01, "random_init_learning_rate": 0.02}
    raw["models"] = {"z-bert": raw["models"]["bert"], "bloom-small": raw["models"]["bloom-small"]}
    raw["trained_on"] = {"models": ["z-bert"]}
    return Study(config.load(raw, METHODS))


def test_the_steps_read_what_was_written_in_the_same_order(study, tmp_path):
    study.write(tmp_path)
    read = Study.read(tmp_path)
    assert read.config == study.config
    assert list(read.config["models"]) == read.axes["model"] == ["z-bert", "bloom-small"]
    path = Paths(tmp_path).config
    path.write_text(path.read_text().replace('"draws": 2', '"draws": 3'))
    with pytest.raises(UserError, match="was changed or damaged"):
        Study.read(tmp_path)


def test_cells_are_the_product_of_the_axes(study):
    assert study.cells == [("z-bert", "library3", 0), ("bloom-small", "library3", 0)]
    assert study.trained_cells == [("z-bert", "library3", 0)]
    assert study.random_init_cells == study.cells
    assert study.methods[:3] == ["full", "none", "ken"] and study.experiments == []


def test_a_model_overrides_the_settings_of_its_fine_tuning(study):
    assert study.finetuning_settings("z-bert")["learning_rate"] == 0.001
    assert study.finetuning_settings("bloom-small")["learning_rate"] == 0.01
    assert study.finetuning_settings("bloom-small", "random-init")["learning_rate"] == 0.02
    assert "checkpoint_minutes" not in study.finetuning_settings("z-bert")


def test_a_method_has_its_own_settings_and_no_others(study):
    settings = study.compression_settings(["lora"], "library3")
    assert set(settings["methods"]) == {"lora"} and settings["scores_only"] == []
    assert study.compression_settings(["ken"], "library3")["methods"] == {}


def test_a_step_reads_its_axes_and_names_the_nearest(study, tmp_path, monkeypatch):
    study.write(tmp_path)
    monkeypatch.setattr(sys, "argv", ["step", str(tmp_path), "--model", "z-bert", "--seed", "0"])
    arguments, read, paths = parse_step("A step.", "model", "seed")
    assert (arguments.model, arguments.seed) == ("z-bert", 0) and read.name == "test" and paths.results == tmp_path
    monkeypatch.setattr(sys, "argv", ["step", str(tmp_path), "--model", "z-bret"])
    with pytest.raises(UserError, match=r'--model is z-bret, which is not a model of test. Did you mean "z-bert"\?'):
        parse_step("A step.", "model")
    monkeypatch.setattr(sys, "argv", ["step", str(tmp_path / "nothing"), "--model", "z-bert"])
    with pytest.raises(UserError, match=r"config\.json does not exist: name the results folder"):
        parse_step("A step.", "model")


def test_paths_take_wildcards_and_values_alike():
    paths = Paths("results/mini")
    pattern = (
        re.escape(str(paths.stored("{model}", "{task}", "{seed}", "ken", 0.25)))
        .replace(r"\{", "(?P<")
        .replace(r"\}", ">[^/]+)")
    )
    found = re.fullmatch(pattern, str(paths.stored("bert", "topic", 3, "ken", 0.25)))
    assert found.groupdict() == {"model": "bert", "task": "topic", "seed": "3"}
    assert str(paths.log("finetune_model", "bert", "topic", "3")) == "results/mini/logs/finetune_model/bert/topic/3.log"
    assert str(paths.benchmark("collect_scores")) == "results/mini/benchmarks/collect_scores.tsv"


def test_what_light_steps_import_is_light():
    program = "import sys, study.definition.step; sys.exit(bool({'torch', 'pandas', 'pydantic'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_how_models_are_scored_on_a_task_does_not_change_the_task(study):
    tasks = study.config["tasks"]
    scored = tasks["library3"] | {"scored_texts": 20, "kept_shares": [0.25]}
    other = Study(study.config | {"tasks": tasks | {"library3": scored}})
    assert other.task_settings("library3") == study.task_settings("library3")
    settings = other.compression_settings(["ken"], "library3")
    assert settings["scored_texts"] == 20 and settings["kept_shares_of_task"] == [0.25]
    assert other.ablation_settings("library3")["settings"]["scored_texts"] == 20
    assert study.compression_settings(["ken"], "library3")["scored_texts"] is None
    precise = Study(study.config | {"evaluation": {"batch_size": 32, "precision": "bfloat16"}})
    assert precise.finetuning_settings("z-bert")["evaluation_precision"] == "bfloat16"
    assert "evaluation_precision" not in study.finetuning_settings("z-bert")
