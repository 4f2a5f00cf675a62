"""Options of the command line that several commands share: the pair of models, and how entries are chosen."""

import argparse

from ken import extraction, selection
from ken.coding.blocks import POSITIONS
from ken.coding.coder import VALUES

K, RULE = 0.05, "rescale"
"""What the studies found best for classifiers; `reset` is the paper's rule and the default in Python."""
PRESETS = {
    "small": {"k": 0.05, "values": "3bit", "positions": "seed"},
    "balanced": {"k": 0.25, "values": "3bit", "positions": "seed"},
    "exact": {"k": 1.0, "values": "32bit", "positions": "stored"},
}
"""Settings by name: the smallest file within half a point in the studies, one for models of few parameters, and a file
that restores the fine-tuned model to the bit."""
BASE_HELP = "the pre-trained base: checkpoint folder, safetensors file, or hub repository"


def budget(text: str) -> int | float:
    """A whole number of entries per row, or a share of the row between 0 and 1."""
    try:
        k = int(text) if text.strip().lstrip("+-").isdigit() else float(text)
        selection.kept_count(1, k)
    except ValueError:
        message = f"{text!r} is neither a whole number of at least 1 nor a share of the row in (0, 1]"
        raise argparse.ArgumentTypeError(message) from None
    return k


def add_pair(made: argparse.ArgumentParser) -> None:
    """Add the base and the fine-tuned model."""
    made.add_argument("--pretrained", required=True, help=BASE_HELP)
    made.add_argument("--finetuned", required=True, help="the fine-tuned model, likewise")
    made.add_argument("--quiet", action="store_true", help="show no progress")


def add_choice(made: argparse.ArgumentParser) -> None:
    """Add how entries are chosen."""
    made.add_argument("--method", default="ken", help=f"how entries are chosen: {', '.join(selection.names())}")
    made.add_argument(
        "--rule", default=RULE, choices=extraction.RULES,
        help=f"reset: keep values as they are; rescale: enlarge the kept updates by n / kept (default: {RULE})",
    )  # fmt: skip
    add_allow_head(made)


def add_allow_head(made: argparse.ArgumentParser) -> None:
    """Add the permission for a large head."""
    made.add_argument(
        "--allow-head", action="store_true",
        help="accept that more than 5 %% of the fine-tuned model has no pre-trained value and is stored whole",
    )  # fmt: skip


def add_coding(made: argparse.ArgumentParser) -> None:
    """Add how many entries are kept, how they are stored, and presets for both."""
    made.add_argument(
        "--k", type=budget,
        help=f"share kept of each row, such as 0.05 or 1.0, or a whole number of entries (default: {K})",
    )  # fmt: skip
    add_choice(made)
    made.add_argument("--preset", choices=PRESETS, help=_preset_help())
    made.add_argument("--values", choices=VALUES, help="bits of a kept update; 32bit: values as they are (default)")
    made.add_argument(
        "--positions", choices=POSITIONS,
        help="stored (default); or, without a byte, derived from a seed or from the density of the base",
    )  # fmt: skip
    made.add_argument("--seed", type=int, help="of seeded positions and of methods that draw (default: 0)")
    made.add_argument("--scope", default="all", choices=extraction.SCOPES, help="all tensors, or numbered layers only")
    made.add_argument("--device", help="where densities are computed, e.g. cuda (default: cpu)")


def chosen(a: argparse.Namespace) -> dict[str, object]:
    """Arguments of `ken.prune` from the options of `add_coding`: those given, else the preset's, else the defaults."""
    result = PRESETS[a.preset] if a.preset else {"k": K, "values": "32bit", "positions": "stored"}
    result = result | {name: getattr(a, name) for name in result if getattr(a, name) is not None}
    seed = 0 if a.seed is None and result["positions"] == "seed" else a.seed
    same = ("method", "scope", "rule", "device", "allow_head")
    return result | {"seed": seed} | {name: getattr(a, name) for name in same}


def note_on_k(k: int | float) -> str | None:
    """A note for users who mean all entries by `--k 1`."""
    if k == 1 and isinstance(k, int):
        return "note: --k 1 keeps one entry of each row; to keep all of them, write --k 1.0"
    return None


def _preset_help() -> str:
    listed = (
        f"{name} is --k {p['k']} --values {p['values']} --positions {p['positions']}" for name, p in PRESETS.items()
    )
    return f"several settings at once: {'; '.join(listed)}"
