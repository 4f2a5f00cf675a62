"""Sizes of models and tasks before anything is downloaded or built: shapes of tensors, numbers of rows.

A model's shapes come from its configuration, which is read from a local folder if there is one and otherwise from
config/plan.yaml. The architecture is built on torch's meta device, which allocates no memory.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from baselines import METHODS, Method, TrainedMethod
from baselines.estimates import ModelShapes
from ken.errors import UserError, did_you_mean
from study.data import local_files
from study.definition import method_settings
from study.definition.paths import SPLITS
from study.definition.study import CONTROLS
from study.models.architectures import ARCHITECTURES
from study.running import files
from study.training.gradients import NOT_IN_BFLOAT16


@dataclass(frozen=True)
class ModelSize(ModelShapes):
    """Shapes of a classifier, and the sizes that determine its work.

    Attributes:
        width, layers, heads: hidden size, number of layers, attention heads of a layer.
        score_maps: attention score matrices of a head (DeBERTa adds two for relative positions).
        bfloat16: whether it can be trained in bfloat16.
    """

    width: int
    layers: int
    heads: int
    score_maps: int = 1
    bfloat16: bool = True


@dataclass(frozen=True)
class TaskSize:
    """Rows of each split, mean tokens of a text (truncated for the model), and number of classes.

    Attributes:
        scored: test texts on which compressed models are scored, at most; None for all.
    """

    train: int
    validation: int
    test: int
    tokens: float
    classes: int
    scored: int | None = None

    def sample(self, rows: int) -> int:
        """Texts of a split with so many rows on which compressed models are evaluated."""
        return min(rows, self.scored or rows)


@dataclass(frozen=True)
class SizedStudy:
    """A complete config with the sizes of its models (including language models) and tasks.

    Attributes:
        scored_share: share of the test texts that the plan counts, to estimate a smaller study.
        budget_step: the plan counts one in so many budgets of a method, likewise.
    """

    config: dict
    models: dict[str, ModelSize]
    tasks: dict[str, TaskSize]
    scored_share: float = 1.0
    budget_step: int = 1

    def finetuning(self, model: str) -> dict:
        """Section finetuning, with the keys that the model overrides."""
        section = self.config["finetuning"]
        overrides = self.config["models"].get(model, {})
        return section | {key: value for key, value in overrides.items() if key in section}

    def post_hoc(self) -> list[Method]:
        """Methods that do not train, controls first."""
        methods = [METHODS[name] for name in dict.fromkeys([*CONTROLS, *self.config["methods"]])]
        return [method for method in methods if not isinstance(method, TrainedMethod)]

    def budgets(self, method: Method, task: str) -> list[float | int]:
        """Budgets that a method is run at on a task."""
        return method_settings.budgets_in(self.config, method, task)[:: self.budget_step]

    def draws(self, method: Method) -> int:
        """Number of draws of a method."""
        return method_settings.draws(method, self._section(method), self.config["draws"])

    def learning_rates(self, method: Method) -> int:
        """Number of learning rates that a method tries; 0 if it does not train."""
        return len(method_settings.learning_rate_multipliers(method, self._section(method)))

    def _section(self, method: Method) -> dict:
        return self.config["method_settings"].get(method.name, {})


def size_study(config: dict, plan: dict) -> SizedStudy:
    """A complete config with the sizes of its models and tasks.

    Args:
        plan: config/plan.yaml.
    """
    tasks = {
        name: replace(task_size(name, config, plan), scored=task.get("scored_texts"))
        for name, task in config["tasks"].items()
    }
    classes = max(task.classes for task in tasks.values())
    models = {
        name: model_size(model_config(name, config, plan["repositories"], classes), model["source"] == "pretraining")
        for name, model in (config["models"] | config["language_modelling"]["models"]).items()
    }
    return SizedStudy(config, models, tasks)


def model_size(config: PreTrainedConfig, trained_here: bool = False) -> ModelSize:
    """Shapes of the classifier of a configuration.

    Args:
        config: has `num_labels`.
        trained_here: whether the suite pre-trains the model, whose checkpoint then has no pooler.
    """
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    prefix = f"{model.base_model_prefix}."

    def is_body(name: str) -> bool:
        return name.startswith(prefix) and not (trained_here and ".pooler." in name)

    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    linear = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_body(f"{name}.weight")
    }
    return ModelSize(
        body={name: shape for name, shape in shapes.items() if is_body(name)},
        head=sum(math.prod(shape) for name, shape in shapes.items() if not is_body(name)),
        linear=linear,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        score_maps=1 + len(getattr(config, "pos_att_type", None) or ()),
        bfloat16=config.model_type not in NOT_IN_BFLOAT16,
    )


def model_config(name: str, study: dict, known: dict, classes: int) -> PreTrainedConfig:
    """Configuration of a model of a study.

    Args:
        name: of a model or language model.
        study: the study's complete config.
        known: repository -> its configuration, from config/plan.yaml.
        classes: number of classes.

    Raises:
        UserError: the model has not been downloaded and its repository is not in config/plan.yaml.
    """
    model = (study["models"] | study["language_modelling"]["models"])[name]
    downloaded = Path("results", study["study"], "models", name, "pretrained")
    folder = model.get("path") or model.get("checkpoint") or downloaded
    if Path(folder, "config.json").is_file():
        return AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=classes)
    if model["source"] == "pretraining":
        settings = study["pretraining"]
        make_config = ARCHITECTURES[model["architecture"]].config
        config = make_config(model["size"], settings["vocabulary"], settings["max_length"], 0)
        config.num_labels = classes
        return config
    repository = model["repository"]
    if repository not in known:
        advice = "add it to repositories in config/plan.yaml, or import the model first"
        raise UserError(f"the size of {repository} is not known here: {advice}.{did_you_mean(repository, known)}")
    settings = dict(known[repository])
    return AutoConfig.for_model(settings.pop("model_type"), num_labels=classes, **settings)


def task_size(name: str, study: dict, plan: dict) -> TaskSize:
    """Rows and tokens of a task, from the task if it is built, else from the user's files or config/plan.yaml.

    Args:
        plan: config/plan.yaml.

    Raises:
        UserError: the task is not built and its data set is not in config/plan.yaml, or files cannot be read.
    """
    task, longest = study["tasks"][name], study["finetuning"]["max_length"]
    folder = Path("results", study["study"], "tasks", name)
    if (folder / "manifest.json").is_file():
        counts = files.read_json(folder / "manifest.json")["counts"]
        texts = files.read_parquet(folder / "train.parquet", columns=["text"])["text"]
        rows = {split: sum(counts[split].values()) for split in counts}
        return TaskSize(**rows, tokens=_tokens(_words(texts), plan, longest), classes=len(counts["train"]))
    if task["source"] == "docstrings":
        words = (study["corpus"]["min_words"] + study["corpus"]["max_words"]) / 2
        rows = {split: task[split] for split in SPLITS}
        return TaskSize(**rows, tokens=_tokens(words, plan, longest), classes=len(task["classes"]))
    if task["source"] == "files":
        train, validation, test, _ = local_files.prepare(task)
        tokens = _tokens(_words(train["text"]), plan, longest)
        return TaskSize(len(train), len(validation), len(test), tokens, train["label"].nunique())
    return _hub_task_size(task, plan, longest)


def _hub_task_size(task: dict, plan: dict, longest: int) -> TaskSize:
    name = "/".join(filter(None, (task["repository"], task.get("config"))))
    if name not in plan["data_sets"]:
        advice = "add it to data_sets in config/plan.yaml, or build the task first"
        raise UserError(f"the size of {name} is not known here: {advice}.{did_you_mean(name, plan['data_sets'])}")
    size, splits, limits = plan["data_sets"][name], task["splits"], task.get("limits", {})
    train = size[splits.get("train", "train")]
    if "validation" in splits and "test" in splits:
        validation = size[splits["validation"]]
    else:
        validation = round(train * task["validation_share"])
        train -= validation
    test = size[splits.get("test") or splits["validation"]]
    rows = {"train": train, "validation": validation, "test": test}
    rows = {split: min(count, limits.get(split, count)) for split, count in rows.items()}
    return TaskSize(**rows, tokens=min(longest, size["tokens"]), classes=size["classes"])


def _words(texts: pd.Series) -> float:
    return texts.str.split().str.len().mean()


def _tokens(words: float, plan: dict, longest: int) -> float:
    return min(longest, words * plan["tokens_per_word"] + 2)  # the two special tokens around a text
