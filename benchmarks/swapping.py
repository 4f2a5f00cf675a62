"""Time to swap sub-networks in a loaded base model, compared with loading whole checkpoints.

Also the time to inject a grid of budgets in turn for evaluation.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import common
from ken import selection
from ken.subnetwork import Subnetwork

GRID = (0.02, 0.05, 0.10, 0.25, 0.50, 0.75)
TEXTS = 8  # in the batch whose evaluation is timed


def main() -> None:
    parser = common.parser("Time swapping sub-networks in a BERT-base-sized model against reloading it.")
    parser.add_argument("--share", type=float, default=0.05)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig()).eval()
    base = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tuned = [{name: t + 0.001 * torch.randn_like(t) for name, t in base.items()} for _ in range(2)]
    tasks = [Subnetwork.extract(base, state, a.share) for state in tuned]
    with tempfile.TemporaryDirectory() as folder:
        for i, state in enumerate(tuned):
            save_file(state, Path(folder, f"{i}.safetensors"))

        def reload() -> None:
            for i in range(2):
                model.load_state_dict(load_file(Path(folder, f"{i}.safetensors")))

        def reload_model() -> None:
            BertModel.from_pretrained(Path(folder, "model"))

        reloading = common.seconds_of(reload) / 2
        model.save_pretrained(Path(folder, "model"))
        building = common.seconds_of(reload_model)
    dense = sum(tensor.numel() * tensor.itemsize for tensor in base.values())
    held = tasks[0].masks.bytes + sum(values.nbytes for values in tasks[0].values.values())
    model.load_state_dict(base)
    tasks[0].inject(model)

    def swap() -> None:
        tasks[1].inject(model)
        tasks[0].inject(model)

    swapping = common.seconds_of(swap) / 2
    tasks[0].eject(model)
    ranks = selection.rank_tensors(tuned[0], base)
    grid = [Subnetwork.from_ranks(base, tuned[0], ranks, share) for share in GRID]
    grid[-1].inject(model)

    def inject_grid() -> None:
        for subnetwork in grid:
            subnetwork.inject(model)

    restoring = common.seconds_of(inject_grid) / len(grid)
    batch = torch.randint(0, 30_000, (TEXTS, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        evaluating = common.seconds_of(lambda: model(batch), repeats=1) / TEXTS * 1000
    common.finish(
        "swapping",
        {
            "kept share": a.share, "threads": a.threads,
            "swap, s": swapping,
            "load_state_dict of a checkpoint in the page cache, s": reloading,
            "load_state_dict, times the swap": reloading / swapping,
            "from_pretrained of a checkpoint in the page cache, s": building,
            "from_pretrained, times the swap": building / swapping,
            "held in memory for one task, share of a checkpoint": held / dense,
            "next k of a grid, s": restoring, "evaluating 1,000 texts of 128 tokens, s": evaluating,
            "next k, share of that evaluation": restoring / evaluating,
        },
        a.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
