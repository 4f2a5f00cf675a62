"""KENviz: the positions of kept entries in a weight matrix, as pictures and as a page to explore (KEN paper, KENviz).

Names are imported at first use, as in `ken`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ken.viz.explorer import write_page
    from ken.viz.matrix_kinds import choose_kind, kinds
    from ken.viz.neighbours import expected_neighbours, neighbour_counts
    from ken.viz.pictures import draw_layers, draw_matrix, save

__all__ = [
    "choose_kind",
    "draw_layers",
    "draw_matrix",
    "expected_neighbours",
    "kinds",
    "neighbour_counts",
    "save",
    "write_page",
]

_MODULES = {
    "choose_kind": "ken.viz.matrix_kinds",
    "draw_layers": "ken.viz.pictures",
    "draw_matrix": "ken.viz.pictures",
    "expected_neighbours": "ken.viz.neighbours",
    "kinds": "ken.viz.matrix_kinds",
    "neighbour_counts": "ken.viz.neighbours",
    "save": "ken.viz.pictures",
    "write_page": "ken.viz.explorer",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ken.viz' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
