"""Parts of a training step: learning-rate schedule, precision, and the gradients of a batch."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ken.errors import UserError

CPU = torch.device("cpu")
PRECISIONS = ("auto", "float32", "bfloat16")
# Architectures that transformers cannot compute in bfloat16: DeBERTa's attention masks bfloat16 scores with the lowest
# float32 number, which is out of their range.
NOT_IN_BFLOAT16 = ("deberta",)

Batch = dict[str, torch.Tensor]  # what a model takes: input_ids, labels, ..., all with the rows along the first axis
Loss = Callable[[nn.Module, Batch, Batch], torch.Tensor]


def linear_schedule(optimizer: Optimizer, steps: int, warmup_share: float) -> LambdaLR:
    """Learning rate that rises linearly over the first share of the steps, then falls linearly to zero."""
    warmup = max(1, round(steps * warmup_share))
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup))))


def precision_on(device: torch.device, wanted: str, architecture: str = "") -> str:
    """Resolve the precision `wanted`, one of `PRECISIONS`, for a device.

    "auto" is bfloat16 if the GPU and the architecture support it, otherwise float32.

    Args:
        architecture: `model_type` of the model's configuration.

    Raises:
        UserError: bfloat16 is wanted and the architecture does not support it.
    """
    if wanted == "bfloat16" and architecture in NOT_IN_BFLOAT16:
        raise UserError(f"{architecture} cannot be trained in bfloat16: set finetuning.precision to auto or float32.")
    if wanted != "auto":
        return wanted
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if capable and architecture not in NOT_IN_BFLOAT16 else "float32"


def mean_over_rows(model: nn.Module, part: Batch, whole: Batch) -> torch.Tensor:
    """What the rows of `part` contribute to the mean loss of the batch `whole`, for models that return a mean loss.

    Exact for a mean over rows, and for a mean over tokens if all rows have the same number of tokens.
    """
    return model(**part).loss * (len(part["labels"]) / len(whole["labels"]))


class Gradients:
    """Computes gradients of the mean loss of a batch, in parts of fewer rows if the batch does not fit into memory.

    Weights and gradients are float32; with `precision` bfloat16, matrix products are computed in bfloat16.

    Args:
        loss: (model, part, whole) -> what the rows of `part` contribute to the mean loss of the batch `whole`.
        length_setting: key of the config that limits the length of a text, for the message that a text does not fit.

    Attributes:
        part: rows computed at once; None for all of a batch. It stays halved, because other batches are as large.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str = "float32",
        loss: Loss = mean_over_rows,
        length_setting: str = "finetuning.max_length",
    ):
        self.device, self.low_precision = device, precision == "bfloat16"
        self.loss, self.length_setting = loss, length_setting
        self.part: int | None = None

    def compute(self, model: nn.Module, batch: Batch, penalty: Callable[[], torch.Tensor | float]) -> float:
        """Set the gradients of the model's parameters to those of loss and penalty; returns the loss alone.

        Raises:
            UserError: the memory is too small for one row.
        """
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        rows = len(batch["labels"])
        while (loss := self._attempt(model, batch, min(self.part or rows, rows), penalty)) is None:
            tried = min(self.part or rows, rows)
            if tried == 1:
                length = batch["input_ids"].shape[1]
                text = f"one text of {length} tokens does not fit into the memory of the GPU"
                raise UserError(f"{text}: set {self.length_setting} lower, or device to cpu.")
            self.part = -(-tried // 2)
            torch.cuda.empty_cache()
            print(f"out of memory with {tried} texts at once: continuing with {self.part}", flush=True)
        return loss

    def _attempt(self, model: nn.Module, batch: Batch, rows_at_once: int, penalty: Callable) -> float | None:
        """The loss, or None if memory ran out; the tensors that fill the memory are freed on return."""
        total = 0.0
        model.zero_grad()
        try:
            for start in range(0, len(batch["labels"]), rows_at_once):
                part = {name: tensor[start : start + rows_at_once] for name, tensor in batch.items()}
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                    loss = self.loss(model, part, batch)
                (loss + (penalty() if start == 0 else 0.0)).backward()
                total += loss.item()
        except torch.OutOfMemoryError:
            return None
        return total
