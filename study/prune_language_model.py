"""Prune one causal language model for its own loss: every method, structure, number of shots and sparsity.

Every pruned model is written and read again, and the restored model is evaluated on held-out text. A run of several
shots passes the smaller sparsities on the way to the largest; each of them is stored.
"""

import copy
import time
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from baselines.layerwise import LAYERWISE, LAYERWISE_STRUCTURES, prune_layers
from baselines.llm_surgeon.compaction import compact, with_shapes
from baselines.llm_surgeon.curvature import estimate
from baselines.llm_surgeon.method import from_zeros, kept_masks, nonzero_masks
from baselines.llm_surgeon.schedule import VARIANTS, Layers, Settings, removable_entries, shots_of
from baselines.magnitude import zeros
from ken.errors import UserError
from ken.subnetwork import Subnetwork
from study.cells.calibration import load_text
from study.cells.perplexity_rows import Results, Row, describe_stored, evaluate, run_all, write_results
from study.definition.step import parse_step
from study.models.classifiers import check_checkpoint
from study.models.language_models import body_of, empty_language_model, linear_layers, load_body, load_language_model
from study.running import files, provenance
from study.running.code import code_hash
from study.running.device import acquire_device
from study.running.workflow import run
from study.training.gradients import CPU

HALF = 0.5  # sparsity of 2:4


class Pruning:
    """One language model with its text.

    Args:
        checkpoint: folder of the model. text: folder of `study.text`.
        axes: model and seed, from which the calibration text is drawn.
        settings: methods, structures, sparsities, shots, structured_shots (if they differ), calibration, low_rank,
            max_length, batch_size.
        out: folder of the stored files.
        device: on which models are pruned and evaluated.

    Raises:
        UserError: the model has no linear layers.
    """

    def __init__(
        self,
        checkpoint: Path,
        text: Path,
        axes: dict,
        settings: dict,
        out: Path,
        device: torch.device = CPU,
    ):
        self.checkpoint, self.axes, self.settings, self.out = checkpoint, axes, settings, out
        self.inputs = {"pretrained": check_checkpoint(checkpoint), "text": files.check_folder(text)}
        length, chunks = settings["max_length"], settings["calibration"]
        calibration, self.test = load_text(checkpoint, text, length, axes["seed"], chunks)
        examples = calibration.examples(settings["batch_size"])
        self.batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in examples]
        self.device, self.dense = device, load_language_model(checkpoint).to(device)
        self.layers = linear_layers(self.dense)
        if not self.layers:
            raise UserError(
                f"{axes['model']} has no torch.nn.Linear layers to prune (those of GPT-2 are Conv1D): choose a model "
                "such as OPT, BLOOM or Llama."
            )
        source = code_hash("study.prune_language_model")
        shared = {key: settings[key] for key in ("calibration", "low_rank", "max_length", "batch_size")}
        self.key = [self.inputs, source, axes, shared, torch.__version__.partition("+")[0]]

    @cached_property
    def dense_curvature(self) -> dict:
        """Curvature of the dense model."""
        return estimate(self.dense, self.layers, self.batches)

    def row(self, method: str, structure: str, shots: int, sparsity: float, file: str) -> Row:
        """A row that has no results yet."""
        return Row(
            "pruning", **self.axes, draw=0, method=method, structure=structure, shots=shots, budget=sparsity, file=file,
            linear_layers=len(self.layers),
        )  # fmt: skip

    def evaluate(self, row: Row, start: float) -> list[float]:
        """Complete a row, begun at `start`, from its stored file; returns the loss of each held-out document."""
        path = self.out / row.file
        describe_stored(row, path, start)
        state = from_zeros(path)
        skeleton = empty_language_model(self.checkpoint)
        restored = load_body(with_shapes(skeleton, state), state).to(self.device)
        weights = [restored.get_submodule(name).weight for name in self.layers]
        before = [skeleton.get_submodule(name).weight for name in self.layers]
        row.kept_share = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in before)
        row.stored_share = stored_entries(path, self.layers) / sum(w.numel() for w in before)
        row.smaller_layers = sum(w.shape != other.shape for w, other in zip(weights, before, strict=True))
        return evaluate(row, restored, self.test, self.settings["batch_size"])

    def store(
        self, model: nn.Module, removed: Layers, method: str, sparsity: float, structured: bool, file: str
    ) -> None:
        """Write the nonzero entries of a pruned model, in smaller layers if whole rows and columns are removed."""
        path = self.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if structured:
            model = compact(model, removed, self.batches[0])
        body = {name: tensor.cpu() for name, tensor in body_of(model).items()}
        masks = nonzero_masks(body, removed) if structured else kept_masks(body, removed)
        Subnetwork.from_masks(zeros(body), body, masks, 1 - sparsity, method).save(path)

    def run(self, method: str, structure: str, shots: int) -> Results:
        """Prune to all sparsities with one method, structure and number of shots."""
        wanted = [HALF] if structure == "2:4" else sorted(self.settings["sparsities"])
        runs = [[sparsity] for sparsity in wanted] if shots == 1 else [wanted]
        return [result for sparsities in runs for result in self.prune(method, structure, shots, sparsities)]

    def prune(self, method: str, structure: str, shots: int, wanted: list[float]) -> Results:
        """Prune to some sparsities in one run; if it fails, the remaining ones get rows with the reason."""
        results: Results = []
        folder = f"{method}/{structure.replace(':', '-')}-{shots}"
        left, start = list(wanted), time.monotonic()
        try:
            for sparsity, model, removed in self.visit(method, structure, shots, wanted):
                file = f"{folder}/{sparsity}.safetensors"
                self.store(model, removed, method, sparsity, structure == "row-column", file)
                row = self.row(method, structure, shots, sparsity, file)
                results.append((row, self.evaluate(row, start)))
                left.remove(sparsity)
                start = time.monotonic()
        except (ValueError, RuntimeError, ArithmeticError) as error:
            for sparsity in left:
                row = self.row(method, structure, shots, sparsity, "")
                row.status, row.reason = "failed", f"{type(error).__name__}: {error}"
                results.append((row, []))
        return results

    def visit(
        self, method: str, structure: str, shots: int, wanted: list[float]
    ) -> Iterator[tuple[float, nn.Module, Layers]]:
        """Prune the dense model, and yield sparsity, model and masks at each wanted sparsity."""
        model = copy.deepcopy(self.dense)
        if method in LAYERWISE:
            (sparsity,) = wanted
            rule = LAYERWISE[method]
            yield sparsity, model, prune_layers(model, self.layers, self.batches, rule, structure, sparsity)
            return
        settings = self.shot_settings(method, structure)
        total = removable_entries(model, self.layers, settings)
        steps = schedule(wanted, shots)
        counts = [total - round(total * sparsity) for sparsity in steps]
        first = self.dense_curvature if settings.curved else None
        masks = shots_of(model, self.layers, self.batches, counts, settings, factors=first)
        for sparsity, removed in zip(steps, masks, strict=True):
            if sparsity in wanted:
                yield sparsity, model, removed

    def shot_settings(self, method: str, structure: str) -> Settings:
        """How a method that prunes in shots does it."""
        options = VARIANTS[method] | {"structure": structure}
        if VARIANTS[method]["costs"] == "obs":
            options["low_rank"] = self.settings["low_rank"]
        return Settings().with_options(options)

    def store_dense(self) -> Results:
        """Store and evaluate the dense model in the same way."""
        row = self.row("dense", "", 0, 0.0, "dense.safetensors")
        start = time.monotonic()
        self.store(self.dense, {}, "dense", 0.0, False, row.file)
        return [(row, self.evaluate(row, start))]


