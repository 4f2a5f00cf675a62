"""Other libraries that store a fine-tuned model relative to its base, behind one contract, and `ken` beside them.

Each writes files to a folder and restores the model from these files and the base. None of them is a dependency:
envs/rivals.txt has their versions.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load, load_file

from ken.options import PRESETS, RULE
from ken.streaming import prune
from ken.subnetwork import Subnetwork

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PairFolders:
    """Folders with one model.safetensors each, and config.json where it is known.

    Attributes:
        base: the model before fine-tuning, with the names and shapes of the fine-tuned one.
        finetuned: the fine-tuned model; its file is the dense file.
        pretrained: `base` without the head, for `ken`, which stores the head whole.
    """

    base: Path
    finetuned: Path
    pretrained: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """The files of base and fine-tuned model."""
        return self.base / "model.safetensors", self.finetuned / "model.safetensors"


@dataclass(frozen=True)
class Rival:
    """A way to store a fine-tuned model.

    Attributes:
        label: name in the table.
        write: writes its files to an empty folder.
        restore: all tensors of the fine-tuned model, from `pair.base` or `pair.pretrained` and the written files alone.
        package: distribution that must be installed, None for `ken`.
        module: what to import before the time is taken.
    """

    label: str
    write: Callable[[PairFolders, Path], None]
    restore: Callable[[PairFolders, Path], Tensors]
    package: str | None = None
    module: str = "ken"

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    @property
    def version(self) -> str | None:
        """Version of its package."""
        return importlib.metadata.version(self.package) if self.package else None


def _ken_write(settings: dict, pair: PairFolders, folder: Path) -> None:
    sources = (folder / "model.safetensors" for folder in (pair.pretrained, pair.finetuned))
    prune(*sources, folder / "model.ken.safetensors", rule=RULE, seed=0, allow_head=True, **settings)


def _ken_restore(pair: PairFolders, folder: Path) -> Tensors:
    pretrained = load_file(pair.pretrained / "model.safetensors")
    return Subnetwork.load(folder / "model.ken.safetensors").apply(pretrained)


def _deltatensors_write(settings: dict, pair: PairFolders, folder: Path) -> None:
    import deltatensors

    with contextlib.redirect_stdout(sys.stderr):
        deltatensors.save_delta_from_paths(folder / "model.wdelta", pair.finetuned, pair.base, **settings)


def _deltatensors_restore(pair: PairFolders, folder: Path) -> Tensors:
    import deltatensors

    with contextlib.redirect_stdout(sys.stderr):
        restored = deltatensors.load_delta_from_paths(folder / "model.wdelta", pair.base)
    return {name: torch.from_numpy(array) for name, array in restored.items()}


def _zipnn(pair: PairFolders, delta: bool) -> tuple[object, dict]:
    """A coder and the argument that both of its methods need for a difference from the base."""
    from zipnn import ZipNN

    base = pair.files[0]
    dtype = str(next(iter(load_file(base).values())).dtype).removeprefix("torch.")
    coder = ZipNN(bytearray_dtype=dtype, threads=torch.get_num_threads(), delta_compressed_type="byte" if delta else 0)
    return coder, {"delta_second_data": base.read_bytes()} if delta else {}


def _zipnn_write(delta: bool, pair: PairFolders, folder: Path) -> None:
    coder, base = _zipnn(pair, delta)
    dense = bytearray(pair.files[1].read_bytes())  # zipnn reorders the bytes it is given
    (folder / "model.znn").write_bytes(coder.compress(dense, **base))


def _zipnn_restore(delta: bool, pair: PairFolders, folder: Path) -> Tensors:
    coder, base = _zipnn(pair, delta)
    return load(bytes(coder.decompress((folder / "model.znn").read_bytes(), **base)))


def _fireworks_write(compression: str, pair: PairFolders, folder: Path) -> None:
    import fireworks_delta_compression as fireworks

    src, dst = map(str, pair.files)
    out = str(folder / "model.safetensors")
    fireworks.delta_compress_files_to_file(src=src, dst=dst, diff_file=out, compression_format=compression)


def _fireworks_restore(compression: str, pair: PairFolders, folder: Path) -> Tensors:
    import fireworks_delta_compression as fireworks

    base, diff = load_file(pair.files[0]), str(folder / "model.safetensors")
    return fireworks.delta_decompress_dict_from_file(src=base, diff_file=diff, compression_format=compression)


def _mergekit_write(rank: int, pair: PairFolders, folder: Path) -> None:
    """As `mergekit-extract-lora --embed-lora`, without the model card, for which that command asks the hub."""
    from mergekit.common import ModelReference
    from mergekit.graph import Executor
    from mergekit.options import MergeOptions
    from mergekit.scripts import extract_lora

    base, model = (ModelReference.model_validate(str(path)) for path in (pair.base, pair.finetuned))
    whole: list[str] = []  # the plan adds modules that have no low-rank form
    chosen = {"max_rank": rank, "embed_lora": True, "include_regexes": [], "exclude_regexes": []}
    plan = extract_lora.plan_extraction(base, model, whole, str(folder), MergeOptions(), **chosen)
    ranks = {}
    for task, result in Executor(plan.tasks).run():
        if isinstance(task, extract_lora.TaskVectorDecompositionTask):
            ranks[task.weight_info.name.removesuffix(".weight")] = result[0].shape[0]
    targets = sorted({name.rpartition(".")[2] for name in ranks})
    config = extract_lora.make_config_dict(base, max(ranks.values()), whole, targets, ranks)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))


def _mergekit_restore(pair: PairFolders, folder: Path) -> Tensors:
    """Base + B A; peft does not load the adapter of a classifier: its task type is CAUSAL_LM, and it has biases."""
    restored = load_file(pair.files[0])
    adapter = load_file(folder / "adapter_model.safetensors")
    for key, tensor in adapter.items():
        name = key.removeprefix("base_model.model.")
        if name.endswith(".lora_A.weight"):
            restored[name.replace(".lora_A", "")] += adapter[key.replace("lora_A", "lora_B")] @ tensor
        elif name.endswith(".lora_embedding_A"):
            update = adapter[key.replace("embedding_A", "embedding_B")] @ tensor
            restored[name.replace(".lora_embedding_A", ".weight")] += update.T
        elif name.endswith(".lora_B.bias"):
            restored[name.replace(".lora_B", "")] += tensor
        elif ".lora_" not in name:
            restored[name] = tensor
    return restored


def ours() -> list[Rival]:
    """`ken prune` with each preset, and KEN with 5 % of values as they are, rescaled."""
    settings = {f"ken prune --preset {name}": preset for name, preset in PRESETS.items()}
    settings["KEN rescaled 5 %"] = {"k": 0.05, "values": "32bit", "positions": "stored"}
    return [Rival(label, partial(_ken_write, chosen), _ken_restore) for label, chosen in settings.items()]


def rivals() -> list[Rival]:
    """The other libraries, with the settings that their documentation names."""
    deltas = {
        "deltatensors int4": {"strategy": "int4"},
        "deltatensors quantized": {"strategy": "quantized"},
        "deltatensors sparse 5 %": {"strategy": "sparse", "sparsity": 0.95},
    }
    made = [
        Rival(label, partial(_deltatensors_write, chosen), _deltatensors_restore, "deltatensors", "deltatensors")
        for label, chosen in deltas.items()
    ]
    for label, delta in (("zipnn", False), ("zipnn delta", True)):
        made.append(Rival(label, partial(_zipnn_write, delta), partial(_zipnn_restore, delta), "zipnn", "zipnn"))
    for name in ("arc_v2", "arc_v3"):
        steps = partial(_fireworks_write, name), partial(_fireworks_restore, name)
        made.append(Rival(f"fireworks {name}", *steps, "fireworks-delta-compression", "fireworks_delta_compression"))
    for rank in (8, 32):
        steps = partial(_mergekit_write, rank), _mergekit_restore
        made.append(Rival(f"mergekit rank {rank}", *steps, "mergekit", "mergekit.scripts.extract_lora"))
    return made
