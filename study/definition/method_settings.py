"""Settings of a method, from its section under `method_settings` in a config: how it is run, and its options."""

from collections.abc import Mapping, Sequence

from baselines import METHODS, Method
from baselines.scale_factor import FactorOnValidation
from baselines.training import TrainedMethod

RUN_KEYS = ("budgets", "draws", "rate_factors")  # all other keys are options of the method


def budgets(
    method: Method, section: Mapping, kept_shares: Sequence[float | int], of_task: Sequence[float | int] | None = None
) -> list[float | int]:
    """Budgets of a method: those of its section, else the method's defaults, else the study's kept shares.

    Args:
        of_task: the kept shares of a task, to which methods that keep a part of each row and do not train are limited.
    """
    listed = list(section.get("budgets") or method.budgets or kept_shares)
    if of_task is None or not _keeps_shares(method):
        return listed
    return [budget for budget in listed if budget in of_task]


def _keeps_shares(method: Method) -> bool:
    return method.unit == "share" and method.family != "control" and not isinstance(method, TrainedMethod)


def budgets_in(config: Mapping, method: Method, task: str) -> list[float | int]:
    """`budgets` of a method on a task of a study's config."""
    section, of_task = config["method_settings"].get(method.name, {}), config["tasks"][task].get("kept_shares")
    return budgets(method, section, config["kept_shares"], of_task)


def draws(method: Method, section: Mapping, draws: int) -> int:
    """Number of draws of a method: 1 if nothing is random, else that of its section, else the study's `draws`."""
    return section.get("draws", draws) if method.stochastic else 1


def learning_rate_multipliers(method: Method, section: Mapping) -> tuple[float, ...]:
    """Learning rates that a method tries, as multiples of the fine-tuning's; none if it does not train."""
    if not isinstance(method, TrainedMethod):
        return ()
    return tuple(section.get("rate_factors") or method.learning_rate_multipliers)


def searched(method: Method, section: Mapping) -> dict[str, list[float]]:
    """Constants that a method chooses on validation in every cell, with the values that it tries.

    Learning rates are multiples of the fine-tuning's. A constant with one value is not chosen.
    """
    constants = {"learning rate": list(learning_rate_multipliers(method, section))}
    if isinstance(method, FactorOnValidation):
        constants["factor"] = list(method.configured(options(section)).factors)
    return {name: values for name, values in constants.items() if values}


def options(section: Mapping) -> dict:
    """Options of the method itself."""
    return {key: value for key, value in section.items() if key not in RUN_KEYS}


def by_training(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split names of methods into those that do not train and those that do."""
    trained = [name for name in names if isinstance(METHODS[name], TrainedMethod)]
    return [name for name in names if name not in trained], trained
