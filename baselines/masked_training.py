"""Methods that train again and may change only a few entries of the body."""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Stored, StoredSubnetwork, Tensors, register
from baselines.estimates import Effort, ModelShapes
from baselines.magnitude import global_masks, update_magnitudes
from baselines.training import TrainedMethod, TrainingHooks


class Masked(TrainingHooks):
    """Lets gradients and weight decay change only the entries that bool masks (True = trained) select."""

    def __init__(self, model: nn.Module, masks: Tensors):
        self.masked = [
            (parameter, masks[name].to(parameter.device), parameter.detach().clone())
            for name, parameter in model.named_parameters()
            if name in masks
        ]
        for parameter, mask, _ in self.masked:
            parameter.register_hook(mask.mul)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for parameter, mask, initial in self.masked:
            parameter.copy_(torch.where(mask, parameter, initial))


class MaskedTraining(TrainedMethod, StoredSubnetwork):
    """Trains from the initial state and changes only the chosen entries and the head."""

    budgets = (0.05, 0.25)

    @abstractmethod
    def scores(self, cell: Cell) -> Tensors:
        """Name of a body tensor -> scores of its entries; the highest scores of the whole body are trained."""

    def prepare(self, cell: Cell) -> Tensors:
        return self.scores(cell)

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        masks = global_masks(prepared, budget, cell.device)

        def build() -> tuple[nn.Module, TrainingHooks]:
            model = cell.training.initial_model()
            return model, Masked(model, masks)

        fitted = self.best_fit(cell.training, cell.seed, build)
        stored = self.save_kept(path, cell.base, fitted.model.state_dict(), masks, budget)
        return replace(stored, fitted=fitted)


class LotteryTicket(MaskedTraining):
    """Trains the entries that full fine-tuning changed most (LT-SFT, Ansell et al. 2022, section 3.1; no L1 term)."""

    name = "lt-sft"

    def scores(self, cell: Cell) -> Tensors:
        return update_magnitudes(cell)


class Fish(MaskedTraining):
    """Trains the entries of largest mean squared gradient of a text (FISH mask, Sung et al. 2021, section 3.1)."""

    name = "fish"
    texts = 256

    def scores(self, cell: Cell) -> Tensors:
        model = cell.training.initial_model().eval()
        body = {name: parameter for name, parameter in model.named_parameters() if name in cell.pretrained}
        device = next(model.parameters()).device
        squares = {name: torch.zeros_like(tensor, device=device) for name, tensor in cell.pretrained.items()}
        for text, batch in enumerate(cell.training.examples(batch_size=1)):
            if text == self.texts:
                break
            gradients = torch.autograd.grad(model(**batch).loss, list(body.values()), allow_unused=True)
            for name, gradient in zip(body, gradients, strict=True):
                if gradient is not None:
                    squares[name] += gradient.square()
        return {name: tensor.cpu() for name, tensor in squares.items()}

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort(gradient_texts=self.texts)


register(LotteryTicket())
register(Fish())
