"""Memory and time of one shot of LLM Surgeon on a language model of the shape of an OPT with random weights.

`python -m benchmarks.pruning --size opt-125m` prunes half of the elements, layer by layer. It prints the peak memory of
the process in units of the model, and the CPU seconds of each shape of layer. `--layers` takes only the first
transformer layers, whose seconds stand for all others.
"""

import time
from collections import defaultdict
from contextlib import ExitStack
from unittest import mock

import torch
from transformers import OPTConfig, OPTForCausalLM

from baselines.llm_surgeon import curvature, schedule, updates
from benchmarks import common
from benchmarks.curvature import peak_mib
from study.models.language_models import linear_layers

SIZES = {  # hidden size, size of the feed-forward layers, layers, heads (Zhang et al. 2022, table 1)
    "opt-125m": (768, 3072, 12, 12),
    "opt-1.3b": (2048, 8192, 24, 32),
    "opt-6.7b": (4096, 16384, 32, 32),
}


class Clock:
    """CPU seconds and calls of functions, by what they work on. They do not depend on the load of the machine."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def timed(self, function, name):
        """The function, whose calls are counted and timed under `name(*arguments)`."""

        def wrapped(*arguments, **options):
            start = time.process_time()
            result = function(*arguments, **options)
            key = name(*arguments)
            self.seconds[key] += time.process_time() - start
            self.calls[key] += 1
            return result

        return wrapped


def shape_of(tensor: torch.Tensor) -> str:
    """Such as "768 x 769"."""
    return " x ".join(map(str, tensor.shape))


def opt(size: str, layers: int | None) -> OPTForCausalLM:
    """A model of this shape with random weights."""
    hidden, wide, depth, heads = SIZES[size]
    config = OPTConfig(
        hidden_size=hidden, word_embed_proj_dim=hidden, ffn_dim=wide, num_hidden_layers=layers or depth,
        num_attention_heads=heads,
    )  # fmt: skip
    torch.manual_seed(0)
    return OPTForCausalLM(config).eval()


def pruned_with(clock: Clock, model: OPTForCausalLM, batches: list[dict], settings: schedule.Settings) -> None:
    """Remove half of the linear layers and time the parts of it."""
    patched = [
        (curvature, "_add_all", lambda *_: "curvature, one pass"),
        (schedule, "inverse", lambda factor: f"inverse of {shape_of(factor)}"),
        (updates, "cheapest_elements", lambda *_: "threshold"),
        (updates, "remove_elements", lambda deviation, *_: f"update of {shape_of(deviation)}"),
        (updates, "remove_structures", lambda deviation, *_: f"update of {shape_of(deviation)}"),
    ]
    layers = linear_layers(model)
    with ExitStack() as stack:
        for module, function, name in patched:
            stack.enter_context(mock.patch.object(module, function, clock.timed(getattr(module, function), name)))
        schedule.prune(model, layers, batches, schedule.removable_entries(model, layers, settings) // 2, settings)


def main() -> None:
    parser = common.parser("Memory and time of one shot of LLM Surgeon on a whole language model.")
    parser.add_argument("--size", choices=SIZES, default="opt-125m", help="whose shape the model has")
    parser.add_argument("--layers", type=int, help="transformer layers of the model; by default all")
    parser.add_argument("--structure", choices=schedule.STRUCTURES, default="element", help="what is removed")
    parser.add_argument("--sequences", type=int, default=8, help="of random tokens, for the curvature")
    parser.add_argument("--tokens", type=int, default=128, help="of a sequence")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    model, clock = opt(a.size, a.layers), Clock()
    ids = torch.randint(model.config.vocab_size, (a.sequences, 1, a.tokens))
    start = time.process_time()
    pruned_with(
        clock, model, [{"input_ids": row, "labels": row} for row in ids], schedule.Settings(a.structure, shots=1)
    )
    bytes_of_model = 4 * sum(parameter.numel() for parameter in model.parameters())
    numbers: dict = {"size": a.size, "transformer layers": model.config.num_hidden_layers, "threads": a.threads}
    numbers |= {"structure": a.structure, "sequences": a.sequences, "tokens": a.tokens}
    numbers["CPU s"] = time.process_time() - start
    numbers["peak, GiB"] = peak_mib() / 1024
    numbers["peak, times the model"] = peak_mib() * 2**20 / bytes_of_model
    for key, seconds in clock.seconds.items():
        numbers[f"{key}, CPU s each"], numbers[f"{key}, number"] = seconds / clock.calls[key], clock.calls[key]
    common.finish("pruning", numbers, a.out)


if __name__ == "__main__":
    main()
