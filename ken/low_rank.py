"""Low-rank approximations of the updates of matrices, in 16 bits: the arithmetic of `svd` and of exported adapters."""

from dataclasses import dataclass

import torch

from ken.tensors import as_rows, row_blocks

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Spectrum:
    """Singular values (m,) of a matrix, largest first, and (m, m) singular vectors of its shorter side, as columns."""

    values: torch.Tensor
    vectors: torch.Tensor


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """The spectrum of a float32 matrix, from the eigenvalues of its Gram matrix in float64.

    This needs little memory for the embedding of a large vocabulary. Singular values below 1e-8 of the largest are
    noise, which is far below what the 16 bits of a factor resolve.
    """
    tall = _tall(matrix)
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for block in row_blocks(*tall.shape):
        rows = tall[block].double()
        gram.addmm_(rows.T, rows)
    values, vectors = torch.linalg.eigh(gram)
    return Spectrum(values.flip(0).clamp(min=0).sqrt().float(), vectors.flip(1).float())


def factors(matrix: torch.Tensor, rank: int, known: Spectrum | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of a float32 matrix by a product of lower rank (Eckart and Young 1936).

    Args:
        matrix: (rows, n).
        rank: reduced to the shorter side of the matrix if it is larger.
        known: `spectrum` of the matrix, if known.

    Returns:
        left (rows, rank) and right (rank, n), each with the square roots of the singular values.
    """
    short = (known or spectrum(matrix)).vectors[:, :rank]
    long = _tall(matrix) @ short
    roots = long.norm(dim=0).sqrt()
    long, short = long / roots.clamp(min=TINY), short * roots
    return (long, short.T) if matrix.shape[0] >= matrix.shape[1] else (short, long.T)


def _tall(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def half_factors(
    matrix: torch.Tensor, rank: int, known: Spectrum | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`factors` in float16, and float32 scales (rank,): the matrix is about `(left.float() * scales) @ right.float()`.

    The largest entry of each column of left and of each row of right is 1.
    """
    left, right = factors(matrix, rank, known)
    tops = [factor.abs().amax(dim=dim, keepdim=True) for dim, factor in enumerate((left, right))]
    units = [top.clamp(min=TINY) for top in tops]
    return (left / units[0]).half(), (right / units[1]).half(), (tops[0] * tops[1].T).view(-1)


def halves(update: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An update in float16 and its unit, the largest entry, so that no small one underflows; not zero everywhere."""
    unit = update.abs().max()
    return (update / unit).half(), unit


def has_fewer(rows: int, n: int, rank: int) -> bool:
    """Whether factors have fewer entries than the matrix."""
    return min(rank, rows, n) * (rows + n) < rows * n


def update_of(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor | None:
    """W - W0 in float32, or None if the tensor must be stored in full."""
    if not base.is_floating_point():
        return None
    wide = torch.promote_types(base.dtype, torch.float32)
    update = (tensor.to(wide) - base.to(wide)).float()
    return update if update.isfinite().all() else None


def add_update(base: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """W0 + an update with as many entries, computed in float32 (float64 for a base of that dtype)."""
    wide = torch.promote_types(base.dtype, torch.float32)
    return (base.to(wide) + update.view(base.shape)).to(base.dtype)


def approximated(update: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
    """What the method `svd` restores of an update that is not zero everywhere, in float32.

    Returns:
        Of a vector, the update in 16 bits. Otherwise factors (rows, r) and (r, n), where r is at most the rank; or, if
        factors would have no fewer entries than the matrix, the identity and the update in 16 bits.
    """
    if update.ndim < 2:
        values, unit = halves(update)
        return values.float() * unit
    rows = as_rows(update)
    changed = rows.any(dim=1)
    part = rows[changed]
    if has_fewer(*part.shape, rank):
        left, right, scales = half_factors(part, rank)
        left, right = left.float() * scales, right.float()
    else:
        values, unit = halves(part)
        dense, identity = values.float() * unit, torch.eye(min(part.shape))
        left, right = (dense, identity) if part.shape[0] >= part.shape[1] else (identity, dense)
    if changed.all():
        return left, right
    every = torch.zeros(len(rows), left.shape[1])
    every[changed] = left
    return every, right
