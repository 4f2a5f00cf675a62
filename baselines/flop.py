"""FLOP: factorised layers whose inner units are pruned by gates in training (Wang, Wohlwend and Lei 2020)."""

import copy
import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from baselines.base import Cell, Method, Stored, Tensors, register
from baselines.training import TrainedMethod, TrainingHooks
from ken.files import replacing

# The hard-concrete distribution: limits of the stretch and temperature of Louizos et al. 2018, section 4.
LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def open_probability(log_alpha: torch.Tensor) -> torch.Tensor:
    """P(z > 0) of hard-concrete gates (Louizos et al. 2018, equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def gates(log_alpha: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """Values of hard-concrete gates, 0 to 1 (Louizos et al. 2018, equations 10, 11 and 13).

    Args:
        uniform: draws between 0 and 1 that decide the values; None gives the deterministic ones of evaluation.
    """
    noisy = log_alpha if uniform is None else (log_alpha + torch.logit(uniform)) / TEMPERATURE
    return (torch.sigmoid(noisy) * (HIGH - LOW) + LOW).clamp(0, 1)


class GatedLinear(nn.Module):
    """P diag(z) Q x + bias in place of W x + bias, with W = P Q before any gate closes.

    From the singular value decomposition of W (rows, columns), the square root of the singular values on both sides; z
    has min(rows, columns) gates, drawn once for every forward pass in training, deterministic in evaluation.

    Attributes:
        unit: parameters that one gate decides about, rows + columns.
        dense: parameters of W.
    """

    initial_log_alpha = 3.0  # open in evaluation mode, and drawn open, P(z > 0), in 99 of 100 passes

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        left, singular, right = torch.linalg.svd(weight.float(), full_matrices=False)
        root = singular.sqrt()
        self.p = nn.Parameter((left * root).to(weight.dtype).contiguous())
        self.q = nn.Parameter((root[:, None] * right).to(weight.dtype).contiguous())
        self.bias = linear.bias
        self.log_alpha = nn.Parameter(torch.full_like(singular, self.initial_log_alpha))
        self.unit, self.dense = sum(weight.shape), weight.numel()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        uniform = torch.rand_like(self.log_alpha) if self.training else None
        z = gates(self.log_alpha, uniform).to(inputs.dtype)
        return functional.linear(functional.linear(inputs, self.q) * z, self.p, self.bias)

    @torch.no_grad()
    def compiled(self, alive: torch.Tensor) -> nn.Sequential:
        """Two plain layers of the inner units that a bool mask names, each times its gate's deterministic value."""
        z = gates(self.log_alpha)[alive].to(self.q.dtype)
        return two_linears(z[:, None] * self.q[alive], self.p[:, alive], self.bias)


def two_linears(q: torch.Tensor, p: torch.Tensor, bias: torch.Tensor | None) -> nn.Sequential:
    """P (Q x) + bias as plain modules, from copies of Q (inner, columns), P (rows, inner) and the bias (rows,)."""
    (inner, columns), rows = q.shape, len(p)
    like = {"device": q.device, "dtype": q.dtype}
    # Without initialisation, which would draw from torch's seed.
    layers = nn.Sequential(
        nn.utils.skip_init(nn.Linear, columns, inner, bias=False, **like),
        nn.utils.skip_init(nn.Linear, inner, rows, bias=bias is not None, **like),
    )
    state = {"0.weight": q, "1.weight": p} | ({} if bias is None else {"1.bias": bias})
    layers.load_state_dict(state)
    return layers


def expected_size(layers: Iterable[GatedLinear]) -> torch.Tensor:
    """Expected parameters of the factorised layers as a share of the dense ones, in closed form; differentiable."""
    layers = list(layers)
    remaining = sum(layer.unit * open_probability(layer.log_alpha).sum() for layer in layers)
    return remaining / sum(layer.dense for layer in layers)


def surviving(layers: dict[str, GatedLinear], target: float) -> Tensors:
    """Gates that survive so that the size meets its target as nearly as whole inner units allow.

    The gates of highest log-alpha of the whole model are kept, at least one in every layer, as long as their parameters
    fit; one more is kept where that comes nearer to the target. Where fewer gates are open than fit,
    closed ones fill up the size: their units are stored and counted, multiplied by 0.

    Args:
        target: parameters of the factorised layers as a share of the dense ones.

    Returns:
        layer -> bool (inner,), True = kept.
    """
    scores = [layer.log_alpha.detach().clone() for layer in layers.values()]
    for score in scores:
        score[score.argmax()] = math.inf
    units = [layer.unit for layer in layers.values() for _ in range(len(layer.log_alpha))]
    order = torch.cat(scores).argsort(descending=True, stable=True).tolist()
    alive = torch.zeros(len(order), dtype=torch.bool)
    left = target * sum(layer.dense for layer in layers.values())
    for gate in order:
        if units[gate] <= left:
            alive[gate] = True
            left -= units[gate]
    nearer = [gate for gate in order if not alive[gate] and units[gate] < 2 * left]
    if nearer:
        alive[min(nearer, key=units.__getitem__)] = True
    return dict(zip(layers, alive.split([len(score) for score in scores]), strict=True))


