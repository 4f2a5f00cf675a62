"""FLOP: factorised layers whose inner units are pruned by learned gates (Wang, Wohlwend and Lei 2020)."""

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
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from baselines.training import TrainedMethod, TrainingHooks
from ken.files import replacing

# The hard-concrete distribution: stretch limits and temperature of Louizos et al. 2018, section 4.
LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def open_probability(log_alpha: torch.Tensor) -> torch.Tensor:
    """P(z > 0) of hard-concrete gates (Louizos et al. 2018, equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def gates(log_alpha: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """Values of hard-concrete gates, 0 to 1 (Louizos et al. 2018, equations 10, 11 and 13).

    Args:
        uniform: random numbers between 0 and 1 for the values; None: the deterministic values of evaluation.
    """
    noisy = log_alpha if uniform is None else (log_alpha + torch.logit(uniform)) / TEMPERATURE
    return (torch.sigmoid(noisy) * (HIGH - LOW) + LOW).clamp(0, 1)


class GatedLinear(nn.Module):
    """P diag(z) Q x + bias in place of W x + bias, with W = P Q while all gates are open.

    P and Q come from the singular value decomposition of W (rows, columns); each takes the square root of the singular
    values. z holds min(rows, columns) gates: drawn once a forward pass in training, deterministic in evaluation.

    Attributes:
        unit: parameters controlled by one gate, rows + columns.
        dense: parameters of W.
    """

    initial_log_alpha = 3.0  # open in evaluation mode; in training P(z > 0) is 0.99

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

    @property
    @torch.no_grad()
    def weight(self) -> torch.Tensor:
        """P Q, for models that look at the weights of their layers (T5)."""
        return self.p @ self.q

    @torch.no_grad()
    def compact(self, alive: torch.Tensor) -> nn.Sequential:
        """Two plain layers with the inner units of a bool mask (True = kept), scaled by their deterministic gates."""
        z = gates(self.log_alpha)[alive].to(self.q.dtype)
        return two_linears(z[:, None] * self.q[alive], self.p[:, alive], self.bias)


class TwoLinears(nn.Sequential):
    """Two linear layers, one after the other."""

    @property
    @torch.no_grad()
    def weight(self) -> torch.Tensor:
        """Their product, for models that look at the weights of their layers (T5)."""
        return self[1].weight @ self[0].weight


def two_linears(q: torch.Tensor, p: torch.Tensor, bias: torch.Tensor | None) -> nn.Sequential:
    """P (Q x) + bias as plain modules, from copies of Q (inner, columns), P (rows, inner) and the bias (rows,)."""
    (inner, columns), rows = q.shape, len(p)
    like = {"device": q.device, "dtype": q.dtype}
    # Random initialisation is skipped: it would advance torch's random state.
    layers = TwoLinears(
        nn.utils.skip_init(nn.Linear, columns, inner, bias=False, **like),
        nn.utils.skip_init(nn.Linear, inner, rows, bias=bias is not None, **like),
    )
    state = {"0.weight": q, "1.weight": p} | ({} if bias is None else {"1.bias": bias})
    layers.load_state_dict(state)
    return layers


def expected_size(layers: Iterable[GatedLinear]) -> torch.Tensor:
    """Expected parameters of the factorised layers as a share of the dense ones; closed form, differentiable."""
    layers = list(layers)
    remaining = sum(layer.unit * open_probability(layer.log_alpha).sum() for layer in layers)
    return remaining / sum(layer.dense for layer in layers)


def surviving(layers: dict[str, GatedLinear], target: float) -> Tensors:
    """Choose the gates to keep, so that the size is as near to the target as whole inner units allow.

    The gates of highest log-alpha of the whole model are kept as long as their parameters fit, and at least one in
    every layer. One more is kept if that brings the size nearer to the target. If fewer gates are open than fit, closed
    ones are kept too: their units are stored and counted, multiplied by 0.

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
    remaining = target * sum(layer.dense for layer in layers.values())
    for gate in order:
        if units[gate] <= remaining:
            alive[gate] = True
            remaining -= units[gate]
    nearer = [gate for gate in order if not alive[gate] and units[gate] < 2 * remaining]
    if nearer:
        alive[min(nearer, key=units.__getitem__)] = True
    return dict(zip(layers, alive.split([len(score) for score in scores]), strict=True))


