"""Models of transformers without weights, built to inspect their modules: they take next to no memory."""

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from ken.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def empty_model(finetuned: Source) -> "PreTrainedModel":
    """The fine-tuned model's class with zeros that take no memory.

    Raises:
        ValueError: there is no configuration, or transformers does not know the class.
    """
    import transformers

    config = dict(finetuned.config() or {})
    if not config:
        raise ValueError(f"{finetuned.label} has no config.json, which names its class: give the checkpoint's folder.")
    name = (config.get("architectures") or [None])[0]
    if name is None and isinstance(config.get("model_type"), str):
        raise ValueError(f"config.json of {finetuned.label} names no architecture: save it with save_pretrained.")
    model_class = getattr(transformers, str(name), None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        raise ValueError(f"transformers has no class {name!r}, which config.json of {finetuned.label} names.")
    try:
        with torch.device("meta"):
            model = model_class(model_class.config_class.from_dict(config)).eval()
    except Exception as error:  # whatever the code of a model may raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"config.json of {finetuned.label} describes no {name} ({reason}): save it again.") from None
    if tied := [
        name for name, _ in model.named_parameters(remove_duplicate=False) if name not in parameter_names(model)
    ]:
        raise ValueError(f"{name} ties {tied[0]!r} to another tensor, which an adapter cannot change: use `ken prune`.")
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({key: _zeros(tensor) for key, tensor in tensors.items() if tensor is not None})
    return model


def parameter_names(model: nn.Module) -> set[str]:
    """Names of the parameters, tied ones once."""
    return {name for name, _ in model.named_parameters()}


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return nn.Parameter(zeros, requires_grad=False) if isinstance(tensor, nn.Parameter) else zeros


def called_modules(model: "PreTrainedModel") -> set[str]:
    """Names of the modules that a forward pass over a text calls.

    LoRA has no effect on others, such as an embedding of which the model reads the weight alone. If the pass fails, as
    for models of other inputs, linear layers count as called and embeddings do not.
    """
    called: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()
    ]
    ids = torch.zeros(1, 4, dtype=torch.long)
    done = False
    with contextlib.suppress(Exception), torch.no_grad():  # whatever the code of a model may raise
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        done = True
    for handle in handles:
        handle.remove()
    return called if done else {name for name, module in model.named_modules() if is_linear(module)}


def is_linear(module: nn.Module) -> bool:
    """Whether LoRA can change it as a linear layer."""
    return type(module) is nn.Linear or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether it is a linear layer of GPT-2's kind, with weights (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)
