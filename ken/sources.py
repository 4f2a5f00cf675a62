"""Sources of tensors: memory, and checkpoints on disk or on the hub, read one block of rows at a time.

Only safetensors files are read, never pickle or code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ken import hub
from ken.checkpoint_files import CONFIG, GENERATION, INDEX, TOKENIZER, WEIGHTS
from ken.errors import UserError
from ken.tensors import DTYPES, TensorSpec, as_rows, bytes_of

Tensors = Mapping[str, torch.Tensor]


class Source:
    """Tensors by name.

    Attributes:
        label: its name in messages.
        specs: name -> dtype and shape, in the order of reading.
        aliases: name -> name of the tensor it is tied to.
        buffers: names of tensors known not to be parameters (a module knows, a file does not).
        folder: folder with further files of the model, or None.
    """

    label: str
    specs: dict[str, TensorSpec]
    aliases: dict[str, str]
    buffers: frozenset[str] = frozenset()
    folder: Path | None = None

    def rows(self, name: str, block: slice) -> torch.Tensor:
        """A range of the rows (r, n) of a tensor; not to be written to."""
        raise NotImplementedError

    def config(self) -> dict | None:
        """The model's config.json, or None."""
        return None

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor; not to be written to."""
        spec = self.specs[name]
        return torch.cat([self.rows(name, block) for block in spec.blocks()]).reshape(spec.shape)


class Memory(Source):
    """A state dict or a module."""

    def __init__(self, tensors: Tensors | nn.Module):
        state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
        self.model_config = getattr(tensors, "config", None)
        if isinstance(tensors, nn.Module):
            self.buffers = frozenset(name for name, _ in tensors.named_buffers())
        state = {name: tensor.detach() for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        self.label = type(tensors).__name__
        self.aliases = _tied(state)
        self.tensors = {name: tensor for name, tensor in state.items() if name not in self.aliases}
        self.specs = {name: TensorSpec.of(tensor) for name, tensor in self.tensors.items()}

    def rows(self, name: str, block: slice) -> torch.Tensor:
        return as_rows(self.tensors[name])[block]

    def config(self) -> dict | None:
        return self.model_config.to_diff_dict() if hasattr(self.model_config, "to_diff_dict") else None

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


class Checkpoint(Source):
    """One safetensors file, or a folder with one or with shards and their index.

    A file is opened for each block and closed again, so that only this block is in memory.

    Raises:
        ValueError: there is no such checkpoint, or a file is missing, truncated or of another format.
    """

    def __init__(self, path: Path, label: str | None = None):
        self.label = label or str(path)
        self.folder = path if path.is_dir() else None
        self.aliases = {}
        self.files: dict[str, Path] = {}
        self.specs = {}
        for file in _weight_files(path):
            for name, spec in _read_specs(file).items():
                self.files[name], self.specs[name] = file, spec

    def rows(self, name: str, block: slice) -> torch.Tensor:
        spec = self.specs[name]
        with safe_open(self.files[name], framework="pt") as file:
            if len(spec.shape) <= 1:
                return file.get_tensor(name).reshape(spec.row_shape)[block]
            return as_rows(file.get_slice(name)[block.start : block.stop])

    def config(self) -> dict | None:
        path = self.folder / "config.json" if self.folder else None
        return _read_json(path) if path and path.is_file() else None


AnySource = Source | str | Path | Tensors | nn.Module
"""What `open_source` takes."""


def open_source(source: AnySource) -> Source:
    """Open a state dict, a module, a safetensors file, a checkpoint folder, or a hub repository by its id.

    Raises:
        ValueError: as `Checkpoint`, or the hub has no such repository.
    """
    if isinstance(source, Source):
        return source
    if not isinstance(source, str | Path):
        return Memory(source)
    path = Path(source)
    if path.exists():
        return Checkpoint(path)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) and path.suffix != ".safetensors":
        return Checkpoint(_fetch_checkpoint(str(source)), label=str(source))
    raise ValueError(f"{source} does not exist: give a safetensors file, a checkpoint folder or a hub repository.")


class Fingerprint:
    """Hash of names, dtypes, shapes and bytes of tensors, independent of their order and memory layout."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self._open: tuple[str, object] | None = None

    def update(self, name: str, spec: TensorSpec, rows: torch.Tensor) -> None:
        """Add the next rows of a tensor; all blocks of a tensor must be added before the next tensor."""
        if self._open is None or self._open[0] != name:
            self._close()
            start = json.dumps([name, str(spec.dtype), list(spec.shape)]).encode()
            self._open = (name, hashlib.sha256(start))
        self._open[1].update(bytes_of(rows))

    def hexdigest(self) -> str:
        """SHA-256, 64 hexadecimal digits."""
        self._close()
        return hashlib.sha256(json.dumps(sorted(self.digests.items())).encode()).hexdigest()

    def check(self, expected: str) -> None:
        """Check that a base is the one from which a sub-network was made.

        Raises:
            ValueError: the fingerprints differ.
        """
        if (digest := self.hexdigest()) != expected:
            raise ValueError(
                f"the base has fingerprint {digest[:12]}, expected {expected[:12]}: give the pre-trained values the "
                "sub-network was made from."
            )

    def _close(self) -> None:
        if self._open is not None:
            self.digests[self._open[0]] = self._open[1].hexdigest()
            self._open = None


def fingerprint(tensors: AnySource) -> str:
    """`Fingerprint` of all tensors of a source, tied ones once."""
    source, result = open_source(tensors), Fingerprint()
    for name, spec in source.specs.items():
        for block in spec.blocks():
            result.update(name, spec, source.rows(name, block))
    return result.hexdigest()


def _fetch_checkpoint(repository: str) -> Path:
    """Folder with weights, configuration and tokenizer of a hub repository."""
    patterns = (*WEIGHTS, *CONFIG, *GENERATION, *TOKENIZER)
    try:
        return hub.fetch(repository, "model", "main", lambda names: hub.at_the_top(names, patterns)).folder
    except UserError as error:
        raise ValueError(f"{repository} is not a local path, and {error}") from None


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if (path / INDEX).is_file():
        weight_map = _read_json(path / INDEX).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"{path / INDEX} has no usable weight_map: fetch the checkpoint again.")
        return [path / name for name in names]
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files
    raise ValueError(
        f"{path} holds {len(files)} safetensors files and no {INDEX}, expected model.safetensors or shards with that "
        "index: save the model there with save_pretrained (pickled weights are not read)."
    )


def _read_specs(path: Path) -> dict[str, TensorSpec]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            read = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: fetch the checkpoint again.") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}): fetch it again.") from None
    for name, (dtype, _) in read.items():
        if dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} of {path} is of {dtype}, expected one of {', '.join(DTYPES)}: cast it.")
    return {name: TensorSpec(DTYPES[dtype], shape) for name, (dtype, shape) in read.items()}


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected an object: fetch it again.")
    return value


def _tied(state: Tensors) -> dict[str, str]:
    """Name -> the earlier name that it shares its memory with."""
    first: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in state.items():
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and first.setdefault(memory, name) != name:
            aliases[name] = first[memory]
    return aliases
