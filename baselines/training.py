"""Methods that train: the training that the study provides, and hooks to change it.

The training loop is that of the study. So a method has the same optimiser, number of steps, order of the data and
choice of the best epoch on validation as the fine-tuning with which it is compared.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from baselines.estimates import Effort, ModelShapes


class TrainingHooks:
    """Hooks with which a method changes the loop of fine-tuning; these change nothing."""

    def parameter_groups(self, model: nn.Module, rate: float) -> list[dict]:
        """Parameters to train, as torch's optimisers take them; `rate` is the learning rate of a group without one."""
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def penalty(self, progress: float) -> torch.Tensor | float:
        """Added to the loss of a step; `progress` is the share of the steps that are done, 0 to 1."""
        return 0.0

    def after_step(self, progress: float) -> None:
        """Called after every step of the optimiser."""

    def candidate(self, model: nn.Module, progress: float) -> nn.Module | None:
        """The model to evaluate on validation at the end of an epoch, or None if there is none yet."""
        return model


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        model: with the values of the epoch that was best on validation.
        learning_rate: peak of the learning rate.
        validation_weighted_f1: of that epoch.
        note: a sentence if the training ended early, because it diverged after that epoch.
    """

    model: nn.Module
    learning_rate: float
    validation_weighted_f1: float
    note: str = ""


class Training(ABC):
    """The fine-tuning of a cell, for methods that train or need its data.

    Attributes:
        learning_rate_multipliers: learning rates to try, in units of the fine-tuning's.
        labelled: whether its texts have labels, and thus a model a validation score.
    """

    learning_rate_multipliers: tuple[float, ...]
    labelled: bool = True

    @abstractmethod
    def initial_model(self) -> nn.Module:
        """A new model in the initial state: the pre-trained body and the untrained head of this cell."""

    @abstractmethod
    def fit(self, model: nn.Module, hooks: TrainingHooks, learning_rate_multiplier: float) -> Fitted:
        """Train a model. Random numbers come from torch's seed; the order of the data is the cell's.

        Raises:
            FloatingPointError: the training diverged before its first evaluation.
        """

    @abstractmethod
    def validation_score(self, model: nn.Module) -> float:
        """Weighted F1 of a model on the validation texts, which must be `labelled`."""

    @abstractmethod
    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """One pass over the training set in its stored order, as batches of input_ids, attention_mask and labels."""


class TrainedMethod:
    """Mixin for a `Method` that trains: it tries several learning rates and keeps the best on validation.

    Attributes:
        learning_rate_multipliers: learning rates to try if a config names none, in units of the fine-tuning's.
        step_cost: estimated time of a training step, in units of the fine-tuning's.
    """

    family = "trained"
    needs_data = True
    learning_rate_multipliers: tuple[float, ...] = (1.0,)
    step_cost: float = 1.0

    def best_fit(self, training: Training, seed: int, build: Callable[[], tuple[nn.Module, TrainingHooks]]) -> Fitted:
        """Train a new `build()` -> (model, hooks) at every learning rate, from the same seed; return the best fit.

        Raises:
            FloatingPointError: the training diverged at every learning rate.
        """
        best = failure = None
        for multiplier in training.learning_rate_multipliers:
            torch.manual_seed(seed)
            try:
                fitted = training.fit(*build(), multiplier)
            except FloatingPointError as error:
                print(error, flush=True)
                failure = error
                continue
            if best is None or fitted.validation_weighted_f1 > best.validation_weighted_f1:
                best = fitted
        if best is None:
            raise failure
        return best

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        """No effort besides training, since entries are not ranked."""
        return Effort()
