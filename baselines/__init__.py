"""All methods that KEN is compared with, one module each. Importing the package registers all of them.

To add a method, add a module here; see `baselines.base.keep_highest` for the shortest form.
"""

import importlib
import pkgutil

from baselines.base import METHODS, Cell, Method, keep_highest, module_of, register
from baselines.training import TrainedMethod

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Cell", "Method", "TrainedMethod", "keep_highest", "module_of", "register"]
