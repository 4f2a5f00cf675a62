"""KEN: keep part of a fine-tuned transformer and reset the rest to its pre-trained values.

The package has density estimates (`kde`), selections (`selection`), the sub-network to store (`Subnetwork`), and the
same from disk to disk for models of any size (`prune`, `inject`), and folders of many sub-networks (`Library`).
Source: M. Mastromattei, F. M. Zanzotto, "Less is KEN", Findings of ACL 2024, arXiv 2402.03142.

Names are imported at first use, so that a module without torch, such as `ken.files`, loads without it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ken import kde, selection
    from ken.library import Library
    from ken.selection import rank, select
    from ken.sources import fingerprint
    from ken.streaming import inject, prune
    from ken.subnetwork import Subnetwork
    from ken.suggestion import suggest

__all__ = ["Library", "Subnetwork", "fingerprint", "inject", "kde", "prune", "rank", "select", "selection", "suggest"]

_MODULES = {
    "Library": "ken.library",
    "Subnetwork": "ken.subnetwork",
    "fingerprint": "ken.sources",
    "inject": "ken.streaming",
    "prune": "ken.streaming",
    "rank": "ken.selection",
    "select": "ken.selection",
    "suggest": "ken.suggestion",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in __all__:  # a module
        return importlib.import_module(f"ken.{name}")
    raise AttributeError(f"module 'ken' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
