"""What a config says of a method under `method_settings`: how it is run, and options of its own."""

from collections.abc import Mapping, Sequence

from baselines import METHODS, Method
from baselines.training import TrainedMethod

HOW = ("budgets", "draws", "rate_factors")  # what else stands there is the method's own


def budgets(method: Method, said: Mapping, kept_shares: Sequence[float | int]) -> list[float | int]:
    """What a method is asked for: what the config says of it, what it has of its own, or the kept shares."""
    return list(said.get("budgets") or method.budgets or kept_shares)


def budgets_in(config: Mapping, method: Method) -> list[float | int]:
    """`budgets` of a method in a study's config."""
    return budgets(method, config["method_settings"].get(method.name, {}), config["kept_shares"])


def draws(method: Method, said: Mapping, draws: int) -> int:
    """How often a method is run, `draws` of the config where it says nothing of a method that draws at random."""
    return said.get("draws", draws) if method.stochastic else 1


def rate_factors(method: Method, said: Mapping) -> tuple[float, ...]:
    """Learning rates that a method that trains tries, in units of the fine-tuning's; none where it does not."""
    if not isinstance(method, TrainedMethod):
        return ()
    return tuple(said.get("rate_factors") or method.rate_factors)


def options(said: Mapping) -> dict:
    """Options of the method's own."""
    return {key: value for key, value in said.items() if key not in HOW}


def by_training(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of methods that do not train, and of those that do."""
    trained = [name for name in names if isinstance(METHODS[name], TrainedMethod)]
    return [name for name in names if name not in trained], trained