def schedule(wanted: list[float], shots: int) -> list[float]:
    """Sparsities after each shot, rising: `shots` equal steps to the largest, and the wanted ones between them."""
    equal = [round(max(wanted) * t / shots, 9) for t in range(1, shots + 1)]
    near = {step: next((sparsity for sparsity in wanted if abs(sparsity - step) < 1e-9), step) for step in equal}
    return sorted({*near.values(), *(wanted if shots > 1 else [])})


def stored_entries(path: Path, layers: list[str]) -> int:
    """Number of entries of the weights of some layers in a stored file."""
    values = Subnetwork.load(path).values
    return sum(len(values[f"{layer}.weight"]) for layer in layers)


def runs_of(settings: dict) -> Iterator[tuple[str, str, int]]:
    """Method, structure and number of shots of every run; methods that prune layer by layer have one shot."""
    for method, structure in product(settings["methods"], settings["structures"]):
        if method not in LAYERWISE:
            own = "structured_shots" if structure == "row-column" else "shots"
            yield from ((method, structure, shots) for shots in settings.get(own, settings["shots"]))
        elif structure in LAYERWISE_STRUCTURES:
            yield method, structure, 1


def prune_all(pruning: Pruning) -> Results:
    """Run every method, structure and number of shots, or take it from its record."""
    settings = pruning.settings
    runs = [("dense", pruning.key, pruning.store_dense)]
    for method, structure, shots in runs_of(settings):
        name = f"{method}-{structure.replace(':', '-')}-{shots}"
        facts = [pruning.key, settings["sparsities"]]
        runs.append((name, facts, partial(pruning.run, method, structure, shots)))
    return run_all(pruning.out, runs)


def main() -> None:
    a, study, paths = parse_step("Prune one causal language model.", "language-model", "seed")
    axes, settings = {"model": a.model, "seed": a.seed}, study.language_settings("pruning")
    out = paths.experiment("pruning", **axes)
    device = acquire_device()
    provenance.make_deterministic(0)
    pruning = Pruning(paths.pretrained(a.model), paths.text("pruning"), axes, settings, out, device)
    write_results(out, prune_all(pruning), pruning.test, pruning.inputs)


if __name__ == "__main__":
    run(main)