class SizeControl(TrainingHooks):
    """Learns the gates with the task while an augmented Lagrangian drives the expected size to a target.

    The penalty is lambda1 (s - t) + lambda2 (s - t)^2 with s the expected size; both lambdas follow gradient ascent
    (Wang et al. 2020). The scheduled size t falls linearly from the initial size to the target over the first part of
    the steps. It does not start at the dense size as in the paper: factorised layers of full rank are larger (square
    ones twice as large), so training would begin with a jump. lambda2 starts high instead of at 0, so that s follows t
    closely within a few hundred steps. Models are evaluated on validation only once t has reached the target.

    Args:
        model: has gated layers.
        target: parameters of these layers as a share of the dense ones.

    Raises:
        ValueError: no choice of inner units has this size.
    """

    ramp = 0.5  # share of the steps
    gate_rate = 0.1  # peak learning rate of the gates, which must move far at any learning rate of the weights
    multipliers = (0.0, 50.0)  # lambda1 and lambda2 at the start
    multiplier_rate = 50.0  # per training, not per step, so that its effect does not depend on the number of steps

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
        gates_of = {id(layer.log_alpha): layer.log_alpha for layer in self.layers.values()}
        weights = [parameter for parameter in model.parameters() if id(parameter) not in gates_of]
        return [{"params": weights}, {"params": list(gates_of.values()), "lr": self.gate_rate, "weight_decay": 0.0}]

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
        return compact(model, self.target) if progress >= self.ramp else None


def gated_layers(model: nn.Module) -> dict[str, GatedLinear]:
    """Name -> layer, for all gated layers of a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GatedLinear)}


def factorise(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """Replace the linear layers of these names by gated ones, in place; returns the model."""
    for name in layers:
        model.set_submodule(name, GatedLinear(model.get_submodule(name)))
    return model


def compact(model: nn.Module, target: float) -> nn.Module:
    """A copy of the model, of the target size, with two plain layers in place of every gated one (see `surviving`)."""
    layers = gated_layers(model)
    alive = surviving(layers, target)
    return with_layers(model, {name: layer.compact(alive[name]) for name, layer in layers.items()})


def with_layers(model: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """A copy of the model with other modules at these names; replaced modules are not copied."""
    return copy.deepcopy(model, {id(model.get_submodule(name)): layer for name, layer in layers.items()})


class Flop(TrainedMethod, Method):
    """Low-rank layers of learned inner sizes, trained on the task from the pre-trained model (see `SizeControl`).

    A budget is the remaining size of the body's linear layers: parameters of the two factors, without biases, as a
    share of the dense weights. The safetensors file holds all tensors of the compacted model, because all are trained;
    `<layer>.0.weight` and `<layer>.1.weight` are the factors, and the metadata lists the layers.
    """

    name = "flop"
    unit = "size"
    form = "compiled"
    budgets = (0.25, 0.5, 0.75)
    learning_rate_multipliers = (1.0, 4.0)
    step_cost = 2.0  # two factors in place of every square layer

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to factorise."

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        def build() -> tuple[nn.Module, TrainingHooks]:
            model = factorise(cell.training.initial_model(), cell.linear_layers)
            return model, SizeControl(model, budget)

        fitted = self.best_fit(cell.training, cell.seed, build)
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
        """State of the compacted model; the architecture can load it once `restore_into` has replaced its layers."""
        return load_file(path)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        """A new model with two factors in place of every pruned layer; `model` is not changed."""
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            names = json.loads(file.metadata()["flop"])["layers"]
        layers = {}
        for name in names:
            factors = (state[f"{name}.0.weight"], state[f"{name}.1.weight"], state.get(f"{name}.1.bias"))
            layers[name] = two_linears(*factors).to(model.get_submodule(name).weight)
        compacted = with_layers(model, layers)
        compacted.load_state_dict(state)
        return compacted

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.dense_bytes - FLOAT32_BYTES * shapes.linear_entries * (1 - budget)


register(Flop())
