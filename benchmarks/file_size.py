"""Size of stored files compared with the entropy bound, the dense model and int32 COO.

The bound is the kept values plus log2 C(n, k) bits a row.
"""

import math
import tempfile
from pathlib import Path

import torch

from baselines.estimates import choice_bits
from benchmarks import common
from ken import selection
from ken.subnetwork import Subnetwork

SHARES = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50, 0.75)


def bound(shapes: dict[str, tuple], share: float, width: int) -> float:
    """Bytes of the kept values and of the entropy of their indices."""
    total = 0.0
    for shape in shapes.values():
        rows, n = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
        k = selection.kept_count(n, share)
        total += rows * (k * width + choice_bits(n, k) / 8)
    return total


def main() -> None:
    parser = common.parser("Size of stored files against the entropy bound.")
    parser.add_argument("--hidden", type=int, default=256, help="width of the BERT that is stored")
    a = parser.parse_args()
    from transformers import AutoModel, BertConfig

    torch.manual_seed(0)
    config = BertConfig(hidden_size=a.hidden, intermediate_size=4 * a.hidden, num_attention_heads=4, vocab_size=8192)
    finetuned = dict(AutoModel.from_config(config).named_parameters())
    pretrained = {name: tensor + 0.001 * torch.randn_like(tensor) for name, tensor in finetuned.items()}
    numbers: dict = {"entries": sum(tensor.numel() for tensor in finetuned.values())}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float32, torch.bfloat16):
            pair = [{name: t.detach().to(dtype) for name, t in tensors.items()} for tensors in (pretrained, finetuned)]
            shapes = {name: tuple(tensor.shape) for name, tensor in finetuned.items()}
            kind = str(dtype).removeprefix("torch.")
            for share in SHARES:
                subnetwork = Subnetwork.extract(*pair, share)
                subnetwork.save(Path(folder, "sub"))
                size, kept = Path(folder, "sub").stat().st_size, subnetwork.kept_body
                least = bound(shapes, share, dtype.itemsize)
                numbers[f"{kind} {share:.0%}: times values + entropy"] = size / least
                numbers[f"{kind} {share:.0%}: share of the dense model"] = size / (
                    subnetwork.total_body * dtype.itemsize
                )
                numbers[f"{kind} {share:.0%}: share of int32 COO"] = size / (kept * (dtype.itemsize + 8))
    common.finish("file_size", numbers, a.out)


if __name__ == "__main__":
    main()
