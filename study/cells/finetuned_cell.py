"""A fine-tuned cell, loaded by the steps that compress, evaluate and measure it."""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import baselines
from baselines import Cell, Method
from baselines.training import TrainedMethod
from ken.subnetwork import Subnetwork
from study.cells.cell_training import CellTraining
from study.data.samples import sampled_rows
from study.definition import method_settings
from study.models.classifiers import empty_classifier, load_tokenizer
from study.running import files, provenance
from study.running.code import code_hash
from study.training.examples import Examples, Predictor, encode, load_task
from study.training.gradients import CPU
from study.training.precision import evaluation_precision

SAMPLES = {"scored": "test", "searched": "validation"}  # the texts of a split on which compressed models are evaluated


@functools.cache  # every row asks for it
def scoring_code(method: str) -> str:
    """Hash of the code that the scores of a method depend on."""
    return code_hash("study.cells.scoring", baselines.module_of(method))


class FinetunedCell:
    """A fine-tuned cell, loaded from disk.

    Args:
        folder: of the fine-tuned cell. task: task folder.
        settings: kept_shares, draws, batch_size, max_length; precision of an evaluation; scored_texts; methods: method
            -> budgets, draws, rate_factors and options that differ from its defaults; kept_shares_of_task: see
            `method_settings.budgets`; scores_only: methods whose stored files are not kept; kept_files: see
            `definition.kept_files`.
        device: to train and evaluate models and to rank entries on; state dicts stay on the CPU.

    Attributes:
        failure: why its training failed, so that there is no fine-tuned model; "" if it did not.
    """

    def __init__(self, folder: Path, task: Path, settings: dict, device: torch.device = CPU):
        self.folder, self.device = folder, device
        self.manifest = files.read_json(folder / "manifest.json")
        files.check(folder, self.manifest["sha256"])
        self.axes = {axis: self.manifest[axis] for axis in ("model", "task", "seed")}
        self.initial = load_file(folder / "initial.safetensors")
        self.pretrained = {name: tensor for name, tensor in self.initial.items() if name not in self.manifest["head"]}
        self.failure: str = self.manifest.get("reason", "")
        self.finetuned = {} if self.failure else load_file(folder / "model.safetensors")
        self.model = self.new_model()
        self.settings = settings
        tokenizer = load_tokenizer(folder, settings["max_length"])
        frames, classes = load_task(task)

        @functools.cache
        def split(name: str) -> Examples:
            if name not in SAMPLES:
                return encode(frames[name], classes, tokenizer)
            whole = split(SAMPLES[name])
            rows = sampled_rows(whole.labels, settings.get("scored_texts"), self.axes["task"], SAMPLES[name])
            return whole if rows is None else whole.at(rows)

        self.split = split
        self.batch_size = settings["batch_size"]
        self.precision = evaluation_precision(settings.get("precision", "float32"), self.model.config.model_type)
        self.predictor = functools.cache(lambda name, precision: Predictor(split(name), self.batch_size, precision))
        evaluation = {key: settings.get(key) for key in ("batch_size", "max_length", "precision", "scored_texts")}
        task_hashes = files.read_json(task / "manifest.json")["sha256"]
        self.inputs = {"finetuned": self.manifest["sha256"], "task": task_hashes, "evaluation": evaluation}

    @functools.cached_property
    def scored_rows(self) -> np.ndarray | None:
        """Rows of the test set on which compressed models are scored, ascending; None for all."""
        test = self.split("test")
        return sampled_rows(test.labels, self.settings.get("scored_texts"), self.axes["task"], "test")

    def predict(self, model: nn.Module, split: str = "scored", precision: str | None = None) -> np.ndarray:
        """Predicted class indices of a split, or of one of its `SAMPLES`; by default in the precision of the study."""
        return self.predictor(split, precision or self.precision)(model)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the whole model, about those of the largest stored file."""
        return sum(tensor.nbytes for tensor in self.initial.values())

    def new_model(self) -> nn.Module:
        """A model of the cell's architecture with arbitrary values."""
        return empty_classifier(self.folder).to(self.device)

    def reset_model(self) -> None:
        """Load the initial state into the model, which the last method has changed."""
        Subnetwork.forget(self.model)
        self.model.load_state_dict(self.initial)

    def load_finetuned(self) -> None:
        """Load the fine-tuned state into the model, which the last method has changed."""
        self.reset_model()
        self.model.load_state_dict(self.finetuned)

    def for_method(self, method: Method, draw: int) -> Cell:
        """The cell in the form that methods take."""
        seed = provenance.seed_of("compress", *self.axes.values(), method.name, draw)
        training = None
        if method.needs_data:
            splits = {name: self.split(name) for name in ("train", "validation")}
            # Methods that only need gradients compare them with state dicts, which are on the CPU.
            device = self.device if isinstance(method, TrainedMethod) else CPU
            rates = self.learning_rate_multipliers(method)
            training = CellTraining(self.folder, self.initial, self.manifest, splits, rates, device)
        return Cell(self.pretrained, self.finetuned, seed, self.model, training)

    def method(self, name: str) -> Method:
        """A registered method with its options from the config."""
        return baselines.METHODS[name].configured(self._options(baselines.METHODS[name]))

    def budgets(self, method: Method) -> list:
        """See `method_settings.budgets`."""
        of_task = self.settings.get("kept_shares_of_task")
        return method_settings.budgets(method, self._section(method), self.settings["kept_shares"], of_task)

    def draws(self, method: Method) -> int:
        """See `method_settings.draws`."""
        return method_settings.draws(method, self._section(method), self.settings["draws"])

    def keeps_file(self, method: Method, budget: float | int) -> bool:
        """Whether the stored file of a budget is kept after it has been scored."""
        kept = self.settings.get("kept_files")
        if method.name in self.settings.get("scores_only", ()):
            return False
        return kept is None or budget in kept.get(method.name, ())

    @property
    def keeps_all_files(self) -> bool:
        """Whether files stay that no later step reads."""
        return self.settings.get("kept_files") is None

    def learning_rate_multipliers(self, method: Method) -> tuple[float, ...]:
        """See `method_settings.learning_rate_multipliers`."""
        return method_settings.learning_rate_multipliers(method, self._section(method))

    def _section(self, method: Method) -> dict:
        return self.settings["methods"].get(method.name, {})

    def _options(self, method: Method) -> dict:
        return method_settings.options(self._section(method))

    def key(self, method: Method, budget: float | int, draw: int) -> str:
        """Hash of everything a score depends on."""
        parts = [self.inputs, scoring_code(method.name), budget, draw, torch.__version__.partition("+")[0]]
        if isinstance(method, TrainedMethod):
            parts.append([self.learning_rate_multipliers(method), self.manifest["settings"]])
        if options := self._options(method):
            parts.append(options)
        return provenance.text_hash(json.dumps(parts, sort_keys=True))
