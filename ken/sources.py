"""Sources of tensors: memory, and checkpoints on disk or on the hub, read one block of rows at a time.

Only safetensors files are read, never pickle or code. Names are without the wrappers of training libraries.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from ken import hub
from ken.checkpoint_files import INDEX, WEIGHTS, is_companion
from ken.errors import UserError, did_you_mean
from ken.files import path_exists
from ken.safetensors_files import StoredTensors
from ken.tensors import TensorSpec, as_rows, bytes_of
from ken.wrappers import live_tensors, unwrapped, without_wrappers

Tensors = Mapping[str, torch.Tensor]


class Source:
    """Tensors by name.

    Attributes:
        label: its name in messages.
        specs: name -> dtype and shape, in the order of reading.
        aliases: name -> name of the tensor it is tied to.
        buffers: names of tensors known not to be parameters (a module knows, a file does not).
        folder: folder with further files of the model, or None.
        files: files that the tensors are read from.
        digests: of tensors that never change, filled by `Fingerprint`; None where they may change.
    """

    label: str
    specs: dict[str, TensorSpec]
    aliases: dict[str, str]
    buffers: frozenset[str] = frozenset()
    folder: Path | None = None
    files: tuple[Path, ...] = ()
    digests: dict[str, str] | None = None

    def rows(self, name: str, block: slice) -> torch.Tensor:
        """A range of the rows (r, n) of a tensor; not to be written to."""
        raise NotImplementedError

    def config(self) -> dict | None:
        """The model's config.json, or None."""
        return None

    @property
    def model_type(self) -> str | None:
        """Architecture in the model's config.json, such as "bert", or None."""
        return (self.config() or {}).get("model_type")

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors other names."""
        raise NotImplementedError

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor; not to be written to."""
        spec = self.specs[name]
        return torch.cat([self.rows(name, block) for block in spec.blocks()]).reshape(spec.shape)


class Memory(Source):
    """A state dict or a module."""

    def __init__(self, tensors: Tensors | nn.Module):
        self.label = type(tensors).__name__
        if isinstance(tensors, nn.Module):
            tensors = unwrapped(tensors)
            state = live_tensors(tensors)
            self.buffers = frozenset(without_wrappers(name for name, _ in tensors.named_buffers()).values())
        else:
            state = {name: tensor.detach() for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
            names = without_wrappers(state)
            state = {names[name]: tensor for name, tensor in state.items()}
        self.model_config = getattr(tensors, "config", None)
        self.aliases = _tied(state)
        self.tensors = {name: tensor for name, tensor in state.items() if name not in self.aliases}
        self.specs = {name: TensorSpec.of(tensor) for name, tensor in self.tensors.items()}

    def rows(self, name: str, block: slice) -> torch.Tensor:
        return as_rows(self.tensors[name])[block]

    def config(self) -> dict | None:
        return self.model_config.to_diff_dict() if hasattr(self.model_config, "to_diff_dict") else None

    @property
    def model_type(self) -> str | None:
        return getattr(self.model_config, "model_type", None) or None

    def rename(self, names: Mapping[str, str]) -> None:
        self.tensors = {names[name]: tensor for name, tensor in self.tensors.items()}
        self.specs = {names[name]: spec for name, spec in self.specs.items()}
        self.aliases = {names[alias]: names[name] for alias, name in self.aliases.items()}
        self.buffers = frozenset(names.get(name, name) for name in self.buffers)

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[name]


class Constant(Memory):
    """A state dict whose tensors never change: they are hashed once, however many sub-networks are made from it."""

    def __init__(self, tensors: Tensors):
        super().__init__(tensors)
        self.digests = {}


MERGE = "merge it into its base first (`merge_and_unload` of peft) and save the merged model with save_pretrained"
"""What to do with an adapter."""
_OF_ADAPTERS = re.compile(
    r"(^|\.)(lora_[A-Za-z_]+|base_layer|modules_to_save|original_module|ia3_l|hada_w\w+|lokr_w\w+|oft_[rR]|boft_[RPs]|"
    r"vera_lambda_[bd])(\.|$)"
)
"""Components of the names of tensors that peft adds to a model, or that it renames."""


def check_merged(names: Iterable[str], label: str) -> None:
    """Refuse a model with an adapter that is not merged into it.

    Raises:
        ValueError: naming the first tensor of the adapter.
    """
    if found := next(filter(_OF_ADAPTERS.search, names), None):
        raise ValueError(f"{label} holds an adapter ({found!r}): {MERGE}.")


class Checkpoint(Source):
    """One safetensors file, or a folder with one or with shards and their index.

    A header is read once. A file is opened for each block and closed again, so that only this block is in memory.

    Raises:
        ValueError: there is no such checkpoint; a file is missing, unreadable, truncated or of another format; a shard
            lacks a tensor; or the folder holds an adapter alone.
    """

    def __init__(self, path: Path, label: str | None = None):
        self.label = label or str(path)
        self.folder = path if path.is_dir() else None
        self.aliases = {}
        weight_map, self.files = _weight_files(path)
        held: dict[str, StoredTensors] = {}
        for file in self.files:
            stored = StoredTensors(file)
            # A tensor that several shards hold is read where the index says.
            held |= {name: stored for name in stored.specs if weight_map.get(name, file.name) == file.name}
        if absent := [name for name in weight_map if name not in held]:
            raise ValueError(
                f"{path / INDEX} names tensor {absent[0]!r} in {weight_map[absent[0]]}, which does not hold it "
                f"({len(absent)} such tensors): fetch or save the checkpoint again."
            )
        check_merged(held, self.label)
        names = without_wrappers(held)
        self._stored = {names[name]: (stored, name) for name, stored in held.items()}
        self.specs = {name: stored.specs[inner] for name, (stored, inner) in self._stored.items()}

    def rows(self, name: str, block: slice) -> torch.Tensor:
        stored, inner = self._stored[name]
        return stored.rows(inner, block)

    def rename(self, names: Mapping[str, str]) -> None:
        self._stored = {names[name]: stored for name, stored in self._stored.items()}
        self.specs = {names[name]: spec for name, spec in self.specs.items()}

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
    if path_exists(path):
        return Checkpoint(path)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) and path.suffix != ".safetensors":
        return Checkpoint(_fetch_checkpoint(str(source)), label=str(source))
    raise ValueError(
        f"{source} does not exist: give a safetensors file, a checkpoint folder or a hub repository.{_near(path)}"
    )


