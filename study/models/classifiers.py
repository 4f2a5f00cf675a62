"""Loading classifiers: which parameters come from the checkpoint (the body) and which are new (the head).

The head is what the checkpoint lacks, never what a name looks like: a BERT checkpoint that carries a trained pooler has
a smaller head than one that does not.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from ken.errors import UserError
from ken.text import longest_text, set_padding
from study.running import files

logging.set_verbosity_error()  # the load report repeats what `load_classifier` checks and returns
logging.disable_progress_bar()


def checked_checkpoint(folder: Path) -> dict[str, str]:
    """Hashes of the files of an imported checkpoint, after comparing them; none for a folder that was not imported.

    Raises:
        UserError: a file is not the one that was imported.
    """
    return files.checked(folder) if (folder / "manifest.json").exists() else {}


def load_tokenizer(folder: Path, max_length: int) -> PreTrainedTokenizerBase:
    """Tokenizer of a checkpoint folder, with the padding token and side of `ken.text.set_padding`.

    Its `model_max_length` is `max_length`, or less where the model has not as many positions.

    Raises:
        UserError: the folder holds no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer that transformers can read: save one there ({error}).") from error
    try:
        set_padding(tokenizer, config)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    tokenizer.model_max_length = longest_text(tokenizer, config, max_length)
    return tokenizer


def load_classifier(folder: Path, classes: list[str], pad_token_id: int) -> tuple[nn.Module, list[str]]:
    """Sequence classifier in float32 whose body is the checkpoint's and whose head is new, drawn from torch's seed.

    Args:
        folder: local directory in the Hugging Face layout, weights in safetensors.
        classes: label of each output.
        pad_token_id: for models that look for the last token that is not padding (BLOOM).

    Returns:
        The model and the sorted names of its head parameters.

    Raises:
        UserError: not a checkpoint, weights missing, damaged or of another architecture.
    """
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={label: index for index, label in enumerate(classes)},
            pad_token_id=pad_token_id,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder} is not a checkpoint that transformers can load from safetensors: {reason}"
        ) from error
    head = sorted(info["missing_keys"])
    # A new head is a few layers at the end; missing embeddings or repeated blocks mean another architecture.
    embeddings = model.get_input_embeddings().weight
    blocks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    body = {name for name, parameter in model.named_parameters() if parameter is embeddings or name.startswith(blocks)}
    if body.intersection(head) or info["mismatched_keys"]:
        raise UserError(f"{folder} does not hold the body of a {model.config.model_type} model: check its config.json.")
    return with_fused_gelu(model), head


def random_classifier(folder: Path, classes: list[str], pad_token_id: int) -> nn.Module:
    """The same architecture with every weight drawn from torch's seed: the control for what pre-training is worth."""
    config = AutoConfig.from_pretrained(
        folder, num_labels=len(classes), pad_token_id=pad_token_id, local_files_only=True
    )
    return with_fused_gelu(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))


def empty_classifier(folder: Path) -> nn.Module:
    """Classifier of a saved fine-tuned model, to be filled with a restored state."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return with_fused_gelu(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)).eval()


def with_fused_gelu(model: nn.Module) -> nn.Module:
    """The same model with BLOOM's activation, written out in Python, computed by torch's kernel of the same formula.

    It takes 40 % of the time of a small BLOOM otherwise.
    """
    for module in model.modules():
        if type(module).__name__ == "BloomMLP":
            module.gelu_impl = nn.GELU(approximate="tanh")
    return model
