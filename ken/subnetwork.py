"""The sub-network: the part of a fine-tuned model to store if the pre-trained model is available.

In memory: the kept entries of every body tensor and the whole head. On disk: one safetensors file (see `ken.storage`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ken import extraction, hub, injection, selection, storage
from ken.any_subnetwork import SUFFIX, AnySubnetwork
from ken.coded import CodedSubnetwork
from ken.errors import did_you_mean
from ken.extraction import KeptBlock
from ken.masks import Masks
from ken.pairing import Pair, opened_base
from ken.sources import AnySource, Fingerprint, Tensors
from ken.storage.coded import CodedReader
from ken.storage.exact import SETTINGS, Writer
from ken.tensors import TensorSpec, indices_of
from ken.vocabulary import hint_on_new_rows

__all__ = ["Subnetwork"]


@dataclass(eq=False)
class Subnetwork(AnySubnetwork):
    """Kept entries of a fine-tuned model, relative to its pre-trained base.

    Attributes:
        masks: body tensor -> bool, True = kept, unpacked at access; every tensor with a pre-trained value is here.
        values: body tensor -> 1-D, the kept entries in row-major order, in the tensor's dtype.
        whole: tensors without a pre-trained value (the head) and integer buffers, stored in full.
        aliases: name -> name of the tensor it is tied to.
        base: fingerprint of the pre-trained values that the others are reset to.
        method, k, rule, scope: how the entries were chosen, for the record.
        config: config.json of the fine-tuned model where it is known (labels of the classes, for example).
    """

    masks: Masks
    values: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    aliases: dict[str, str]
    base: str
    method: str = "ken"
    k: int | float | None = None
    rule: str = "reset"
    scope: str = "all"
    config: dict | None = None

    def __post_init__(self) -> None:
        self.masks = self.masks if isinstance(self.masks, Masks) else Masks(self.masks)

    @classmethod
    def extract(
        cls,
        pretrained: AnySource,
        finetuned: AnySource,
        k: int | float,
        method: str | selection.Criterion = "ken",
        scope: str = "all",
        rule: str = "reset",
        seed: int | None = None,
        device: torch.device | str | None = None,
        allow_head: bool = False,
    ) -> "Subnetwork":
        """Choose and keep k entries of every row of the body, and all of the head.

        Args:
            pretrained: the base: a state dict, a module, a safetensors file, a checkpoint folder or a hub repository;
                from disk one block of rows is read at a time. Its values are taken in the fine-tuned dtype.
            finetuned: body and head, likewise; a name without a pre-trained value is head.
            k: entries kept of each row: an int, or a share in (0, 1] (`ken.selection.kept_count`).
            method: criterion, or "ken-grid" (`ken.selection.select`).
            scope: "all", or "layers": only tensors whose name contains a digit, the others are kept whole.
            rule: "reset": kept entries hold W; "rescale": W0 + (n / kept) (W - W0), n and kept by row.
            seed: for methods that draw at random.
            device: where the choice is computed, by default the device of the tensors.
            allow_head: accept a head of more than 5 % of a checkpoint, or of a module with a configuration. What a
                state dict has for a head is not questioned.

        Raises:
            ValueError: a wrong argument or tensor (missing, mismatching, not finite); the sentence names it.

        Example:
            >>> base = {"layer.weight": torch.zeros(1, 4)}
            >>> tuned = {"layer.weight": torch.tensor([[0.5, 0.6, 0.7, 9.0]]), "head.weight": torch.ones(2)}
            >>> subnetwork = Subnetwork.extract(base, tuned, k=2)
            >>> subnetwork.kept_share, subnetwork.head_size
            (0.5, 2)
            >>> subnetwork.apply(base)["layer.weight"]
            tensor([[0.0000, 0.6000, 0.7000, 0.0000]])
        """
        choose = extraction.chooser(k, method, seed, device)
        pair = Pair.opened(pretrained, finetuned, allow_head)
        return cls._of_pair(pair, choose, k, method, scope, rule)

    @classmethod
    def from_ranks(
        cls,
        pretrained: AnySource,
        finetuned: AnySource,
        ranks: Tensors,
        k: int | float,
        method: str | selection.Criterion = "ken",
        rule: str = "reset",
        scope: str = "all",
        allow_head: bool = False,
    ) -> "Subnetwork":
        """The same from the ranks of `ken.selection.rank_tensors`, so that one ranking serves every k.

        Raises:
            ValueError: as `extract`, or a body tensor without ranks.
        """
        masks = {name: selection.mask_from_ranks(tensor, k) for name, tensor in ranks.items()}
        return cls.from_masks(pretrained, finetuned, masks, k, method, rule, scope, allow_head)

    @classmethod
    def from_masks(
        cls,
        pretrained: AnySource,
        finetuned: AnySource,
        masks: Tensors,
        k: int | float | None = None,
        method: str | selection.Criterion = "ken",
        rule: str = "reset",
        scope: str = "all",
        allow_head: bool = False,
    ) -> "Subnetwork":
        """The same from bool masks, True = kept; rows may keep any number of entries, also none.

        Raises:
            ValueError: as `extract`, or a body tensor without a bool mask of its shape.
        """
        pair = Pair.opened(pretrained, finetuned, allow_head)
        choose = extraction.chooser_of_masks(pair, masks)
        return cls._of_pair(pair, choose, k, method, scope, rule)

    @classmethod
    def _of_pair(
        cls,
        pair: Pair,
        choose: extraction.Chooser,
        k: int | float | None,
        method: str | selection.Criterion,
        scope: str,
        rule: str,
    ) -> "Subnetwork":
        fingerprint = Fingerprint(pair.base.digests)
        masks, values = _collected(extraction.kept_blocks(pair, choose, rule, scope, fingerprint))
        whole = {name: pair.finetuned_tensor(name).cpu() for name in pair.whole}
        method, base, config = selection.method_name(method), fingerprint.hexdigest(), pair.finetuned.config()
        return cls(masks, values, whole, pair.aliases, base, method, k, rule, scope, config)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Body tensor -> (kept entries, all entries)."""
        return self.masks.counts

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            OSError: the folder does not exist or cannot be written.
            ValueError: a tensor has a dtype that the file cannot hold.
        """
        settings = {name: getattr(self, name) for name in SETTINGS}
        with Writer(Path(path)) as writer:
            for name, spec in self.specs.items():
                rows, start = selection.as_rows(self.masks[name]), 0
                for block in spec.blocks():
                    stop = start + int(rows[block].sum())
                    writer.add_block(name, spec, rows[block], self.values[name][start:stop])
                    start = stop
            for name, tensor in self.whole.items():
                writer.add_whole(name, tensor)
            writer.finish(settings, self.aliases, self.config)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork | CodedSubnetwork[Subnetwork]":
        """Read a file written by `save` or by `ken.prune`; one with values in few bits as a `CodedSubnetwork`.

        Raises:
            ValueError: the file is truncated, altered, or not a sub-network.
            FileNotFoundError: there is no such file.
        """
        reader = storage.open_reader(Path(path))
        if isinstance(reader, CodedReader):
            return CodedSubnetwork(reader, cls)
        masks, values = _collected(
            KeptBlock(name, spec, mask, kept)
            for name, spec in reader.body.items()
            for _, mask, kept in reader.blocks(name)
        )
        whole = {name: reader.whole(name) for name in reader.tensors if name not in reader.body}
        return cls(masks, values, whole, reader.aliases, config=reader.config, **reader.settings)

    @classmethod
    def from_hub(cls, repository: str, filename: str | None = None, revision: str | None = None) -> "Subnetwork":
        """Load a file from a hub repository; without a name, the only sub-network file of the repository.

        Raises:
            ValueError: there is no such repository or file, or it is no sub-network.
        """

        def choose(names: list[str]) -> list[str]:
            files = [name for name in names if name.endswith(SUFFIX)] if filename is None else [filename]
            if len(files) != 1:
                listed = f": {', '.join(files)}" if files else ""
                raise ValueError(f"{repository} has {len(files)} files ending in {SUFFIX}{listed}: name one.")
            if files[0] not in names:
                raise ValueError(f"{repository} has no file {filename}.{did_you_mean(filename, names)}")
            return files

        snapshot = hub.fetch(repository, "model", revision or "main", choose)
        return cls.load(snapshot.folder / snapshot.names[0])

    def apply(self, pretrained: AnySource) -> dict[str, torch.Tensor]:
        """The compressed model: kept entries over the pre-trained values, and the head.

        Args:
            pretrained: the base, as in `extract`; tensors outside the body are ignored.

        Returns:
            Full state dict of new tensors, named as in the fine-tuned model; tied names share one tensor.

        Raises:
            ValueError: the base lacks a tensor, or is not the one the sub-network was made from.
        """
        specs = self.specs
        base, names = opened_base(pretrained, specs)
        state = {
            name: base.tensor(base_name).to(specs[name].dtype, copy=True).contiguous()
            for name, base_name in names.items()
        }
        self.check_base(state)
        for name, tensor in state.items():
            indices = indices_of(self.masks[name]).to(tensor.device)
            tensor.view(-1).scatter_(0, indices, self.values[name].to(tensor.device))
        state |= {name: tensor.clone() for name, tensor in self.whole.items()}
        return state | {alias: state[name] for alias, name in self.aliases.items()}

    def inject(self, model: nn.Module) -> None:
        """Turn a live model with the base's values into the compressed model, in place.

        The overwritten values are kept, so that `eject` can restore them. Another sub-network of the same base that
        is in the model is exchanged for this one in the same pass.

        Raises:
            ValueError: the model is not the base, lacks a tensor, or holds this sub-network already.

        Example:
            >>> model = nn.Linear(4, 1, bias=False)
            >>> tuned = {"weight": model.weight.detach() + 1}
            >>> subnetwork = Subnetwork.extract(model, tuned, k=1)
            >>> before = model.weight.detach().clone()
            >>> subnetwork.inject(model)
            >>> int((model.weight != before).sum())
            1
            >>> subnetwork.eject(model)
            >>> torch.equal(model.weight, before)
            True
        """
        injection.inject(self, model)

    def eject(self, model: nn.Module) -> None:
        """Restore what `inject` overwrote, bit for bit.

        Raises:
            ValueError: the sub-network is not in the model.
        """
        injection.eject(self, model)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Body tensor -> dtype and shape."""
        return {name: TensorSpec(self.values[name].dtype, self.masks.shape(name)) for name in self.masks}

    def check_base(self, state: Tensors) -> None:
        """Check that a state dict with the names of the body holds the base of the sub-network.

        Rows at the end that are kept whole may be those of an extended vocabulary, which have no pre-trained values:
        a model may hold anything there.

        Raises:
            ValueError: the fingerprints differ.
        """
        fingerprint = self._fingerprint(state)
        if fingerprint.hexdigest() != self.base:
            added = {name: count for name in self.masks if (count := self._rows_kept_at_the_end(name))}
            zeros = {name: state[name].clone() for name in added}
            for name, count in added.items():
                zeros[name][-count:] = 0
            fingerprint = self._fingerprint({**state, **zeros}) if added else fingerprint
        fingerprint.check(self.base, hint_on_new_rows(self.counts))

    def _fingerprint(self, state: Tensors) -> Fingerprint:
        fingerprint = Fingerprint()
        for name in self.masks:
            spec, rows = TensorSpec.of(state[name]), selection.as_rows(state[name])
            for block in spec.blocks():
                fingerprint.update(name, spec, rows[block])
        return fingerprint

    def _rows_kept_at_the_end(self, name: str) -> int:
        """How many of the last rows (entries of a 1-D tensor) are kept whole, where not all are."""
        mask = self.masks[name]
        if mask.ndim not in (1, 2) or not len(mask) or bool(mask.all()):
            return 0
        return int((~mask.reshape(len(mask), -1).all(1)).flip(0).int().argmax())


def _collected(blocks: Iterable[KeptBlock]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Masks and values of whole tensors."""
    masks: dict[str, list[torch.Tensor]] = {}
    values: dict[str, list[torch.Tensor]] = {}
    specs: dict[str, TensorSpec] = {}
    for block in blocks:
        specs[block.name] = block.spec
        masks.setdefault(block.name, []).append(block.mask)
        values.setdefault(block.name, []).append(block.values)
    whole_masks = {name: _joined(parts).reshape(specs[name].shape) for name, parts in masks.items()}
    return whole_masks, {name: _joined(parts) for name, parts in values.items()}


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """All parts in one tensor; the only one itself, which saves a copy of most tensors."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
