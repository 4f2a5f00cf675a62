"""One more round of training in which only a few entries of the body may move: what a practitioner would do instead."""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Stored, StoredSubnetwork, Tensors, register
from baselines.magnitude import global_masks, update_sizes
from baselines.training import TrainedMethod, TrainingHooks


class Masked(TrainingHooks):
    """Only entries that masks keep are moved by their gradients, and weight decay moves no other either."""

    def __init__(self, model: nn.Module, masks: Tensors):
        parameters = {name: found for name, found in model.named_parameters() if name in masks}
        self.masked = [
            (found, masks[name].to(found.device), found.detach().clone()) for name, found in parameters.items()
        ]
        for parameter, mask, _ in self.masked:
            parameter.register_hook(mask.mul)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for parameter, mask, before in self.masked:
            parameter.copy_(torch.where(mask, parameter, before))


class MaskedTraining(TrainedMethod, StoredSubnetwork):
    """Trains anew from the initial state, with only the chosen entries and the head free to move."""

    budgets = (0.05, 0.25)

    @abstractmethod
    def scores(self, cell: Cell) -> Tensors:
        """Body tensor -> scores of its entries; the highest of the whole body are trained."""

    def prepare(self, cell: Cell) -> Tensors:
        return self.scores(cell)

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        masks = global_masks(prepared, budget)

        def build() -> tuple[nn.Module, TrainingHooks]:
            model = cell.training.initial_model()
            return model, Masked(model, masks)

        fitted = self.best_fit(cell, build)
        stored = self.save_kept(path, cell.pretrained, fitted.model.state_dict(), masks, budget)
        return replace(stored, fitted=fitted)


class LotteryTicket(MaskedTraining):
    """The entries that full fine-tuning moved most (LT-SFT, Ansell et al. 2022, section 3.1, without its L1 term)."""

    name = "lt-sft"

    def scores(self, cell: Cell) -> Tensors:
        return update_sizes(cell)


class Fish(MaskedTraining):
    """The entries of largest mean squared gradient, one text at a time (FISH mask, Sung et al. 2021, section 3.1)."""

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


register(LotteryTicket())
register(Fish())
