"""What has to be stored of a fine-tuned model: the kept entries, where they are, and the head.

The file is one safetensors file. All kept values of a dtype stand in one tensor and all positions in another, so that a
small model's file is not mostly header. Positions are a bit mask or the gaps between kept columns, whichever is smaller
after zstandard; a tensor kept whole needs none.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ken import selection

FORMAT = "ken-subnetwork-1"
RULES = ("reset", "rescale")
SCOPES = ("all", "layers")
Tensors = Mapping[str, torch.Tensor]


def fingerprint(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def tensors_of(model: torch.nn.Module | Tensors) -> dict[str, torch.Tensor]:
    """State of a module, or the mapping itself as a dict; a tensor tied under several names is taken once."""
    if not isinstance(model, torch.nn.Module):
        return dict(model)
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *_kept_buffers(model))}


@dataclass
class Subnetwork:
    """A fine-tuned model as what differs from its pre-trained body.

    Attributes:
        masks: body tensor -> bool mask of its kept entries.
        values: body tensor -> its kept values, row by row.
        head: tensors without a pre-trained value, in full.
        base: fingerprint of the pre-trained body.
        method, k, rule, scope: how the entries were chosen and what is done with their updates.
    """

    masks: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    head: dict[str, torch.Tensor]
    base: str
    method: str = "ken"
    k: int | float | None = None
    rule: str = "reset"
    scope: str = "all"
    _ejected: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def extract(
        cls,
        pretrained: torch.nn.Module | Tensors,
        finetuned: torch.nn.Module | Tensors,
        k: int | float,
        method: str | selection.Criterion = "ken",
        scope: str = "all",
        rule: str = "reset",
        seed: int | None = None,
    ) -> "Subnetwork":
        """Choose k entries of every row and take what has to be stored.

        Args:
            pretrained: the body; a parameter of `finetuned` that it lacks is head and is kept in full.
            finetuned: the fine-tuned model.
            k: entries kept in every row, a number or a fraction.
            method: name of a criterion (`ken.selection.CRITERIA`) or a function.
            scope: "all", or "layers": only tensors whose name contains a digit are pruned, all others kept whole.
            rule: "reset" keeps fine-tuned values; "rescale" keeps W0 + (n / kept) * (W - W0).
            seed: for methods that draw at random.

        Raises:
            ValueError: names or shapes do not fit, values are not finite, k out of range, unknown method or rule.
        """
        pretrained, finetuned = tensors_of(pretrained), tensors_of(finetuned)
        ranks = selection.rank_tensors(finetuned, pretrained, method, seed)
        name = method if isinstance(method, str) else method.__name__
        return cls.from_ranks(pretrained, finetuned, ranks, k, name, rule, scope)

    @classmethod
    def from_ranks(
        cls,
        pretrained: Tensors,
        finetuned: Tensors,
        ranks: Tensors,
        k: int | float,
        method: str = "ken",
        rule: str = "reset",
        scope: str = "all",
    ) -> "Subnetwork":
        """The sub-network at k from ranks that serve every k (`ken.selection.rank_tensors`)."""
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope!r}: choose {' or '.join(map(repr, SCOPES))}.")
        masks = {name: selection.kept_mask(ranks[name], k) for name in pretrained}
        if scope == "layers":
            for name in masks:
                if not any(character.isdigit() for character in name):
                    masks[name] = torch.ones_like(masks[name])
        return cls.from_masks(pretrained, finetuned, masks, k, method, rule, scope)

    @classmethod
    def from_masks(
        cls,
        pretrained: Tensors,
        finetuned: Tensors,
        masks: Tensors,
        k: int | float | None = None,
        method: str = "ken",
        rule: str = "reset",
        scope: str = "all",
    ) -> "Subnetwork":
        """The sub-network of the entries that the masks keep; a body tensor without a mask is an error."""
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: choose {' or '.join(map(repr, RULES))}.")
        selection.check_names(finetuned, pretrained)
        values = {}
        for name, base in pretrained.items():
            tuned = finetuned[name]
            if tuned.shape != base.shape or masks[name].shape != base.shape:
                raise ValueError(
                    f"tensor {name}: fine-tuned {tuple(tuned.shape)}, pre-trained {tuple(base.shape)} and mask "
                    f"{tuple(masks[name].shape)} differ in shape."
                )
            kept = _rescaled(base, tuned, masks[name]) if rule == "rescale" else tuned
            values[name] = kept[masks[name]]
        head = {name: tensor.clone() for name, tensor in finetuned.items() if name not in pretrained}
        masks = {name: masks[name] for name in pretrained}
        return cls(masks, values, head, fingerprint(pretrained), method, k, rule, scope)

    @property
    def kept_body(self) -> int:
        """Kept entries of the body."""
        return sum(values.numel() for values in self.values.values())

    @property
    def total_body(self) -> int:
        """Entries of the body."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def kept_share(self) -> float:
        """Kept share of the body, 0 to 1."""
        return self.kept_body / self.total_body

    @property
    def head_size(self) -> int:
        """Entries of the head, always kept."""
        return sum(tensor.numel() for tensor in self.head.values())

    def apply(self, pretrained: torch.nn.Module | Tensors) -> dict[str, torch.Tensor]:
        """The compressed model's state: body with the kept values put in, and head; the base is not touched.

        Raises:
            ValueError: this is not the base the sub-network was taken from.
        """
        base = tensors_of(pretrained)
        if (found := fingerprint(base)) != self.base:
            raise ValueError(
                f"the sub-network belongs to another pre-trained model (fingerprint {self.base[:12]}, this one has "
                f"{found[:12]}): load the base it was made from."
            )
        state = {name: tensor.clone() for name, tensor in base.items()}
        for name, mask in self.masks.items():
            state[name][mask.to(state[name].device)] = self.values[name].to(state[name].device)
        return state | {name: tensor.clone() for name, tensor in self.head.items()}

    def inject(self, model: torch.nn.Module) -> None:
        """Put the kept values and the head into a live model whose body is the pre-trained base."""
        live = tensors_of(model)
        base = {name: live[name] for name in self.masks if name in live}
        state = self.apply(base)
        self._ejected = {name: live[name].clone() for name in state if name in live}
        _copy(state, live)

    def eject(self, model: torch.nn.Module) -> None:
        """Give a model that `inject` changed its former values back, bit for bit.

        Raises:
            ValueError: nothing has been injected.
        """
        if not self._ejected:
            raise ValueError("this sub-network has not been injected into a model: call inject first.")
        _copy(self._ejected, tensors_of(model))
        self._ejected = {}

    def save(self, path: str | Path) -> None:
        """Write the sub-network as one safetensors file, under a temporary name first."""
        path = Path(path)
        entries, blob, values = [], bytearray(), {}
        for name, mask in self.masks.items():
            coding, coded = _code(mask)
            blob += coded
            dtype = str(self.values[name].dtype).removeprefix("torch.")
            values.setdefault(dtype, []).append(self.values[name])
            entries.append([name, list(mask.shape), dtype, self.values[name].numel(), coding, len(coded)])
        tensors = {f"values.{dtype}": torch.cat(parts) for dtype, parts in values.items()}
        tensors["positions"] = torch.frombuffer(blob or bytearray(1), dtype=torch.uint8)
        tensors |= {f"head.{name}": tensor.contiguous() for name, tensor in self.head.items()}
        info = {
            "method": self.method, "k": self.k, "rule": self.rule, "scope": self.scope, "base": self.base,
            "torch": torch.__version__, "tensors": entries, "payload": fingerprint(tensors),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            metadata = {"format": FORMAT, "subnetwork": json.dumps(info, separators=(",", ":"))}
            save_file(tensors, temporary, metadata=metadata)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file of `save`.

        Raises:
            ValueError: not a sub-network file, truncated, or changed since it was written.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist.") from None
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is truncated or not a safetensors file ({error}): get it again.") from None
        if metadata.get("format") != FORMAT:
            found = metadata.get("format", "no format")
            raise ValueError(f"{path} is not a sub-network file of this version: found {found}, expected {FORMAT}.")
        info = json.loads(metadata["subnetwork"])
        if fingerprint(tensors) != info["payload"]:
            raise ValueError(f"{path} was changed after it was written (checksum differs): get it again.")
        blob, used = tensors["positions"].numpy().tobytes(), 0
        rest = {dtype.removeprefix("values."): t for dtype, t in tensors.items() if dtype.startswith("values.")}
        masks, values = {}, {}
        for name, shape, dtype, count, coding, length in info["tensors"]:
            masks[name] = _decode(blob[used : used + length], coding, shape)
            values[name], rest[dtype] = rest[dtype][:count], rest[dtype][count:]
            used += length
        head = {key.removeprefix("head."): t for key, t in tensors.items() if key.startswith("head.")}
        return cls(masks, values, head, *(info[key] for key in ("base", "method", "k", "rule", "scope")))


def _kept_buffers(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    persistent = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in persistent]


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def _rescaled(base: torch.Tensor, tuned: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """W0 + (n / kept) * (W - W0), n and kept of each row, computed in float32."""
    rows = selection.as_rows(mask)
    factor = (rows.shape[1] / rows.sum(dim=1, keepdim=True).clamp(min=1)).float()
    start, end = selection.as_rows(base).float(), selection.as_rows(tuned).float()
    return (start + factor * (end - start)).to(tuned.dtype).reshape(tuned.shape)


def _copy(source: Tensors, target: Tensors) -> None:
    with torch.no_grad():
        for name, tensor in source.items():
            if name not in target:
                raise ValueError(f"the model has no parameter {name}: build it with the head of this task.")
            target[name].copy_(tensor)


def _code(mask: torch.Tensor) -> tuple[str, bytes]:
    """Positions of a mask in the smallest of the codings "all", "none", "bits", "gaps"."""
    flat = mask.reshape(-1).cpu().numpy()
    if flat.all():
        return "all", b""
    if not flat.any():
        return "none", b""
    compressor = zstandard.ZstdCompressor(level=9)
    bits = compressor.compress(np.packbits(flat).tobytes())
    # Gaps in base 255: a gap of 255 or more is written as 255s and a rest.
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    long = gaps // 255
    units = np.full(len(gaps) + int(long.sum()), 255, dtype=np.uint8)
    units[np.cumsum(long + 1) - 1] = gaps % 255
    coded = compressor.compress(units.tobytes())
    return ("bits", bits) if len(bits) <= len(coded) else ("gaps", coded)


def _decode(coded: bytes, coding: str, shape: list[int]) -> torch.Tensor:
    size = int(np.prod(shape, dtype=np.int64))
    if coding in ("all", "none"):
        return torch.full(shape, coding == "all")
    raw = np.frombuffer(zstandard.ZstdDecompressor().decompress(coded), dtype=np.uint8)
    if coding == "bits":
        return torch.from_numpy(np.unpackbits(raw, count=size).astype(bool)).reshape(shape)
    ends = np.flatnonzero(raw != 255)
    total = np.cumsum(raw, dtype=np.int64)[ends]
    mask = np.zeros(size, dtype=bool)
    mask[total + np.arange(len(ends))] = True
    return torch.from_numpy(mask).reshape(shape)
