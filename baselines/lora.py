"""LoRA: low-rank updates of all linear layers of the body, trained with peft (Hu et al. 2022)."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from baselines.base import Cell, Method, Stored, Tensors, register
from baselines.training import TrainedMethod, TrainingHooks
from ken.files import replacing

_PREFIX, _LOW = "base_model.model.", ".lora_A.weight"


class Lora(TrainedMethod, Method):
    """W0 + B A, B (rows, rank) and A (rank, columns), for every linear layer of the body; the head is trained whole.

    Its file is a safetensors file with `<layer>.lora_A.weight`, `<layer>.lora_B.weight` and the head, peft's own names
    without their prefix; the metadata has the settings of the adapter. `restore` merges in float32.
    """

    name = "lora"
    unit = "rank"
    form = "merged"
    budgets = (1, 4, 16)
    rate_factors = (4.0, 8.0)

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer that an adapter could go to."

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        head = [name for name in cell.finetuned if name not in cell.pretrained]
        fitted = self.best_fit(
            cell, lambda: (adapted(cell.training.initial_model(), cell, budget, head), TrainingHooks())
        )
        trained = adapter_tensors(fitted.model, head)
        settings = {"rank": int(budget), "alpha": int(budget)}
        with replacing(path) as temporary:
            save_file(trained, temporary, metadata={"lora": json.dumps(settings)})
        kept = sum(tensor.numel() for name, tensor in trained.items() if name not in head)
        return Stored(kept, fitted=fitted)

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        settings, parts = read(path)
        state = {name: tensor.clone() for name, tensor in pretrained.items()}
        state |= {name: tensor for name, tensor in parts.items() if ".lora_" not in name}
        for layer in (name.removesuffix(_LOW) for name in parts if name.endswith(_LOW)):
            low, high = parts[layer + _LOW], parts[f"{layer}.lora_B.weight"]
            weight = state[f"{layer}.weight"]
            update = (high.float() @ low.float()) * (settings["alpha"] / settings["rank"])
            state[f"{layer}.weight"] = (weight.float() + update).to(weight.dtype)
        return state

    def beside(self, model: nn.Module, cell: Cell, path: Path) -> nn.Module:
        return unmerged(model, cell, path)


def adapted(model: nn.Module, cell: Cell, rank: int, head: list[str]) -> nn.Module:
    """The model with adapters on all linear layers of the body; adapters and head alone can be trained."""
    from peft import LoraConfig, TaskType, get_peft_model

    whole = sorted({name.rpartition(".")[0] for name in head})
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=int(rank), lora_alpha=int(rank), lora_dropout=0.0,
        target_modules=list(cell.linear_layers), modules_to_save=whole,
    )  # fmt: skip
    return get_peft_model(model, config)


def plain_name(name: str) -> str:
    """What a tensor of an adapted model is called in its file."""
    return name.removeprefix(_PREFIX).replace(".default", "").replace(".modules_to_save", "")


def adapter_tensors(model: nn.Module, head: list[str]) -> Tensors:
    """Adapters and head of an adapted model, by the names that its modules have without adapters."""
    found = {}
    for name, tensor in model.state_dict().items():
        plain = plain_name(name)
        if ".lora_" in plain or (plain in head and ".modules_to_save." in name):
            found[plain] = tensor.contiguous()
    return found


def read(path: Path) -> tuple[dict, Tensors]:
    """Settings and tensors of an adapter's file."""
    with safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["lora"])
    return settings, load_file(path)


def unmerged(model: nn.Module, cell: Cell, path: Path) -> nn.Module:
    """The initial model with the adapter beside its weights, as it is served when many adapters share one base."""
    settings, parts = read(path)
    head = [name for name in parts if ".lora_" not in name]
    model = adapted(model, cell, settings["rank"], head)
    for name, tensor in model.state_dict().items():
        plain = plain_name(name)
        if plain in parts:
            tensor.copy_(parts[plain])
    return model


register(Lora())
