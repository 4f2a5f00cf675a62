"""Export of a fine-tuned model as an adapter of peft: a truncated SVD of its update, and its head."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from ken.empty_models import empty_model, is_transposed
from ken.errors import import_sentence
from ken.files import honour_umask
from ken.low_rank import add_update, approximated
from ken.pairing import Pair, listing
from ken.peft_layout import Layout
from ken.sources import AnySource
from ken.vocabulary import Extended

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out: the folder.
        file_bytes: size of its weights.
        rank: largest rank of a matrix.
        matrices: number of matrices with factors.
        modules: modules that are stored whole: the head, norms, and modules that LoRA cannot change.
        captured: share of the squared update of the body that the adapter holds.
        notes: what a user should know, one sentence each.
    """

    out: str
    file_bytes: int
    rank: int
    matrices: int
    modules: list[str]
    captured: float
    notes: list[str]

    def as_dict(self) -> dict:
        """The attributes."""
        return asdict(self)

    def text(self) -> str:
        """The attributes, for people."""
        return (
            f"{self.out}: {self.file_bytes:,} bytes; {self.matrices} matrices of rank {self.rank} or less, "
            f"{len(self.modules)} modules whole ({listing(self.modules)}); "
            f"{self.captured:.1%} of the squared update of the body"
        )


def export_peft(
    pretrained: AnySource,
    finetuned: AnySource,
    out: str | Path,
    rank: int,
    allow_head: bool = False,
    progress: bool = False,
) -> Exported:
    """Write the adapter folder of a fine-tuned model: adapter_config.json and adapter_model.safetensors.

    `peft.PeftModel.from_pretrained(base, out)`, where `base` is the task's model class with the pre-trained weights,
    then computes what the method `svd` restores at this rank. Linear layers and embeddings get factors. The head, norms
    and modules that LoRA cannot change are stored whole (`modules_to_save`), and so are biases.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        finetuned: the fine-tuned model with its configuration.
        out: a new folder.
        rank: of every matrix; at least 1.
        allow_head: accept more than 5 % of the fine-tuned model as head.
        progress: show a bar on stderr.

    Raises:
        ValueError: peft is not installed; `out` exists; the pair is refused as by `ken.prune`; the class of the
            fine-tuned model is unknown; or peft cannot express the update.
        OSError: the folder of `out` does not exist or cannot be written.
    """
    out = Path(out)
    if rank < 1:
        raise ValueError(f"the rank is {rank}, expected at least 1.")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists already: name a new folder.")
    _import_peft()
    pair = Pair.opened(pretrained, finetuned, allow_head)
    if isinstance(pair.base, Extended):
        raise ValueError(f"{pair.notes[0]}, which an adapter cannot express: resize the embeddings of the base first.")
    adapter = _Adapter(Layout(pair, empty_model(pair.finetuned)))
    adapter.add_body(rank, progress)
    adapter.add_head()
    if not adapter.ranks:
        raise ValueError("fine-tuning changed no linear layer and no embedding: an adapter has nothing to hold.")
    weights = "adapter_model.safetensors"
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as around:
        folder = Path(around, "adapter")
        folder.mkdir()
        save_file(adapter.tensors(), folder / weights, metadata={"format": "pt"})
        adapter.write_config(folder)
        honour_umask(folder)
        os.replace(folder, out)
    captured = 1 - adapter.missing / adapter.squared
    ranks, whole, size = adapter.ranks, sorted(adapter.whole), (out / weights).stat().st_size
    return Exported(str(out), size, max(ranks.values()), len(ranks), whole, captured, adapter.notes())


