"""The training loop of classifiers, language models and pre-training, which can be stopped at any step and resumed."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ken.errors import UserError
from study.training.batches import Batches
from study.training.gradients import Gradients, Loss, linear_schedule, mean_over_rows, precision_on
from study.training.resumption import Checkpoint, digest

if TYPE_CHECKING:  # otherwise a change in the code of a method would repeat the fine-tuning
    from baselines.training import TrainingHooks

PROGRESS_LINES = 40  # lines printed by a training without an objective
RECENT = 50  # last steps whose mean loss such a line shows


class Diverged(UserError, FloatingPointError):
    """A loss, a weight or a validation score is not finite. The message says where, and what to change."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW, its linear schedule and the precision of the products (see `precision_on`)."""

    learning_rate: float
    warmup_share: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    precision: str = "auto"


@dataclass(frozen=True)
class Objective:
    """How the best epoch is chosen.

    Attributes:
        name: key of its value in the history.
        evaluate: model -> value on the validation set.
        higher_is_better: otherwise lower values are better.
        includes_start: whether the model before the first step may be chosen, as epoch 0.
    """

    name: str
    evaluate: Callable[[nn.Module], float]
    higher_is_better: bool = True
    includes_start: bool = False


@dataclass(frozen=True)
class Workload:
    """What a model is trained on: batches, their loss, and the objective on validation.

    Attributes:
        batches: of every epoch. steps: batches of an epoch.
        identity: code, settings, seed and content of the data, which identify the training.
        objective: None keeps the model of the last step.
        loss, length_setting: see `Gradients`.
    """

    batches: Batches
    epochs: int
    steps: int
    identity: list[str | bytes]
    objective: Objective | None = None
    loss: Loss = mean_over_rows
    length_setting: str = "finetuning.max_length"


@dataclass(frozen=True)
class Best:
    """The best epoch so far: its number, the objective's value, and the model with a copy of its values on the CPU."""

    epoch: int
    value: float
    model: nn.Module
    values: dict[str, torch.Tensor]


def train(
    model: nn.Module,
    workload: Workload,
    settings: OptimizerSettings,
    hooks: "TrainingHooks | None" = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, dict]:
    """Train a model, on the device where it is, and choose its best epoch by the objective; prints progress.

    Args:
        hooks: what a method changes in the loop; nothing by default.
        checkpoint: where the state is saved from time to time and resumed from; not with hooks, whose state is not
            saved.

    Returns:
        The model of the best epoch (`model` itself, unless the hooks evaluate another) and a record: precision of the
        products, history (one entry an epoch) and, with an objective, best_epoch (from 1) and the objective's value.
        If the training diverged after that epoch, `diverged` is a sentence about it, and the history ends there.

    Raises:
        Diverged: before any epoch was evaluated, or without an objective.
        ValueError: the hooks have offered no model to choose.
        UserError: the memory of the device is too small for one text, or the model does not support the precision.
    """
    loop = Loop(model, workload, settings, hooks)
    if checkpoint is not None:
        loop.resume_from(checkpoint)
    return loop.run()


