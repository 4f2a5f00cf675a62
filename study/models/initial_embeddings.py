"""Embeddings that shorten the pre-training of a small model: word vectors from counts, sinusoidal positions.

Small masked language models stay on the unigram plateau for a long time. Two things shorten that: input embeddings that
start as a truncated SVD of the PPMI co-occurrence matrix of the training text (Levy and Goldberg 2014), and sinusoidal
position embeddings (Vaswani et al. 2017).
"""

import math

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import svds
from torch import nn

WINDOW = 5  # tokens on each side that count as co-occurring


def ppmi_embeddings(ids: np.ndarray, vocabulary: int, width: int) -> torch.Tensor:
    """Word vectors from counts: truncated SVD of the positive pointwise mutual information matrix.

    Args:
        ids: token ids of the text, (n,).
        vocabulary: number of token types.
        width: dimensions of a vector, below `vocabulary`.

    Returns:
        (vocabulary, width) float32, rows centred and of length 1; rows of tokens that do not occur are zero.
    """
    counts = scipy.sparse.csr_matrix((vocabulary, vocabulary))
    for distance in range(1, WINDOW + 1):
        pairs = (ids[:-distance], ids[distance:])
        weight = np.full(len(pairs[0]), 1.0 / distance)
        counts = counts + scipy.sparse.coo_matrix((weight, pairs), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = np.asarray(counts.sum(axis=0)).ravel()
    pmi = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    ppmi = scipy.sparse.csr_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    start = np.random.default_rng(0).standard_normal(vocabulary)  # ARPACK would draw its own
    left, singular, _ = svds(ppmi, k=width, v0=start)
    vectors = left * np.sqrt(singular)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    occurs = totals > 0
    vectors[occurs] -= vectors[occurs].mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.tensor(np.where(occurs[:, None], vectors / np.maximum(norms, 1e-12), 0), dtype=torch.float32)


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Sinusoidal position vectors, (positions, width), of length 1."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width] / math.sqrt(width / 2)


@torch.no_grad()
def initialise_embeddings(body: nn.Module, ids: np.ndarray) -> None:
    """Replace a body's random embeddings by count-based word vectors and sinusoidal positions."""
    words = body.get_input_embeddings().weight
    length = body.config.initializer_range * math.sqrt(words.shape[1])
    vectors = ppmi_embeddings(ids, *words.shape) * length
    occurs = vectors.abs().sum(dim=1) > 0
    words[occurs] = vectors[occurs]
    for name, parameter in body.named_parameters():
        if name.endswith("position_embeddings.weight"):
            parameter.copy_(sinusoids(*parameter.shape) * length)
