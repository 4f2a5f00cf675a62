"""Every method KEN is compared with, one module each; importing the package registers all of them.

A new method is a new module here, nothing else: see `baselines.base.keep_highest`.
"""

import importlib
import pkgutil

from baselines.base import METHODS, Cell, Method, keep_highest, register
from baselines.source import MODULES, source_hash
from baselines.training import TrainedMethod

for _module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    _known = set(METHODS)
    importlib.import_module(f"{__name__}.{_module}")
    MODULES.update(dict.fromkeys(METHODS.keys() - _known, f"{__name__}.{_module}"))

__all__ = ["METHODS", "Cell", "Method", "TrainedMethod", "keep_highest", "register", "source_hash"]
