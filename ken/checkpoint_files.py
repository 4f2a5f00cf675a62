"""Files of a checkpoint in the Hugging Face layout, without pickle files and code."""

import re
from pathlib import Path, PurePosixPath

INDEX = "model.safetensors.index.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIG = ("config.json",)
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
MODEL = (*WEIGHTS, *CONFIG, *TOKENIZER)  # what transformers needs to load a model and its tokenizer

_NO_COMPANIONS = (
    # weights, also of other frameworks
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx",
    ".onnx_data", ".ot", ".tflite", ".npz", ".npy",
    # code, logs, archives, pictures, tables, and the card, which describes another model
    ".py", ".pyc", ".sh", ".ipynb", ".log", ".zip", ".gz", ".tar", ".xz", ".png", ".jpg", ".jpeg", ".gif", ".svg",
    ".pdf", ".csv", ".parquet", ".arrow", ".md",
)  # fmt: skip
_OF_TRAINING = ("trainer_state.json", "adapter_config.json", "all_results.json", "train_results.json")
# Folders of sentence-transformers ("1_Pooling"), and of more chat templates.
_FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")


def model_files(folder: Path) -> list[Path]:
    """Files of a checkpoint folder that match `MODEL`, sorted."""
    return sorted({path for pattern in MODEL for path in folder.glob(pattern)})


def is_companion(name: str) -> bool:
    """Whether a file, by its path in a checkpoint folder, belongs to the model without being weights.

    These are configurations, tokenizers, processors, chat templates, files of sentence-transformers and the like.

    Example:
        >>> [is_companion(name) for name in ("chat_template.jinja", "1_Pooling/config.json", "optimizer.pt")]
        [True, True, False]
    """
    path = PurePosixPath(name)
    folders = path.parts[:-1]
    if any(part.startswith(".") for part in path.parts) or len(folders) > 1:
        return False
    if folders and not _FOLDERS.fullmatch(folders[0]):
        return False
    if path.name.startswith("events.out.") or path.name in _OF_TRAINING or path.name.endswith(".index.json"):
        return False
    return path.suffix.lower() not in _NO_COMPANIONS
