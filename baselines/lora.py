"""LoRA: low-rank updates of all linear layers of the body, trained with peft (Hu et al. 2022)."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from baselines.base import Cell, Method, Stored, Tensors, register
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from baselines.training import TrainedMethod, TrainingHooks
from ken.files import replacing

_PREFIX, _LOW = "base_model.model.", ".lora_A.weight"


class Lora(TrainedMethod, Method):
    """W0 + B A with B (rows, rank) and A (rank, columns), for every linear layer of the body; the head is trained too.

    The safetensors file holds `<layer>.lora_A.weight`, `<layer>.lora_B.weight` and the head, under peft's names without
    their prefix; the metadata holds the settings of the adapter. `restore` merges in float32.
    """

    name = "lora"
    unit = "rank"
    form = "merged"
    budgets = (1, 4, 16)
    learning_rate_multipliers = (4.0, 8.0)

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to which an adapter could be added."

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        head = [name for name in cell.finetuned if name not in cell.pretrained]

        def build() -> tuple[nn.Module, TrainingHooks]:
            ranks = dict.fromkeys(cell.linear_layers, int(budget))
            return add_adapters(cell.training.initial_model(), ranks, head), TrainingHooks()

        fitted = self.best_fit(cell.training, cell.seed, build)
        trained = adapter_tensors(fitted.model, head)
        settings = {"rank": int(budget), "alpha": int(budget)}
        with replacing(path) as temporary:
            save_file(trained, temporary, metadata={"lora": json.dumps(settings)})
        kept = sum(tensor.numel() for name, tensor in trained.items() if name not in head)
        return Stored(kept, fitted=fitted)

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        settings, parts = read_adapter(path)
        state = {name: tensor.clone() for name, tensor in pretrained.items()}
        state |= {name: tensor for name, tensor in parts.items() if ".lora_" not in name}
        for layer in (name.removesuffix(_LOW) for name in parts if name.endswith(_LOW)):
            low, high = parts[layer + _LOW], parts[f"{layer}.lora_B.weight"]
            weight = state[f"{layer}.weight"]
            update = (high.float() @ low.float()) * (settings["alpha"] / settings["rank"])
            state[f"{layer}.weight"] = (weight.float() + update).to(weight.dtype)
        return state

    def unmerged_adapter(self, model: nn.Module, cell: Cell, path: Path) -> nn.Module:
        """The initial `model` with the adapter next to its weights, as served when many adapters share one base."""
        return with_adapter(model, read_adapter(path)[1])

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return FLOAT32_BYTES * (shapes.head + budget * sum(map(sum, shapes.linear.values())))


def add_adapters(model: nn.Module, ranks: dict[str, int], head: list[str]) -> nn.Module:
    """The model with adapters of these ranks on its linear layers; only adapters and head are trained."""
    from peft import LoraConfig, TaskType, get_peft_model

    head_modules = sorted({name.rpartition(".")[0] for name in head})
    rank = max(ranks.values())
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=rank, rank_pattern=ranks, alpha_pattern=ranks, lora_dropout=0.0,
        target_modules=list(ranks), modules_to_save=head_modules,
    )  # fmt: skip
    return get_peft_model(model, config)


def with_adapter(model: nn.Module, tensors: Tensors) -> nn.Module:
    """The model with an unmerged adapter.

    Args:
        tensors: `<layer>.lora_A.weight` (rank, n) and `<layer>.lora_B.weight` (rows, rank) of linear layers, and the
            head.
    """
    ranks = {name.removesuffix(_LOW): len(low) for name, low in tensors.items() if name.endswith(_LOW)}
    model = add_adapters(model, ranks, [name for name in tensors if ".lora_" not in name])
    for name, tensor in model.state_dict().items():
        if plain_name(name) in tensors:
            tensor.copy_(tensors[plain_name(name)])
    return model


def plain_name(name: str) -> str:
    """Name in the file of a tensor of an adapted model."""
    return name.removeprefix(_PREFIX).replace(".default", "").replace(".modules_to_save", "")


def adapter_tensors(model: nn.Module, head: list[str]) -> Tensors:
    """Adapters and head of an adapted model, under their names in the file."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        stored_name = plain_name(name)
        if ".lora_" in stored_name or (stored_name in head and ".modules_to_save." in name):
            tensors[stored_name] = tensor.contiguous()
    return tensors


def read_adapter(path: Path) -> tuple[dict, Tensors]:
    """Settings and tensors of an adapter's file."""
    with safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["lora"])
    return settings, load_file(path)


register(Lora())