def _import_peft() -> None:
    for package in ("transformers", "peft"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(import_sentence(error, package, "peft")) from None


class _Adapter:
    """The tensors of an adapter, by the names of the model.

    Attributes:
        ranks: module with factors -> its rank.
        whole: modules stored whole.
        alone: names of parameters that are replaced in the base. LoRA can hold the bias of a linear layer only if all
            modules with factors have one and none is an embedding.
        squared, missing: squared norm of the update, and of what the adapter lacks of it.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.ranks: dict[str, int] = {}
        self.whole: set[str] = layout.with_same_ends(set())
        self.alone: list[str] = []
        self.squared = self.missing = 0.0
        self._factors: dict[str, torch.Tensor] = {}
        self._restored: dict[str, torch.Tensor] = {}  # changed parameters of the body without factors

    def add_body(self, rank: int, progress: bool) -> None:
        """Add the updates of the body."""
        sizes = {name: self.layout.pair.spec(name).size for name in self.layout.body.values()}
        bar = tqdm(total=sum(sizes.values()), unit="entry", unit_scale=True, disable=not progress, leave=False)
        with bar:
            for parameter, name in self.layout.body.items():
                self._add_update(parameter, *self.layout.update(name), rank)
                bar.update(sizes[name])

    def _add_update(self, parameter: str, update: torch.Tensor, base: torch.Tensor, rank: int) -> None:
        if not update.any():
            return
        exact = update.ndim < 2 and base.dtype.itemsize <= 2  # the method `svd` stores such vectors as they are
        parts = update if exact else approximated(update, rank)
        dense = (parts[0] @ parts[1] if isinstance(parts, tuple) else parts).view(update.shape)
        self.squared += _squared(update)
        self.missing += _squared(update - dense)
        if self.layout.has_factors(parameter):
            self._add_factors(parameter.rpartition(".")[0], *parts)
        else:
            self._restored[parameter] = add_update(base, dense)
            self._add_value(parameter)

    def _add_factors(self, owner: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add factors of a weight, whose update is B @ A for an `nn.Linear` and the transpose for other modules."""
        module = self.layout.model.get_submodule(owner)
        low, high = (right, left) if isinstance(module, nn.Linear) else (left.T, right.T)
        kind = "lora_embedding_{}" if isinstance(module, nn.Embedding) else "lora_{}.weight"
        self.ranks[owner] = len(low)
        self._factors |= {f"{owner}.{kind.format('A')}": low, f"{owner}.{kind.format('B')}": high}

    def add_head(self) -> None:
        """Add the tensors without pre-trained values."""
        for parameter in self.layout.head:
            self._add_value(parameter)

    def _add_value(self, parameter: str) -> None:
        if module := self.layout.whole_module(parameter):
            self.whole |= self.layout.with_same_ends({module})
        else:
            self.alone.append(parameter)

    def _value(self, parameter: str) -> torch.Tensor:
        """Value of a parameter without factors."""
        name = self.layout.sources[parameter]
        if parameter in self._restored:
            return self._restored[parameter]
        body = name in self.layout.pair.body
        return self.layout.base_values(name) if body else self.layout.pair.finetuned_tensor(name)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors under their names in the file, sorted."""
        tensors = dict(self._factors)
        for parameter in self.alone:
            owner, _, leaf = parameter.rpartition(".")
            tensors[f"{owner}.base_layer.{leaf}" if owner in self.ranks else parameter] = self._value(parameter)
        for module in self.whole:
            for name in self.layout.model.get_submodule(module).state_dict():
                tensors[f"{module}.{name}"] = self._value(f"{module}.{name}")
        return {PREFIX + name: tensors[name].contiguous() for name in sorted(tensors)}

    def notes(self) -> list[str]:
        """What a user should know of parameters that peft does not know of."""
        unknown = [name for name in self.alone if not name.endswith(".bias")]
        sentence = (
            f"peft loads {listing(unknown)} from this folder, but leaves them out when it saves the adapter again."
        )
        return [*self.layout.pair.notes, sentence] if unknown else self.layout.pair.notes

    def write_config(self, folder: Path) -> None:
        """Write adapter_config.json."""
        from peft import LoraConfig

        rank, base, model = max(self.ranks.values()), self.layout.pair.base, self.layout.model
        smaller = {module: own for module, own in sorted(self.ranks.items()) if own != rank}
        config = LoraConfig(
            task_type=self.layout.task, base_model_name_or_path=base.label if base.folder else None,
            inference_mode=True, r=rank, lora_alpha=rank, rank_pattern=smaller, alpha_pattern=smaller,
            target_modules=sorted(self.ranks), modules_to_save=sorted(self.whole) or None,
            bias="all" if self.alone else "none",
            fan_in_fan_out=any(is_transposed(model.get_submodule(module)) for module in self.ranks),
        )  # fmt: skip
        config.save_pretrained(folder)
        path = folder / "adapter_config.json"
        written = json.loads(path.read_text(encoding="utf-8"))
        written["target_modules"] = sorted(self.ranks)  # a set, which peft writes in any order
        path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _squared(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64) ** 2)
