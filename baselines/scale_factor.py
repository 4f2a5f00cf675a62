"""A factor on the size of an approximated update, chosen on validation."""

import copy
from collections.abc import Callable
from typing import Self

from pydantic import MISSING

from baselines.base import Cell, ChosenFactor, Tensors
from baselines.estimates import Effort, ModelShapes
from baselines.options import Above0, Section, Several, optional

FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0)


class FactorOptions(Section):
    """Options of a method with a factor on its scales."""

    factors: Several[Above0] | MISSING = optional("factors on the scales that are tried on validation")


class FactorOnValidation:
    """Mixin for a `Method` whose scales are multiplied by the best of a few factors on the validation texts.

    Attributes:
        factors: to try; of equally good ones the first is used.
    """

    needs_data = True
    options_model = FactorOptions
    factors: tuple[float, ...] = FACTORS

    def configured(self, options: dict) -> Self:
        if not options:
            return self
        configured = copy.copy(self)
        configured.factors = tuple(self.options_model.model_validate(options).model_dump().get("factors", self.factors))
        return configured

    def best_factor(self, cell: Cell, restored: Callable[[float], Tensors]) -> ChosenFactor:
        """The factor whose model has the highest weighted F1 on validation.

        Args:
            restored: factor -> state of the compressed model.

        Returns:
            The first factor and no score if there is only one, or if the cell has no validation texts with labels.
        """
        best = ChosenFactor(self.factors[0])
        if len(self.factors) == 1 or cell.training is None or not cell.training.labelled:
            return best
        model = cell.training.initial_model().to(cell.device)
        for factor in self.factors:
            model.load_state_dict(restored(factor))
            score = cell.training.validation_score(model)
            if best.validation_weighted_f1 is None or score > best.validation_weighted_f1:
                best = ChosenFactor(factor, score)
        return best

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        """An evaluation on validation for every factor, since entries are not ranked."""
        return Effort(validations=budgets * len(self.factors))
