"""Causal language models: loading, and their parameters, with tied parameters once."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ken.errors import UserError
from study.models.classifiers import load_pretrained, model_from_config


def load_language_model(folder: Path) -> nn.Module:
    """Load a causal language model in float32; if its output layer is missing, the input embeddings are used.

    Raises:
        UserError: not a checkpoint of a causal language model, or damaged.
    """
    model, info = load_pretrained(AutoModelForCausalLM, folder, "a causal language model in safetensors")
    missing = set(info["missing_keys"]) & dict(model.named_parameters()).keys()
    if missing or info["mismatched_keys"]:
        name = sorted(missing or map(str, info["mismatched_keys"]))[0]
        raise UserError(f"{folder} lacks {name}, which its causal language model needs: check its config.json.")
    return model.eval()


def empty_language_model(folder: Path) -> nn.Module:
    """Language model of a checkpoint folder, to be filled with a restored state."""
    return model_from_config(AutoModelForCausalLM, folder).eval()


def body_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name; tied parameters are listed once, under their first name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load_body(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """Load parameters into a model and return it; tied parameters need only one name.

    Raises:
        ValueError: the state lacks a parameter.
    """
    missing = [name for name in body_of(model) if name not in state]
    if missing:
        raise ValueError(f"the state lacks the parameter {missing[0]!r}: restore it from the file of this model.")
    model.load_state_dict(state, strict=False)
    return model


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers, except the output layer, whose weight may be that of the embeddings."""
    output = model.get_output_embeddings()
    modules = model.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Linear) and module is not output]
