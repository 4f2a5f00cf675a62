"""What every training loop shares: the learning rate's course, and the gradients of a batch."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ken.errors import UserError

CPU = torch.device("cpu")
PRECISIONS = ("auto", "float32", "bfloat16")
# Architectures that transformers cannot compute in bfloat16: DeBERTa's attention masks its bfloat16 scores with the
# lowest float32, which is out of their range.
NOT_IN_BFLOAT16 = ("deberta",)


def linear_schedule(optimizer: Optimizer, steps: int, warmup_share: float) -> LambdaLR:
    """Learning rate that rises linearly over the first share of the steps, then falls linearly to zero."""
    warmup = max(1, round(steps * warmup_share))
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup))))


def precision_on(device: torch.device, wanted: str, architecture: str = "") -> str:
    """What `wanted`, one of `PRECISIONS`, means: auto is bfloat16 where the GPU and the architecture can.

    Args:
        architecture: `model_type` of the model's configuration.

    Raises:
        UserError: bfloat16 is wanted of an architecture that cannot.
    """
    if wanted == "bfloat16" and architecture in NOT_IN_BFLOAT16:
        raise UserError(f"{architecture} cannot be trained in bfloat16: set finetuning.precision to auto or float32.")
    if wanted != "auto":
        return wanted
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if capable and architecture not in NOT_IN_BFLOAT16 else "float32"


class Gradients:
    """Gradients of the mean loss of a batch, in parts of fewer rows where the whole does not fit into memory.

    Weights and gradients are float32; with `precision` bfloat16 the products between them are computed in that.

    Attributes:
        part: rows computed at once; None: all of a batch. Once halved it stays so, since other batches are as large.
    """

    def __init__(self, device: torch.device, precision: str = "float32"):
        self.device, self.low_precision = device, precision == "bfloat16"
        self.part: int | None = None

    def compute(
        self, model: nn.Module, batch: dict[str, torch.Tensor], penalty: Callable[[], torch.Tensor | float]
    ) -> float:
        """Put the gradients of loss and penalty into the model's parameters; returns the loss without the penalty.

        Args:
            batch: what the model takes; all tensors have the rows along their first axis.

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
                raise UserError(f"{text}: set finetuning.max_length lower, or device to cpu.")
            self.part = -(-tried // 2)
            torch.cuda.empty_cache()
            print(f"out of memory with {tried} texts at once: going on with {self.part}", flush=True)
        return loss

    def _attempt(self, model: nn.Module, batch: dict, part: int, penalty: Callable) -> float | None:
        """The loss, or None where memory ran out: what holds it is let go with this frame."""
        rows, total = len(batch["labels"]), 0.0
        model.zero_grad()
        try:
            for start in range(0, rows, part):
                some = {name: tensor[start : start + part] for name, tensor in batch.items()}
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                    loss = model(**some).loss * (len(some["labels"]) / rows)
                (loss + (penalty() if start == 0 else 0.0)).backward()
                total += loss.item()
        except torch.OutOfMemoryError:
            return None
        return total
