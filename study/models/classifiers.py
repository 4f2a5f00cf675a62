"""Loading classifiers: which parameters come from the checkpoint (the body) and which are new (the head).

The head is everything outside the base model of the architecture, and what the checkpoint lacks besides: a BERT
checkpoint with a trained pooler has a smaller head than one without. It is always new, even if the checkpoint has a
classification head of its own, whose labels are those of another task.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from ken.errors import UserError
from ken.text import is_empty, longest_text, set_padding
from study.running import files

logging.set_verbosity_error()  # the load report repeats what `load_classifier` checks and returns
logging.disable_progress_bar()


def check_checkpoint(folder: Path) -> dict[str, str]:
    """Check the files of an imported checkpoint and return their hashes; {} for a folder that was not imported.

    Raises:
        UserError: a file has changed since it was imported.
    """
    return files.check_folder(folder) if (folder / "manifest.json").exists() else {}


def load_tokenizer(folder: Path, max_length: int) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint folder, with the padding token and side of `ken.text.set_padding`.

    Its `model_max_length` is `max_length`, or less if the model has fewer positions.

    Raises:
        UserError: the folder holds no tokenizer, or one with more tokens than the model has embeddings.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer that transformers can read: save one there ({error}).") from error
    if is_empty(tokenizer):  # what transformers makes of a folder without the files of a tokenizer
        raise UserError(f"{folder} holds no tokenizer: save it there with the tokenizer's save_pretrained.")
    if len(tokenizer) > (embeddings := getattr(config, "vocab_size", len(tokenizer))):
        sizes = f"a tokenizer of {len(tokenizer):,} tokens, but {embeddings:,} embeddings"
        raise UserError(f"{folder} holds {sizes}: save the tokenizer that belongs to the model there.")
    try:
        set_padding(tokenizer, config)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    tokenizer.model_max_length = longest_text(tokenizer, config, max_length)
    return tokenizer


def load_classifier(folder: Path, classes: list[str], pad_token_id: int) -> tuple[nn.Module, list[str]]:
    """Load a sequence classifier in float32, with the body of a checkpoint and a new head drawn by torch's generator.

    Args:
        folder: local folder in the Hugging Face layout, weights in safetensors.
        classes: label of each output.
        pad_token_id: for models that classify by the last token that is not padding (BLOOM).

    Returns:
        The model, whose tied tensors are listed once (`list_tied_once`), and the sorted names of its head parameters.

    Raises:
        UserError: not a checkpoint, weights missing, damaged or of another architecture.
    """
    model, info = load_pretrained(
        AutoModelForSequenceClassification,
        folder,
        "a checkpoint that transformers can load from safetensors",
        num_labels=len(classes),
        id2label=dict(enumerate(classes)),
        label2id={label: index for index, label in enumerate(classes)},
        pad_token_id=pad_token_id,
        problem_type=None,  # a checkpoint may have been trained for regression or several labels
        ignore_mismatched_sizes=True,  # of its head
    )
    list_tied_once(model)
    outside = _outside_base_model(model)
    head = sorted({*info["missing_keys"], *outside})
    # A new head is a few layers at the end; missing embeddings or repeated blocks mean another architecture.
    embeddings = model.get_input_embeddings().weight
    blocks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    body = {name for name, parameter in model.named_parameters() if parameter is embeddings or name.startswith(blocks)}
    if body.intersection(head) or {key[0] for key in info["mismatched_keys"]} - set(outside):
        raise UserError(f"{folder} does not hold the body of a {model.config.model_type} model: check its config.json.")
    if loaded := set(outside) - set(info["missing_keys"]):
        fresh = AutoModelForSequenceClassification.from_config(model.config, dtype=torch.float32).state_dict()
        model.load_state_dict({name: fresh[name] for name in loaded}, strict=False)
    return model, head


def _outside_base_model(model: nn.Module) -> list[str]:
    """Names of the tensors outside the base model; none if the architecture has no base model of its own."""
    if model.base_model is model:
        return []
    return [name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")]


def replaced_labels(folder: Path, head: list[str]) -> list[str]:
    """Labels of the classification head that a checkpoint has and `load_classifier` replaced; none without a head."""
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names.update(file.keys())
    if not names.intersection(head):
        return []
    labels = AutoConfig.from_pretrained(folder, local_files_only=True).id2label
    return [str(labels[index]) for index in sorted(labels)]


def list_tied_once(model: nn.Module) -> nn.Module:
    """Make `state_dict` list tied tensors once, under their first names, and `load_state_dict` need only those.

    T5 and BART use one matrix as the embeddings of encoder and decoder. Otherwise it would count several times, and
    safetensors would refuse to save it. Returns the same model.
    """
    first: dict[int, str] = {}
    names = model.named_parameters(remove_duplicate=False)
    tied = {name: first.setdefault(id(parameter), name) for name, parameter in names}
    tied = {name: source for name, source in tied.items() if name != source}

    def drop(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        for name in tied:
            state.pop(prefix + name, None)

    def add(module: nn.Module, state: dict, prefix: str, *others: object) -> None:
        for name, source in tied.items():
            if prefix + source in state:
                state.setdefault(prefix + name, state[prefix + source])

    if tied:
        model.register_state_dict_post_hook(drop)
        model.register_load_state_dict_pre_hook(add)
    return model


def load_pretrained(auto_class: type, folder: Path, kind: str, **options: object) -> tuple[nn.Module, dict]:
    """Load a model in float32 from safetensors; returns it with the loading info of transformers.

    Args:
        auto_class: of transformers, such as AutoModelForCausalLM.
        kind: what the folder must hold, for the message of an error.
        options: of `from_pretrained`.

    Raises:
        UserError: the folder holds something else, or is damaged.
    """
    options |= {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    try:
        model, info = auto_class.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} is not {kind}: {reason}") from error
    return with_fused_gelu(model), info


def model_from_config(auto_class: type, folder: Path, **options: object) -> nn.Module:
    """Model in float32 of the architecture in a checkpoint folder, with weights drawn by torch's generator.

    Args:
        auto_class: of transformers, such as AutoModelForCausalLM.
        options: of the configuration.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    return with_fused_gelu(auto_class.from_config(config, dtype=torch.float32))


def random_classifier(folder: Path, classes: list[str], pad_token_id: int) -> nn.Module:
    """Classifier of the same architecture, all weights drawn by torch's generator: the control without pre-training."""
    options = {"num_labels": len(classes), "pad_token_id": pad_token_id, "problem_type": None}
    return model_from_config(AutoModelForSequenceClassification, folder, **options)


def empty_classifier(folder: Path) -> nn.Module:
    """Classifier of a saved fine-tuned model, to be filled with a restored state."""
    return list_tied_once(model_from_config(AutoModelForSequenceClassification, folder)).eval()


def with_fused_gelu(model: nn.Module) -> nn.Module:
    """Replace BLOOM's activation, written in Python, by torch's kernel of the same formula; returns the same model.

    The Python version takes 40 % of the time of a small BLOOM.
    """
    for module in model.modules():
        if type(module).__name__ == "BloomMLP":
            module.gelu_impl = nn.GELU(approximate="tanh")
    return model
