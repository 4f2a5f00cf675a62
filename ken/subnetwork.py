"""The sub-network: what has to be stored of a fine-tuned model when everybody has the pre-trained one.

In memory: the kept entries of every body tensor and the whole head. On disk: one safetensors file (see `ken.storage`).
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ken import extraction, selection, storage
from ken.extraction import KeptBlock
from ken.pairing import Pair, names_in
from ken.sources import Fingerprint, Meta, Source, Tensors, open_source

__all__ = ["Subnetwork"]

AnySource = Source | str | Path | Tensors | nn.Module


@dataclass(eq=False)
class Subnetwork:
    """Kept entries of a fine-tuned model, relative to its pre-trained base.

    Attributes:
        masks: body tensor -> bool, True = kept; every tensor with a pre-trained value is here.
        values: body tensor -> 1-D, the kept entries in row-major order, in the tensor's dtype.
        whole: tensors without a pre-trained value (the head) and integer buffers, stored in full.
        aliases: name -> name of the tensor it is tied to.
        base: fingerprint of the pre-trained values that the others are reset to.
        method, k, rule, scope: how the entries were chosen, for the record.
        config: config.json of the fine-tuned model where it is known (labels of the classes, for example).
    """

    masks: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    aliases: dict[str, str]
    base: str
    method: str = "ken"
    k: int | float | None = None
    rule: str = "reset"
    scope: str = "all"
    config: dict | None = None
    _places: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

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
            seed: of methods that draw at random.
            device: where the choice is computed; None: where the tensors lie.

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
        pair = Pair.of(open_source(pretrained), open_source(finetuned))
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
    ) -> "Subnetwork":
        """The same from the ranks of `ken.selection.rank_tensors`, so that one ranking serves every k.

        Raises:
            ValueError: as `extract`, or a body tensor without ranks.
        """
        masks = {name: selection.mask_from_ranks(found, k) for name, found in ranks.items()}
        return cls.from_masks(pretrained, finetuned, masks, k, method, rule, scope)

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
    ) -> "Subnetwork":
        """The same from bool masks, True = kept; rows may keep any number of entries, also none.

        Raises:
            ValueError: as `extract`, or a body tensor without a bool mask of its shape.
        """
        pair = Pair.of(open_source(pretrained), open_source(finetuned))

        def choose(name: str, place: slice, finetuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
            mask, shape = masks.get(name), pair.meta(name).shape
            if mask is None or mask.shape != shape or mask.dtype != torch.bool:
                found = "none" if mask is None else f"{mask.dtype} of {tuple(mask.shape)}"
                raise ValueError(
                    f"tensor {name!r} needs ranks or a bool mask of {shape}, found {found}: "
                    "rank every tensor of the body."
                )
            return selection.as_rows(mask)[place]

        return cls._of_pair(pair, choose, k, method, scope, rule)

    @classmethod
    def _of_pair(cls, pair: Pair, choose: extraction.Chooser, k, method, scope: str, rule: str) -> "Subnetwork":
        fingerprint = Fingerprint()
        masks, values = _collected(extraction.kept_blocks(pair, choose, rule, scope, fingerprint))
        whole = {name: pair.finetuned_tensor(name).cpu() for name in pair.whole}
        name_of_method, config = selection.method_name(method), pair.finetuned.config()
        base = fingerprint.hexdigest()
        return cls(masks, values, whole, pair.aliases, base, name_of_method, k, rule, scope, config)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Body tensor -> (kept entries, all entries)."""
        return {name: (self.values[name].numel(), mask.numel()) for name, mask in self.masks.items()}

    @property
    def kept_body(self) -> int:
        """Kept entries of the body."""
        return sum(kept for kept, _ in self.counts.values())

    @property
    def total_body(self) -> int:
        """Entries of the body: all parameters that have a pre-trained value, tied ones once."""
        return sum(total for _, total in self.counts.values())

    @property
    def kept_share(self) -> float:
        """Kept share of the body, 0 to 1."""
        return self.kept_body / max(1, self.total_body)

    @property
    def head_size(self) -> int:
        """Entries without a pre-trained value."""
        return sum(tensor.numel() for tensor in self.whole.values() if tensor.is_floating_point())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            OSError: the folder does not exist or cannot be written.
            ValueError: a tensor has a dtype that the file cannot hold.
        """
        settings = {name: getattr(self, name) for name in storage.SETTINGS}
        with storage.Writer(Path(path)) as writer:
            for name, meta in self.metas.items():
                rows, start = selection.as_rows(self.masks[name]), 0
                for place in meta.blocks():
                    block = rows[place]
                    stop = start + int(block.sum())
                    writer.add_block(name, meta, block, self.values[name][start:stop])
                    start = stop
            for name, tensor in self.whole.items():
                writer.add_whole(name, tensor)
            writer.finish(settings, self.aliases, self.config)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file written by `save` or by `ken.prune`.

        Raises:
            ValueError: the file is truncated, altered, or not a sub-network.
            FileNotFoundError: there is no such file.
        """
        reader = storage.Reader(Path(path))
        body = {name: entry.meta for name, entry in reader.entries.items() if entry.blocks is not None}
        masks, values = _collected(
            KeptBlock(name, meta, mask, kept) for name, meta in body.items() for _, mask, kept in reader.blocks(name)
        )
        whole = {name: reader.whole(name) for name in reader.entries if name not in body}
        return cls(masks, values, whole, reader.aliases, config=reader.config, **reader.settings)

    @classmethod
    def from_hub(cls, repository: str, filename: str | None = None, revision: str | None = None) -> "Subnetwork":
        """Load a file from a hub repository; the only one of the repository where no name is given.

        Raises:
            ValueError: there is no such repository or file, or it is no sub-network.
        """
        from ken import hub

        return cls.load(hub.download_subnetwork(repository, filename, revision))

    def push_to_hub(self, repository: str, filename: str = "subnetwork.ken.safetensors", **options) -> str:
        """Upload the file to a hub repository, which is made if it does not exist; returns the address of the commit.

        Args:
            repository: "owner/name".
            filename: name in the repository.
            options: private, commit_message, token: as huggingface_hub has them.
        """
        from ken import hub

        return hub.push(self, repository, filename, **options)

    def apply(self, pretrained: AnySource) -> dict[str, torch.Tensor]:
        """The compressed model: kept entries over the pre-trained values, and the head.

        Args:
            pretrained: the base, as in `extract`; what it has besides the body is not looked at.

        Returns:
            Full state dict of new tensors, named as in the fine-tuned model; tied names share one tensor.

        Raises:
            ValueError: the base lacks a tensor, or is not the one the sub-network was made from.
        """
        base = open_source(pretrained)
        metas = self.metas
        state = {
            name: base.tensor(other).to(metas[name].dtype, copy=True).contiguous()
            for name, other in names_in(base, metas).items()
        }
        self._check_base(state)
        for name, tensor in state.items():
            tensor.masked_scatter_(self.masks[name].to(tensor.device), self.values[name].to(tensor.device))
        state |= {name: tensor.clone() for name, tensor in self.whole.items()}
        return state | {alias: state[name] for alias, name in self.aliases.items()}

    @torch.no_grad()
    def inject(self, model: nn.Module) -> None:
        """Turn a live model with the base's values into the compressed model, in place.

        The overwritten values are kept, so that `eject` can restore them. Where another sub-network of the same base
        is in the model, only entries in which the two differ are written.

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
        found = _INJECTED.get(model)
        if found is not None and found.subnetwork is self:
            raise ValueError("this sub-network is already in the model: eject it first.")
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        self._check_model(state, found)
        old = found or _Injected(None, {}, {})
        body = {name: self._exchange(name, state[name], old) for name in self.masks}
        whole = self._exchange_whole(state, old.whole)
        _INJECTED[model] = _Injected(self, body, whole)

    def eject(self, model: nn.Module) -> None:
        """Restore what `inject` overwrote, bit for bit.

        Raises:
            ValueError: the sub-network is not in the model.
        """
        if model not in _INJECTED or _INJECTED[model].subnetwork is not self:
            raise ValueError("this sub-network is not in the model: there is nothing to eject.")
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        found = _INJECTED.pop(model)
        for name, values in found.overwritten.items():
            _put(state[name], self.places(name).to(values.device), values)
        for name, tensor in found.whole.items():
            state[name].copy_(tensor)

    @staticmethod
    def forget(model: nn.Module) -> None:
        """Take the model's present values for its own: no sub-network can be ejected any more."""
        _INJECTED.pop(model, None)

    @property
    def metas(self) -> dict[str, Meta]:
        """Body tensor -> dtype and shape."""
        return {name: Meta(self.values[name].dtype, tuple(mask.shape)) for name, mask in self.masks.items()}

    def places(self, name: str) -> torch.Tensor:
        """Row-major places of the kept entries of a tensor, int64; computed once."""
        if name not in self._places:
            self._places[name] = self.masks[name].reshape(-1).nonzero()[:, 0]
        return self._places[name]

    def _exchange(self, name: str, tensor: torch.Tensor, old: "_Injected") -> torch.Tensor:
        """Write kept entries over the base in a live tensor; returns the pre-trained values at their places.

        Args:
            tensor: the base, or the base with what `old` has put there. Of two sub-networks with much in common, as the
                neighbours of a grid of k have, only entries that change are written.
        """
        places, values = self.places(name).to(tensor.device), self.values[name].to(tensor.device)
        if old.subnetwork is not None:
            before, old_base = old.subnetwork, old.overwritten[name]
            old_places = before.places(name).to(tensor.device)
            stays = self.masks[name].to(tensor.device).take(old_places)
            if 2 * int(stays.sum()) > len(old_places):
                return self._exchange_changed(name, tensor, before, old_base, old_places, stays)
            _put(tensor, old_places, old_base)
        base = tensor.take(places)
        _put(tensor, places, values)
        return base

    def _exchange_changed(self, name, tensor, before: "Subnetwork", old_base, old_places, stays) -> torch.Tensor:
        """`_exchange` of entries that differ; `stays` tells which of the old places are places of this one too."""
        places, values = self.places(name).to(tensor.device), self.values[name].to(tensor.device)
        was_there = before.masks[name].to(tensor.device).take(places)
        gone, kept = ((~stays).nonzero()[:, 0], stays.nonzero()[:, 0])
        new, common = ((~was_there).nonzero()[:, 0], was_there.nonzero()[:, 0])
        _put(tensor, old_places.take(gone), old_base.take(gone))
        base = torch.empty_like(values)
        base.index_copy_(0, new, tensor.take(places.take(new)))
        base.index_copy_(0, common, old_base.take(kept))
        differ = _bits(before.values[name].to(tensor.device).take(kept)) != _bits(values.take(common))
        for changed in (new, common.masked_select(differ)):
            _put(tensor, places.take(changed), values.take(changed))
        return base

    def _check_base(self, base: Tensors) -> None:
        fingerprint = Fingerprint()
        for name in self.masks:
            meta = Meta(base[name].dtype, tuple(base[name].shape))
            for place in meta.blocks():
                fingerprint.update(name, meta, selection.as_rows(base[name])[place])
        check_fingerprint(fingerprint, self.base)

    def _check_model(self, state: Tensors, found: "_Injected | None") -> None:
        for name, tensor in self.whole.items():
            if name not in state or state[name].shape != tensor.shape:
                shape = tuple(state[name].shape) if name in state else "none"
                raise ValueError(
                    f"the model needs a tensor {name!r} of {tuple(tensor.shape)}, found {shape}: "
                    "build it with the head the sub-network was trained with."
                )
        places: dict[int, str] = {}
        for name in (*self.masks, *self.whole):
            if name in state and state[name].numel():
                other = places.setdefault(state[name].data_ptr(), name)
                if other != name:
                    raise ValueError(
                        f"{other!r} and {name!r} are tied in the model only, not in the sub-network: untie."
                    )
        if found is not None:
            if found.subnetwork.base != self.base:
                raise ValueError("the model holds a sub-network of another base: eject that one first.")
            return
        if missing := [name for name in self.masks if name not in state]:
            raise ValueError(f"the base lacks tensor {missing[0]!r}: give the model the sub-network was made from.")
        self._check_base(state)

    def _exchange_whole(self, state: Tensors, old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Write head, buffers and names that are tied here but not in the model; returns what they replace."""
        untied = {
            alias: state[name]
            for alias, name in self.aliases.items()
            if alias in state and state[alias].data_ptr() != state[name].data_ptr()
        }
        for name in old.keys() - self.whole.keys() - untied.keys():
            state[name].copy_(old[name])
        replaced = {}
        for name, tensor in (self.whole | untied).items():
            replaced[name] = old[name] if name in old else state[name].clone()
            state[name].copy_(tensor)
        return replaced


@dataclass(frozen=True)
class _Injected:
    """What is in a model: the sub-network and the values that it overwrote, of the body by its masks."""

    subnetwork: Subnetwork | None
    overwritten: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]


_INJECTED: weakref.WeakKeyDictionary[nn.Module, _Injected] = weakref.WeakKeyDictionary()


def check_fingerprint(found: Fingerprint, expected: str) -> None:
    """Refuse a base that is not the one a sub-network was made from.

    Raises:
        ValueError: the fingerprints differ.
    """
    if (digest := found.hexdigest()) != expected:
        raise ValueError(
            f"the base has fingerprint {digest[:12]}, expected {expected[:12]}: give the pre-trained values the "
            "sub-network was made from."
        )


def _collected(blocks: Iterable[KeptBlock]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Masks and values of whole tensors."""
    masks: dict[str, list[torch.Tensor]] = {}
    values: dict[str, list[torch.Tensor]] = {}
    metas: dict[str, Meta] = {}
    for block in blocks:
        metas[block.name] = block.meta
        masks.setdefault(block.name, []).append(block.mask)
        values.setdefault(block.name, []).append(block.values)
    whole_masks = {name: torch.cat(parts).reshape(metas[name].shape) for name, parts in masks.items()}
    return whole_masks, {name: torch.cat(parts) for name, parts in values.items()}


def _put(tensor: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> None:
    """Write entries at row-major places of a live tensor."""
    flat = tensor.reshape(-1)
    flat.index_copy_(0, places, values)
    if flat.data_ptr() != tensor.data_ptr():  # no view: the tensor is not contiguous
        tensor.copy_(flat.view(tensor.shape))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The entries as whole numbers of their width, so that NaN equals itself and -0.0 is not 0.0."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])