class Loop:
    """The state of a training between two steps: everything that the next step depends on.

    Attributes:
        epoch: the current one, from 1. losses: of its steps so far. history: of the epochs before it.
        best: the best epoch so far.
    """

    def __init__(
        self, model: nn.Module, workload: Workload, settings: OptimizerSettings, hooks: "TrainingHooks | None"
    ):
        self.model, self.workload, self.settings, self.hooks = model, workload, settings, hooks
        self.device = next(model.parameters()).device
        self.steps = workload.epochs * workload.steps
        groups = [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
        if hooks is not None:
            groups = hooks.parameter_groups(model, settings.learning_rate)
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(
            groups, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = linear_schedule(self.optimizer, self.steps, settings.warmup_share)
        self.precision = precision_on(self.device, settings.precision, model.config.model_type)
        self.gradients = Gradients(self.device, self.precision, workload.loss, workload.length_setting)
        self.epoch, self.losses, self.history = 1, [], []
        self.best: Best | None = None
        self.start, self.checkpoint, self.identity = time.monotonic(), None, ""

    def run(self) -> tuple[nn.Module, dict]:
        """Train to the end; see `train`."""
        objective = self.workload.objective
        if objective is not None and objective.includes_start and not self.history:
            self.history.append({"epoch": 0, "loss": None, objective.name: self._evaluate(0)})
        record = {"precision": self.precision, "history": self.history}
        try:
            while self.epoch <= self.workload.epochs:
                self._train_epoch()
                self._end_epoch()
        except Diverged as error:
            if self.best is None:
                raise
            record["diverged"] = f"{error} The best epoch before that, {self.best.epoch}, is used."
            print(record["diverged"], flush=True)
        if objective is None:
            return self.model, record
        if self.best is None:
            raise ValueError("the hooks offered no model in any epoch: train for more epochs.")
        _copy_values(self.best.values, self.best.model)
        return self.best.model, record | {"best_epoch": self.best.epoch, objective.name: self.best.value}

    @property
    def progress(self) -> float:
        """Share of all steps that are done."""
        return ((self.epoch - 1) * self.workload.steps + len(self.losses)) / self.steps

    def _penalty(self) -> torch.Tensor | float:
        return 0.0 if self.hooks is None else self.hooks.penalty(self.progress)

    def _train_epoch(self) -> None:
        """Do the steps of the epoch that are left."""
        self.model.train()
        for batch in self.workload.batches.epoch(len(self.losses)):
            loss = self.gradients.compute(self.model, batch, self._penalty)
            if not math.isfinite(loss):
                raise self._diverged("its loss", len(self.losses) + 1)
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.losses.append(loss)
            if self.hooks is not None:
                self.hooks.after_step(self.progress)
            if self.workload.objective is None:
                self._print_step()
            if self.checkpoint is not None and self.checkpoint.due():
                self.checkpoint.write(self.identity, *self.state())

    def _end_epoch(self) -> None:
        """Add the epoch to the history, with the objective's value, and begin the next."""
        if not all(parameter.isfinite().all() for parameter in self.trained):
            raise self._diverged("a weight", len(self.losses))
        entry = {"epoch": self.epoch, "loss": sum(self.losses) / len(self.losses)}
        if (objective := self.workload.objective) is not None:
            value = entry[objective.name] = self._evaluate(self.epoch)
            shown = "not evaluated yet" if value is None else f"{value:.3f}"
            left = (time.monotonic() - self.start) / self.epoch * (self.workload.epochs - self.epoch)
            text = f"epoch {self.epoch}: loss {entry['loss']:.3f}, {objective.name.replace('_', ' ')} {shown}"
            print(f"{text}, about {left:.0f} s left", flush=True)
        self.history.append(entry)
        self.epoch, self.losses = self.epoch + 1, []

    def _evaluate(self, epoch: int) -> float | None:
        """Evaluate the current model and keep it if it is the best so far; None if the hooks offer no model."""
        objective, candidate = self.workload.objective, self.model
        if self.hooks is not None:
            candidate = self.hooks.candidate(self.model, self.progress)
        if candidate is None:
            return None
        value, best = objective.evaluate(candidate), self.best
        if not math.isfinite(value):
            raise self._diverged(f"the {objective.name.replace('_', ' ')}", len(self.losses))
        if best is None or (value > best.value if objective.higher_is_better else value < best.value):
            values = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _values(candidate).items()}
            self.best = Best(epoch, value, candidate, values)
        return value

    def _diverged(self, what: str, step: int) -> Diverged:
        """The error of a training in which something is not finite after a step of the current epoch."""
        where = f"at step {step} of epoch {self.epoch}"
        remedy = f"set a learning rate below {self.settings.learning_rate:g}"
        return Diverged(f"the training diverged {where} ({what} is not finite): {remedy}.")

    def _print_step(self) -> None:
        step, steps = len(self.losses), self.workload.steps
        if step % max(1, steps // PROGRESS_LINES) == 0 or step == steps:
            recent, seconds = self.losses[-RECENT:], time.monotonic() - self.start
            text = f"step {step}/{steps}, loss {sum(recent) / len(recent):.3f}, {seconds:.0f} s"
            print(f"{text}, about {seconds / step * (steps - step):.0f} s left", flush=True)

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Resume from the state in `checkpoint` if it belongs to this training, and save there from now on."""
        self.checkpoint, self.identity = checkpoint, self._identity()
        if (saved := checkpoint.read(self.identity)) is not None:
            self.load_state(*saved)
            self.start -= checkpoint.seconds_before
            print(f"resuming in epoch {self.epoch} after {len(self.losses)} steps of it", flush=True)

    def _identity(self) -> str:
        """Hash of everything that the training depends on, before its first step."""
        workload = {"epochs": self.workload.epochs, "steps": self.workload.steps}
        others = [workload, asdict(self.settings), self.device.type, torch.__version__]
        return digest(_values(self.model), json.dumps(others, sort_keys=True), *self.workload.identity)

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Tensors and record for `load_state`."""
        tensors = {f"model.{name}": tensor for name, tensor in _values(self.model).items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.values.items()}
        tensors |= {"order": self.workload.batches.order, "random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        record = {name: getattr(self, name) for name in ("epoch", "losses", "history")}
        record |= {"best": self.best and [self.best.epoch, self.best.value], "part": self.gradients.part}
        record |= {"schedule": self.schedule.state_dict(), "rates": [g["lr"] for g in self.optimizer.param_groups]}
        return tensors, record

    def load_state(self, tensors: dict[str, torch.Tensor], record: dict) -> None:
        """Restore the state that `state` returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        _copy_values(parts["model"], self.model)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for group, rate in zip(self.optimizer.param_groups, record["rates"], strict=True):
            group["lr"] = rate
        self.schedule.load_state_dict(record["schedule"])
        if record["best"]:
            self.best = Best(*record["best"], self.model, parts["best"])
        self.epoch, self.losses, self.history = record["epoch"], record["losses"], record["history"]
        self.workload.batches.order, self.gradients.part = tensors["order"], record["part"]
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])


def _values(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; tied ones are listed once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@torch.no_grad()
def _copy_values(values: dict[str, torch.Tensor], model: nn.Module) -> None:
    for name, tensor in _values(model).items():
        tensor.copy_(values[name])
