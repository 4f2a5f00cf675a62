"""Pruning a language model layer by layer, each layer for its own outputs: SparseGPT and Wanda.

Both prune a layer once, after the layers before it. They remove entries or 2:4 patterns, not rows and columns.
"""

from baselines.layerwise import sparsegpt, wanda
from baselines.layerwise.calibration import LayerMethod, prune_layers

LAYERWISE = {
    "sparsegpt": LayerMethod(sparsegpt.prune, joint=True),
    "wanda": LayerMethod(wanda.prune, joint=False),
}
"""Name -> how the method prunes one layer."""
LAYERWISE_STRUCTURES = ("element", "2:4")

__all__ = ["LAYERWISE", "LAYERWISE_STRUCTURES", "LayerMethod", "prune_layers"]
