"""Kronecker factors of linear layers: damping, inverses, and factors of a whole model in memory or in a file."""

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Factors:
    """A linear layer's empirical Fisher matrix as a Kronecker product, F ≈ G ⊗ A, or the inverses of both.

    Attributes:
        g: (rows, rows), of the gradients of the loss with respect to the layer's outputs.
        a: (inputs, inputs), of its inputs: the columns of the weight, and a constant one if there is a bias.
    """

    g: torch.Tensor
    a: torch.Tensor

    def damped(self, g: float, a: float) -> "Factors":
        """Both factors with a multiple of the mean of their diagonal added to the diagonal.

        A factor of zeros, of a layer without influence on the loss, becomes that multiple of the identity.
        """
        return Factors(damp_(self.g.clone(), g), damp_(self.a.clone(), a))

    def inverses(self) -> "Factors":
        """G⁻¹ and A⁻¹ in float64.

        Raises:
            ValueError: a factor is not positive definite.
        """
        return Factors(inverse(self.g), inverse(self.a))

    def to(self, dtype: torch.dtype) -> "Factors":
        """Both in another precision."""
        return Factors(self.g.to(dtype), self.a.to(dtype))


def damp_(factor: torch.Tensor, damping: float) -> torch.Tensor:
    """Add a multiple of the mean of a factor's diagonal to its diagonal, in place."""
    mean = factor.diagonal().mean()
    factor.diagonal().add_(damping * (mean if mean > 0 else 1.0))
    return factor


def inverse(factor: torch.Tensor) -> torch.Tensor:
    """The inverse of a damped factor in float64: its condition number may exceed the precision of float32.

    Raises:
        ValueError: the factor is not positive definite.
    """
    return torch.cholesky_inverse(cholesky(factor.double()))


def cholesky(factor: torch.Tensor) -> torch.Tensor:
    """The lower triangle L of a factor L Lᵀ.

    Raises:
        ValueError: the factor is not positive definite.
    """
    triangle, failed = torch.linalg.cholesky_ex(factor)
    if failed or not factor.isfinite().all():
        raise ValueError("a factor of the curvature is not positive definite: choose a larger damping.")
    return triangle


class FactorStore(Mapping[str, Factors]):
    """Factors of many layers on the host, in memory or in a file. Layers with the same inputs share one A.

    The file has no name, so its space is free as soon as the process ends. It is in the folder for temporary files
    (the variable TMPDIR).

    Args:
        source_of: layer -> the layer under whose name its A is held, in the order of the layers.
        in_file: whether to hold the factors in a file.
    """

    def __init__(self, source_of: dict[str, str], in_file: bool = False):
        self.source_of = source_of
        self._held: dict[tuple[str, str], torch.Tensor | tuple[int, torch.Size, np.dtype]] = {}
        self._file = None
        if in_file:
            self._file = tempfile.TemporaryFile(prefix="factors-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def put(self, layer: str, side: str, factor: torch.Tensor) -> None:
        """Hold the factor "g" or "a" of a layer."""
        factor = factor.cpu()
        if self._file is None:
            self._held[layer, side] = factor
            return
        array = factor.numpy()
        self._held[layer, side] = (self._file.seek(0, 2), factor.shape, array.dtype)
        array.tofile(self._file)

    def factor(self, layer: str, side: str) -> torch.Tensor:
        """The factor "g" or "a" of a layer, read from the file if there is one."""
        held = self._held[self.source_of[layer] if side == "a" else layer, side]
        if isinstance(held, torch.Tensor):
            return held
        offset, shape, dtype = held
        self._file.seek(offset)
        return torch.from_numpy(np.fromfile(self._file, dtype, shape.numel())).view(shape)

    def __getitem__(self, layer: str) -> Factors:
        return Factors(self.factor(layer, "g"), self.factor(layer, "a"))

    def __iter__(self) -> Iterator[str]:
        return iter(self.source_of)

    def __len__(self) -> int:
        return len(self.source_of)
