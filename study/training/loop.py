"""The loop of fine-tuning, which methods that train share; it can be stopped at any step and go on later."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from baselines.training import Recipe
from study.running import files
from study.training import metrics
from study.training.examples import Examples, predict, shuffled_batches
from study.training.gradients import Gradients, linear_schedule, precision_on
from study.training.resumption import Checkpoint, digest


def train(
    model: nn.Module,
    train_set: Examples,
    validation_set: Examples,
    settings: dict,
    seed: int,
    recipe: Recipe | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, dict]:
    """Train a model, on the device where it is, and choose its best epoch on validation; prints progress.

    Args:
        settings: epochs, batch_size, learning_rate, warmup_share, weight_decay, evaluation_batch_size, precision.
        seed: of the data order, the same for every method that trains on this cell.
        recipe: what a method changes in the loop; nothing by default.
        checkpoint: where the state is left from time to time, and taken up again if it is there; not with a recipe,
            whose own state it would lack.

    Returns:
        The model of the best epoch (`model` itself, unless the recipe judges another) and a record: best_epoch (from
        1), validation_weighted_f1 at it, precision of the products, and history: one entry an epoch.

    Raises:
        ValueError: the recipe has offered no model to choose.
        UserError: not even one text fits into the memory of the device, or the model cannot have that precision.
    """
    loop = Loop(model, train_set, validation_set, settings, seed, recipe or Recipe())
    if checkpoint is not None:
        loop.resume_from(checkpoint)
    return loop.run()


class Loop:
    """One training between two steps: everything that the next step depends on.

    Attributes:
        epoch: the current one, from 1. losses: of its steps so far. history: of the epochs before it.
        order: state of the generator of the data order when the epoch began.
        best: (weighted F1, epoch, model, its values) of the best epoch so far.
    """

    def __init__(self, model: nn.Module, train_set: Examples, validation_set: Examples, settings, seed, recipe):
        self.model, self.settings, self.recipe = model, settings, recipe
        self.train_set, self.validation_set, self.seed = train_set, validation_set, seed
        self.device = next(model.parameters()).device
        self.steps_an_epoch = -(-len(train_set) // settings["batch_size"])
        self.steps = settings["epochs"] * self.steps_an_epoch
        groups = recipe.parameter_groups(model, settings["learning_rate"])
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(
            groups, settings["learning_rate"], weight_decay=settings["weight_decay"], fused=True
        )
        self.schedule = linear_schedule(self.optimizer, self.steps, settings["warmup_share"])
        self.precision = precision_on(self.device, settings.get("precision", "auto"), model.config.model_type)
        self.gradients = Gradients(self.device, self.precision)
        self.generator = torch.Generator().manual_seed(seed)
        self.order = self.generator.get_state()
        self.epoch, self.losses, self.history, self.best = 1, [], [], None
        self.start, self.checkpoint, self.identity = time.monotonic(), None, ""

    def run(self) -> tuple[nn.Module, dict]:
        """Train to the end; see `train`."""
        while self.epoch <= self.settings["epochs"]:
            self._train_epoch()
            self._judge()
            self.epoch, self.losses, self.order = self.epoch + 1, [], self.generator.get_state()
        if self.best is None:
            raise ValueError("no epoch gave a model that can be chosen: train for more epochs.")
        f1, epoch, model, values = self.best
        model.load_state_dict(values)
        record = {"best_epoch": epoch, "validation_weighted_f1": f1, "precision": self.precision}
        return model, record | {"history": self.history}

    @property
    def progress(self) -> float:
        """Share of all steps that are done."""
        return ((self.epoch - 1) * self.steps_an_epoch + len(self.losses)) / self.steps

    def _train_epoch(self) -> None:
        """The steps of the epoch that are still to be done."""
        self.model.train()
        self.generator.set_state(self.order)
        batches = shuffled_batches(self.train_set, self.settings["batch_size"], self.generator)
        for batch in itertools.islice(batches, len(self.losses), None):
            loss = self.gradients.compute(self.model, batch, lambda: self.recipe.penalty(self.progress))
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.losses.append(loss)
            self.recipe.after_step(self.progress)
            if self.checkpoint is not None and self.checkpoint.due():
                self.checkpoint.write(self.identity, *self.state())

    def _judge(self) -> None:
        """Score the model of the epoch on validation and keep it if it is the best so far."""
        candidate, f1 = self.recipe.candidate(self.model, self.progress), None
        if candidate is not None:
            predictions = predict(candidate, self.validation_set, self.settings["evaluation_batch_size"])
            f1 = metrics.scores(self.validation_set.labels, predictions)["weighted_f1"]
            if self.best is None or f1 > self.best[0]:
                values = {name: tensor.clone() for name, tensor in candidate.state_dict().items()}
                self.best = (f1, self.epoch, candidate, values)
        loss = sum(self.losses) / len(self.losses)
        self.history.append({"epoch": self.epoch, "loss": loss, "validation_weighted_f1": f1})
        left = (time.monotonic() - self.start) / self.epoch * (self.settings["epochs"] - self.epoch)
        judged = "not judged yet" if f1 is None else f"{f1:.3f}"
        print(f"epoch {self.epoch}: loss {loss:.3f}, validation F1 {judged}, about {left:.0f} s left", flush=True)

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Take up what lies there if it is of this very training, and leave the state there from now on."""
        self.checkpoint, self.identity = checkpoint, self._identity()
        if (found := checkpoint.read(self.identity)) is not None:
            self.load_state(*found)
            self.start -= checkpoint.seconds_before
            print(f"going on in epoch {self.epoch} after {len(self.losses)} steps of it", flush=True)

    def _identity(self) -> str:
        """Hash of all that the training depends on, before its first step."""
        sets = []
        for examples in (self.train_set, self.validation_set):
            flat = np.fromiter(itertools.chain.from_iterable(examples.ids), dtype=np.int64)
            sets += [flat.tobytes(), np.array([len(ids) for ids in examples.ids]).tobytes(), examples.labels.tobytes()]
        code = [files.sha256(Path(__file__).with_name(f"{name}.py")) for name in ("loop", "gradients", "examples")]
        others = [self.settings, self.seed, self.device.type, torch.__version__, *code]
        return digest(_values(self.model), json.dumps(others, sort_keys=True), *sets)

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Tensors and record from which `load_state` goes on."""
        tensors = {f"model.{name}": tensor for name, tensor in _values(self.model).items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best[3].items()}
        tensors |= {"order": self.order, "random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        record = {name: getattr(self, name) for name in ("epoch", "losses", "history")}
        record |= {"best": self.best and self.best[:2], "part": self.gradients.part}
        record |= {"schedule": self.schedule.state_dict(), "rates": [g["lr"] for g in self.optimizer.param_groups]}
        return tensors, record

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor], record: dict) -> None:
        """Become the training that `state` was called on."""
        parts: dict[str, dict[str, torch.Tensor]] = {"best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        for name, tensor in _values(self.model).items():
            tensor.copy_(parts["model"][name])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for group, rate in zip(self.optimizer.param_groups, record["rates"], strict=True):
            group["lr"] = rate
        self.schedule.load_state_dict(record["schedule"])
        if record["best"]:
            self.best = (*record["best"], self.model, parts["best"])
        self.epoch, self.losses, self.history = record["epoch"], record["losses"], record["history"]
        self.order, self.gradients.part = tensors["order"], record["part"]
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])


def _values(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, tied ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
