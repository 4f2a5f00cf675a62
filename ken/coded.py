"""A sub-network with updates in few bits: its bytes in memory, decoded when its base is at hand."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from ken import injection
from ken.any_subnetwork import AnySubnetwork
from ken.files import replacing
from ken.pairing import opened_base
from ken.sources import AnySource, Fingerprint
from ken.storage.coded import CodedReader
from ken.tensors import TensorSpec, as_rows
from ken.vocabulary import hint_on_new_rows
from ken.wrappers import live_tensors, unwrapped

T = TypeVar("T", bound=injection.Injectable)


class CodedSubnetwork(AnySubnetwork, Generic[T]):
    """What `Subnetwork.load` returns for a file of format 2 (`ken.prune` with values of 16 bits or fewer).

    It holds the bytes of the file. Positions may depend on the base, so entries are decoded against it.

    Attributes:
        specs: body tensor -> dtype and shape.
        aliases: name -> name of the tensor it is tied to.
        base: fingerprint of the pre-trained values.
        method, k, rule, scope: how the entries were chosen.
        values, positions, seed: how they are stored.
        config: config.json of the fine-tuned model where it is known.
    """

    def __init__(self, reader: CodedReader, decoded: Callable[..., T]):
        """Read a file into memory; `decoded` is `Subnetwork`, which this module cannot import."""
        self._reader, self._decoded_class = reader, decoded
        self._bytes = reader.load()
        self.specs: dict[str, TensorSpec] = reader.body
        self.aliases, self.config = reader.aliases, reader.config
        self.method, self.k, self.rule, self.scope, self.base = reader.settings.values()
        self.values, self.positions, self.seed = reader.coding.values()
        self._decoded: weakref.WeakKeyDictionary[nn.Module, T] = weakref.WeakKeyDictionary()

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Body tensor -> (kept entries, all entries)."""
        return {name: (self._reader.tensors[name].kept, spec.size) for name, spec in self.specs.items()}

    @property
    def whole(self) -> dict[str, torch.Tensor]:
        """Tensors without a pre-trained value (the head) and integer buffers."""
        return {name: self._reader.whole(name) for name in self._reader.tensors if name not in self.specs}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        with replacing(Path(path)) as temporary:
            Path(temporary).write_bytes(self._bytes)

    def decode(self, pretrained: AnySource) -> T:
        """The kept entries with their restored values.

        Args:
            pretrained: the base, as in `Subnetwork.extract`.

        Raises:
            ValueError: the base lacks a tensor, is not the one the sub-network was made from, or gives other positions
                on this machine.
        """
        base, names = opened_base(pretrained, self.specs)
        masks, values, fingerprint = {}, {}, Fingerprint()
        for name, base_name in names.items():
            spec = self.specs[name]
            masks[name] = torch.zeros(spec.shape, dtype=torch.bool)
            flat, parts = masks[name].view(-1), []
            for start, rows, indices, updates in self._blocks(name, base, base_name, fingerprint):
                kept = (rows.view(-1)[indices].float() + updates).to(spec.dtype)
                flat[start + indices] = True
                parts.append(kept[indices.argsort()] if indices.diff().lt(0).any() else kept)
            values[name] = torch.cat(parts) if parts else torch.empty(0, dtype=spec.dtype)
        fingerprint.check(self.base, hint_on_new_rows(self.counts))
        return self._decoded_class(
            masks, values, self.whole, self.aliases, self.base, self.method, self.k, self.rule, self.scope, self.config
        )

    def _blocks(
        self, name: str, base: AnySource, base_name: str, fingerprint: Fingerprint
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of every block: its first entry, its pre-trained rows, and indices and updates of its kept entries."""
        spec = self.specs[name]
        for number, block in enumerate(spec.blocks()):
            rows = base.rows(base_name, block).to("cpu", spec.dtype).contiguous()
            if (new := self._reader.new_rows(name, number)).numel():  # a live model may hold anything there
                rows = rows.index_fill(0, new, 0)
            fingerprint.update(name, spec, rows)
            decoded = list(self._reader.updates(name, number, rows))
            if decoded:
                indices, updates = (torch.cat(parts) for parts in zip(*decoded, strict=True))
                yield block.start * spec.row_shape[1], rows, indices, updates

    def apply(self, pretrained: AnySource) -> dict[str, torch.Tensor]:
        """See `Subnetwork.apply`."""
        base, names = opened_base(pretrained, self.specs)
        state, fingerprint = {}, Fingerprint()
        for name, base_name in names.items():
            spec = self.specs[name]
            state[name] = base.tensor(base_name).to("cpu", spec.dtype, copy=True).contiguous()
            rows = as_rows(state[name])

            def hashed(block: slice, name=name, spec=spec, rows=rows) -> torch.Tensor:
                fingerprint.update(name, spec, rows[block])
                return rows[block]

            for _ in self._reader.restored(name, hashed):
                pass  # rows are a view of the tensor
        fingerprint.check(self.base)
        state |= self.whole
        return state | {alias: state[name] for alias, name in self.aliases.items()}

    def inject(self, model: nn.Module) -> None:
        """See `Subnetwork.inject`. A sub-network that is in the model is ejected first."""
        injection.eject_any(model)
        inner = unwrapped(model)
        self._decoded[inner] = decoded = self.decode(live_tensors(inner))
        decoded.inject(model)

    def eject(self, model: nn.Module) -> None:
        """See `Subnetwork.eject`."""
        decoded = self._decoded.pop(unwrapped(model), None)
        if decoded is None:
            raise ValueError("this sub-network is not in the model: there is nothing to eject.")
        decoded.eject(model)
