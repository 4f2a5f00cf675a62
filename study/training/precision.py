"""Precision of the matrix products of an evaluation."""

import contextlib
from collections.abc import Iterator

import torch

from study.training.gradients import NOT_IN_BFLOAT16

PRECISIONS = ("float32", "tf32", "bfloat16")


def evaluation_precision(wanted: str, architecture: str) -> str:
    """The precision of `PRECISIONS` that an architecture is evaluated in: tf32 if it cannot be in bfloat16.

    Args:
        architecture: `model_type` of the model's configuration.
    """
    return "tf32" if wanted == "bfloat16" and architecture in NOT_IN_BFLOAT16 else wanted


@contextlib.contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products of float32 models in a precision of `PRECISIONS`; tf32 has no effect on a CPU."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    if precision == "tf32":
        products.fp32_precision = "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        products.fp32_precision = before