class Fingerprint:
    """Hash of names, dtypes, shapes and bytes of tensors, independent of their order and memory layout.

    Args:
        known: `Source.digests`, which are used and added to.
    """

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self.digests: dict[str, str] = {}
        self._known = {} if known is None else known
        self._open: tuple[str, str, object] | None = None

    def update(self, name: str, spec: TensorSpec, rows: torch.Tensor) -> None:
        """Add the next rows of a tensor; all blocks of a tensor must be added before the next tensor."""
        if self._open is None or self._open[0] != name:
            self._close()
            described = json.dumps([name, str(spec.dtype), list(spec.shape)])
            self._open = (name, described, hashlib.sha256(described.encode()))
        if self._open[1] not in self._known:
            self._open[2].update(bytes_of(rows))

    def hexdigest(self) -> str:
        """SHA-256, 64 hexadecimal digits."""
        self._close()
        return hashlib.sha256(json.dumps(sorted(self.digests.items())).encode()).hexdigest()

    def check(self, expected: str, hint: str = "") -> None:
        """Check that a base is the one from which a sub-network was made.

        Args:
            hint: a further sentence of the message.

        Raises:
            ValueError: the fingerprints differ.
        """
        if (digest := self.hexdigest()) != expected:
            raise ValueError(
                f"the base has fingerprint {digest[:12]}, expected {expected[:12]}: give the pre-trained values the "
                f"sub-network was made from.{hint}"
            )

    def _close(self) -> None:
        if self._open is not None:
            name, described, digest = self._open
            self.digests[name] = self._known.setdefault(described, digest.hexdigest())
            self._open = None


def fingerprint(tensors: AnySource) -> str:
    """`Fingerprint` of all tensors of a source, tied ones once."""
    source, result = open_source(tensors), Fingerprint()
    for name, spec in source.specs.items():
        for block in spec.blocks():
            result.update(name, spec, source.rows(name, block))
    return result.hexdigest()


def _near(path: Path) -> str:
    """Hint at a file or folder of a similar name."""
    names = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, names)
    return hint if hint.startswith(" Did") else ""


def _fetch_checkpoint(repository: str) -> Path:
    """Folder with weights, configuration, tokenizer and other companions of a hub repository."""

    def choose(names: list[str]) -> list[str]:
        return sorted({*hub.at_the_top(names, WEIGHTS), *filter(is_companion, names)})

    try:
        return hub.fetch(repository, "model", "main", choose).folder
    except UserError as error:
        raise ValueError(f"{repository} is not a local path, and {error}{_near(Path(repository))}") from None


def _weight_files(path: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Tensor -> name of its shard, as the index of a folder says (empty without one), and the files with weights."""
    if path.is_file():
        return {}, (path,)
    if (path / "model.safetensors").is_file():
        return {}, (path / "model.safetensors",)
    if (path / INDEX).is_file():
        weight_map = _read_json(path / INDEX).get("weight_map")
        names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"{path / INDEX} has no usable weight_map: fetch the checkpoint again.")
        return weight_map, tuple(path / name for name in names)
    if (path / "adapter_config.json").is_file():
        raise ValueError(f"{path} holds an adapter, not a whole model: {MERGE}.")
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return {}, (files[0],)
    raise ValueError(
        f"{path} holds {len(files)} safetensors files and no {INDEX}, expected model.safetensors or shards with that "
        "index: save the model there with save_pretrained (pickled weights are not read)."
    )


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
