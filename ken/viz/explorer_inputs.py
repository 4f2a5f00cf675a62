"""Inputs of an explorer page: sub-networks, their base, and the fine-tuned model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ken.pairing import Pair, opened_base
from ken.sources import AnySource, Fingerprint, Source, open_source
from ken.storage import open_reader
from ken.storage.exact import Reader
from ken.tensors import as_rows


@dataclass(frozen=True)
class Inputs:
    """Inputs of an explorer page.

    Attributes:
        readers: files of sub-networks, all of one base.
        base: the pre-trained values, or None.
        names: body tensor -> its name in the base.
        pair: the base with the fine-tuned model, or None.
    """

    readers: list[Reader]
    base: Source | None
    names: dict[str, str]
    pair: Pair | None

    @classmethod
    def open(
        cls, subnetworks: Sequence[Path], pretrained: AnySource | None = None, finetuned: AnySource | None = None
    ) -> "Inputs":
        """Open files and models, and check that they belong together.

        Raises:
            ValueError: a file is not a sub-network, or has another base than the others or than `pretrained`; there is
                a fine-tuned model without a base; or the two models differ in their tensors.
        """
        readers = [open_reader(Path(path)) for path in subnetworks]
        for reader in readers:
            if not isinstance(reader, Reader):
                raise ValueError(
                    f"{reader.path} holds updates in few bits, which a page does not show: draw it with --out, or "
                    "write it again with --values 32bit."
                )
            if reader.settings["base"] != readers[0].settings["base"]:
                raise ValueError(f"{reader.path} is of another base than {readers[0].path}: make a page for each base.")
        if pretrained is None and finetuned is not None:
            raise ValueError("updates are differences from the pre-trained model: give that with the fine-tuned one.")
        if pretrained is None:
            return cls(readers, None, {}, None)
        specs = readers[0].body
        base, names = opened_base(pretrained, specs)
        _check_base(base, names, readers[0])
        pair = None if finetuned is None else Pair.of(open_source(pretrained), open_source(finetuned))
        if pair and (missing := [name for name in specs if name not in pair.body]):
            raise ValueError(f"{pair.finetuned.label} lacks tensor {missing[0]!r}: give the model that was pruned.")
        return cls(readers, base, names, pair)

    def pretrained(self, name: str) -> torch.Tensor | None:
        """Pre-trained rows of a body tensor in the fine-tuned dtype, or None."""
        if self.base is None:
            return None
        return as_rows(self.base.tensor(self.names[name])).to(self.readers[0].body[name].dtype)

    def finetuned(self, name: str) -> torch.Tensor | None:
        """Fine-tuned rows of a body tensor, or None."""
        return as_rows(self.pair.finetuned_tensor(name)) if self.pair else None


def _check_base(base: Source, names: dict[str, str], reader: Reader) -> None:
    fingerprint = Fingerprint()
    for name, spec in reader.body.items():
        for block in spec.blocks():
            fingerprint.update(name, spec, base.rows(names[name], block).to(spec.dtype))
    fingerprint.check(reader.settings["base"])