class SizeControl(TrainingHooks):
    """Gates learn with the task while an augmented Lagrangian drives the expected size to a target.

    The penalty is lambda1 (s - t) + lambda2 (s - t)^2, s the expected size; both lambdas go up their gradient (Wang et
    al. 2020). t falls linearly over the first part of the steps, from the size at the start: factorised layers of full
    rank start above the dense size, square ones at twice of it, so that a share to prune that rose from 0, as in the
    paper, would begin with a jump. lambda2 starts high, not at 0, so that the size follows t closely also in a few
    hundred steps. Only when t has arrived at the target is a model fit to be judged.

    Args:
        model: with gated layers.
        target: parameters of these layers as a share of the dense ones.

    Raises:
        ValueError: no choice of inner units has this size.
    """

    ramp = 0.5  # share of the steps
    gate_rate = 0.1  # peak; gates have far to go, whatever the weights' learning rate is
    multipliers = (0.0, 50.0)  # lambda1 and lambda2 at the start
    multiplier_rate = 50.0  # for a whole training, so that what it does is the same for any number of steps

    def __init__(self, model: nn.Module, target: float):
        self.layers = gated_layers(model)
        layers = list(self.layers.values())
        dense = sum(layer.dense for layer in layers)
        smallest = sum(layer.unit for layer in layers) / dense
        largest = sum(layer.unit * len(layer.log_alpha) for layer in layers) / dense
        if not smallest <= target <= largest:
            raise ValueError(f"no pruning gives size {target:g}: choose one from {smallest:.3g} to {largest:.3g}.")
        self.target, self.start = target, expected_size(layers).item()
        self.gap, self.progress = 0.0, 0.0

    def parameter_groups(self, model: nn.Module, rate: float) -> list[dict]:
        learned = {id(layer.log_alpha): layer.log_alpha for layer in self.layers.values()}
        weights = [parameter for parameter in model.parameters() if id(parameter) not in learned]
        return [{"params": weights}, {"params": list(learned.values()), "lr": self.gate_rate, "weight_decay": 0.0}]

    def penalty(self, progress: float) -> torch.Tensor:
        scheduled = self.start + (self.target - self.start) * min(1.0, progress / self.ramp)
        gap = expected_size(self.layers.values()) - scheduled
        self.gap = gap.item()
        linear, quadratic = self.multipliers
        return linear * gap + quadratic * gap.square()

    def after_step(self, progress: float) -> None:
        step = self.multiplier_rate * (progress - self.progress)
        linear, quadratic = self.multipliers
        self.multipliers = (linear + step * self.gap, quadratic + step * self.gap**2)
        self.progress = progress

    def candidate(self, model: nn.Module, progress: float) -> nn.Module | None:
        return compiled(model, self.target) if progress >= self.ramp else None


def gated_layers(model: nn.Module) -> dict[str, GatedLinear]:
    """name -> layer, of all gated layers of a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GatedLinear)}


def factorised(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """The model, its linear layers of these names replaced by gated ones."""
    for name in layers:
        model.set_submodule(name, GatedLinear(model.get_submodule(name)))
    return model


def compiled(model: nn.Module, target: float) -> nn.Module:
    """A copy of the model in which every gated layer is two plain ones, of the target size in all (see `surviving`)."""
    layers = gated_layers(model)
    alive = surviving(layers, target)
    return with_layers(model, {name: layer.compiled(alive[name]) for name, layer in layers.items()})


def with_layers(model: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """A copy of the model with other modules at these names; what they replace is not copied."""
    return copy.deepcopy(model, {id(model.get_submodule(name)): layer for name, layer in layers.items()})


class Flop(TrainedMethod, Method):
    """Low-rank layers of learned inner sizes, trained on the task from the pre-trained model (see `SizeControl`).

    A budget is the size that remains of the linear layers of the body: parameters of their two factors, biases apart,
    as a share of the dense weights. Its safetensors file holds all tensors of the compiled model, for all are trained;
    `<layer>.0.weight` and `<layer>.1.weight` are the factors, and the metadata names the layers.
    """

    name = "flop"
    unit = "size"
    form = "compiled"
    budgets = (0.25, 0.5, 0.75)
    rate_factors = (1.0, 4.0)

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to factorise."

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        def build() -> tuple[nn.Module, TrainingHooks]:
            model = factorised(cell.training.initial_model(), cell.linear_layers)
            return model, SizeControl(model, budget)

        fitted = self.best_fit(cell, build)
        state = {name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}
        with replacing(path) as temporary:
            save_file(state, temporary, metadata={"flop": json.dumps({"layers": cell.linear_layers})})
        sizes = {name: tensor.numel() for name, tensor in state.items()}
        head = cell.finetuned.keys() - cell.pretrained.keys()
        return Stored(
            kept=sum(size for name, size in sizes.items() if name not in head),
            parameters=sum(sizes.values()),
            fitted=fitted,
        )

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        """State of the compiled model, which the architecture takes after `restore_into` has replaced its layers."""
        return load_file(path)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        """A new model with the two factors in place of every layer that was pruned; `model` stays as it is."""
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            names = json.loads(file.metadata()["flop"])["layers"]
        layers = {}
        for name in names:
            factors = (state[f"{name}.0.weight"], state[f"{name}.1.weight"], state.get(f"{name}.1.bias"))
            layers[name] = two_linears(*factors).to(model.get_submodule(name).weight)
        compiled_model = with_layers(model, layers)
        compiled_model.load_state_dict(state)
        return compiled_model


register(Flop())
