"""How large models and tasks are before anything is fetched or built: shapes without values, numbers of rows.

A model's shapes come from its configuration: that of its folder, that which the hub's copy has if it is here already,
or that of config/plan.yaml. The architecture is built on torch's meta device, which allocates nothing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from ken.errors import UserError, did_you_mean
from study.data import local_files as local_data
from study.models.architectures import ARCHITECTURES
from study.running import files
from study.training.gradients import NOT_IN_BFLOAT16

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelSize:
    """Shapes of a classifier.

    Attributes:
        body: name -> shape of what comes from the checkpoint. head: entries of what is new.
        linear: name -> (outputs, inputs) of the body's linear layers.
        width, layers, heads: hidden size, number of layers, attention heads of a layer.
        score_maps: attention score matrices of a head (DeBERTa adds two for relative positions).
        bfloat16: whether it can be trained in that.
    """

    body: Shapes
    head: int
    linear: dict[str, tuple[int, int]]
    width: int
    layers: int
    heads: int
    score_maps: int = 1
    bfloat16: bool = True

    @property
    def parameters(self) -> int:
        """Entries of body and head."""
        return self.head + sum(map(math.prod, self.body.values()))

    @property
    def multiplied(self) -> int:
        """Entries that a token is multiplied with: those of linear layers, not of the tables it is looked up in."""
        return sum(map(math.prod, self.linear.values()))


@dataclass(frozen=True)
class TaskSize:
    """Rows of each split and mean tokens of a text, as the model reads it (cut off)."""

    train: int
    validation: int
    test: int
    tokens: float
    classes: int


def model_size(config: PreTrainedConfig, trained_here: bool = False) -> ModelSize:
    """Shapes of the classifier of a configuration.

    Args:
        config: with `num_labels`.
        trained_here: its checkpoint is that of a language model trained by the suite, which has no pooler.
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
        name: of a model or language model. study: the study's config, complete. known: repository -> its configuration.

    Raises:
        UserError: the hub's model is not here and config/plan.yaml does not know its size.
    """
    model = (study["models"] | study["language_modelling"]["models"])[name]
    fetched = Path("results", study["study"], "models", name, "pretrained")
    folder = model.get("path") or model.get("checkpoint") or fetched
    if Path(folder, "config.json").is_file():
        return AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=classes)
    if model["source"] == "pretraining":
        settings = study["pretraining"]
        make = ARCHITECTURES[model["architecture"]].config
        config = make(model["size"], settings["vocabulary"], settings["max_length"], 0)
        config.num_labels = classes
        return config
    repository = model["repository"]
    if repository not in known:
        advice = "add it to repositories in config/plan.yaml, or import the model first"
        raise UserError(f"the size of {repository} is not known here: {advice}.{did_you_mean(repository, known)}")
    settings = dict(known[repository])
    return AutoConfig.for_model(settings.pop("model_type"), num_labels=classes, **settings)


def task_size(name: str, study: dict, plan: dict) -> TaskSize:
    """Rows and tokens of a task of a study: of the built task, of the user's files, or of config/plan.yaml.

    Args:
        plan: config/plan.yaml.

    Raises:
        UserError: the data set is not here and config/plan.yaml does not know its size, or files cannot be read.
    """
    task, longest = study["tasks"][name], study["finetuning"]["max_length"]
    folder = Path("results", study["study"], "tasks", name)
    if (folder / "manifest.json").is_file():
        counts = files.read_json(folder / "manifest.json")["counts"]
        texts = pd.read_parquet(folder / "train.parquet", columns=["text"])["text"]
        rows = {split: sum(counts[split].values()) for split in counts}
        return TaskSize(**rows, tokens=_tokens(_words(texts), plan, longest), classes=len(counts["train"]))
    if task["source"] == "docstrings":
        words = (study["corpus"]["min_words"] + study["corpus"]["max_words"]) / 2
        rows = {split: task[split] for split in ("train", "validation", "test")}
        return TaskSize(**rows, tokens=_tokens(words, plan, longest), classes=len(task["classes"]))
    if task["source"] == "files":
        train, validation, test, _ = local_data.prepare(task)
        tokens = _tokens(_words(train["text"]), plan, longest)
        return TaskSize(len(train), len(validation), len(test), tokens, train["label"].nunique())
    return _hub_task_size(task, plan, longest)


def _hub_task_size(task: dict, plan: dict, longest: int) -> TaskSize:
    place = "/".join(filter(None, (task["repository"], task.get("config"))))
    if place not in plan["data_sets"]:
        advice = "add it to data_sets in config/plan.yaml, or build the task first"
        raise UserError(f"the size of {place} is not known here: {advice}.{did_you_mean(place, plan['data_sets'])}")
    found, splits = plan["data_sets"][place], task["splits"]
    train = found[splits.get("train", "train")]
    if "validation" in splits and "test" in splits:
        validation = found[splits["validation"]]
    else:
        validation = round(train * task["validation_share"])
        train -= validation
    test = found[splits.get("test") or splits["validation"]]
    return TaskSize(train, validation, test, min(longest, found["tokens"]), found["classes"])


def _words(texts: pd.Series) -> float:
    return texts.str.split().str.len().mean()


def _tokens(words: float, plan: dict, longest: int) -> float:
    return min(longest, words * plan["tokens_per_word"] + 2)  # two marks around a text
