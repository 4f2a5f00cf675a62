"""Prune one causal language model for its own loss: every method, structure, number of shots and sparsity.

Every pruned model is written and read again, and the restored model is evaluated on held-out text. A run of several
shots passes the smaller sparsities on the way to the largest; each of them is stored.
"""

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from baselines.llm_surgeon.compaction import compact, with_shapes
from baselines.llm_surgeon.curvature import estimate
from baselines.llm_surgeon.method import from_zeros, kept_masks, nonzero_masks
from baselines.llm_surgeon.schedule import VARIANTS, Layers, Settings, removable_entries, shots_of
from baselines.magnitude import zeros
from ken.subnetwork import Subnetwork
from study.cells.calibration import Calibration, calibration_indices
from study.cells.perplexity_rows import Row, describe_stored, evaluate, load_or_run, write_results
from study.definition.step import parse_step
from study.models.classifiers import checked_checkpoint, load_tokenizer
from study.models.language_models import body_of, empty_language_model, linear_layers, load_body, load_language_model
from study.running import files, provenance
from study.running.code import code_hash
from study.running.workflow import run
from study.training.chunks import read_chunks
from study.training.language_modelling import document_losses

HALF = 0.5  # sparsity of 2:4


class Pruning:
    """One language model with its text.

    Args:
        checkpoint: folder of the model. text: folder of `study.text`.
        axes: model and seed, from which the calibration text is drawn.
        settings: methods, structures, sparsities, shots, calibration, low_rank, max_length, batch_size.
        out: folder of the stored files.
    """

    def __init__(self, checkpoint: Path, text: Path, axes: dict, settings: dict, out: Path):
        self.checkpoint, self.axes, self.settings, self.out = checkpoint, axes, settings, out
        self.inputs = {"pretrained": checked_checkpoint(checkpoint), "text": files.checked(text)}
        tokenizer = load_tokenizer(checkpoint, settings["max_length"])
        train, self.test = (read_chunks(text, split, tokenizer, settings["max_length"]) for split in ("train", "test"))
        indices = calibration_indices(train, settings["calibration"], provenance.seed_of("calibration", axes["seed"]))
        self.batches = list(Calibration(checkpoint, train, indices).examples(settings["batch_size"]))
        self.dense = load_language_model(checkpoint)
        self.layers = linear_layers(self.dense)
        self.factors = None
        source = code_hash("study.prune_language_model")
        shared = {key: settings[key] for key in ("calibration", "low_rank", "max_length", "batch_size")}
        self.key = [self.inputs, source, axes, shared, torch.__version__.partition("+")[0]]

    def first_factors(self, settings: Settings) -> dict | None:
        """Curvature of the dense model, estimated once."""
        if self.factors is None and settings.curved:
            self.factors = estimate(self.dense, self.layers, self.batches)
        return self.factors if settings.curved else None

    def row(self, method: str, structure: str, shots: int, sparsity: float, file: str) -> Row:
        """A row that has no results yet."""
        return Row(
            "pruning", **self.axes, draw=0, method=method, structure=structure, shots=shots, budget=sparsity, file=file,
            linear_layers=len(self.layers),
        )  # fmt: skip

    def evaluate(self, row: Row, start: float) -> list[float]:
        """Complete a row, begun at `start`, from its stored file; returns the loss of each held-out document."""
        path = self.out / row.file
        row.seconds, row.stored_bytes, row.sha256 = describe_stored(path, start)
        state = from_zeros(path)
        skeleton = empty_language_model(self.checkpoint)
        restored = load_body(with_shapes(skeleton, state), state)
        weights = [restored.get_submodule(name).weight for name in self.layers]
        before = [skeleton.get_submodule(name).weight for name in self.layers]
        row.kept_share = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in before)
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
        body = body_of(model)
        masks = nonzero_masks(body, removed) if structured else kept_masks(body, removed)
        Subnetwork.from_masks(zeros(body), body, masks, 1 - sparsity, method).save(path)

    def run(self, method: str, structure: str, shots: int) -> list[tuple[Row, list[float]]]:
        """Prune to all sparsities with one method, structure and number of shots."""
        wanted = [HALF] if structure == "2:4" else sorted(self.settings["sparsities"])
        runs = [([sparsity], 1) for sparsity in wanted] if shots == 1 else [(wanted, shots)]
        results = []
        for sparsities, steps in runs:
            results += self.pruned(method, structure, steps, sparsities)
        return results

    def pruned(self, method: str, structure: str, shots: int, wanted: list[float]) -> list[tuple[Row, list[float]]]:
        """Rows of one run. If it fails, the remaining sparsities get rows with the reason."""
        options = VARIANTS[method] | {"structure": structure}
        if "low_rank" in self.settings and VARIANTS[method]["costs"] == "obs":
            options["low_rank"] = self.settings["low_rank"]
        settings, results = Settings().with_options(options), []
        folder = f"{method}/{structure.replace(':', '-')}-{shots}"
        left, start = list(wanted), time.monotonic()
        try:
            for sparsity, model, removed in self.visited(settings, shots, wanted):
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

    def visited(self, settings: Settings, shots: int, wanted: list[float]) -> Iterator[tuple[float, nn.Module, Layers]]:
        """Sparsity, model and masks at each wanted sparsity of one run that starts from the dense model."""
        model = copy.deepcopy(self.dense)
        total = removable_entries(model, self.layers, settings)
        steps = schedule(wanted, shots)
        counts = [total - round(total * sparsity) for sparsity in steps]
        first = self.first_factors(settings)
        masks = shots_of(model, self.layers, self.batches, counts, settings, factors=first)
        for sparsity, removed in zip(steps, masks, strict=True):
            if sparsity in wanted:
                yield sparsity, model, removed

    def dense_row(self) -> list[tuple[Row, list[float]]]:
        """Row of the dense model, stored in the same way."""
        row = self.row("dense", "", 0, 0.0, "dense.safetensors")
        start = time.monotonic()
        self.store(self.dense, {}, "dense", 0.0, False, row.file)
        return [(row, self.evaluate(row, start))]


def schedule(wanted: list[float], shots: int) -> list[float]:
    """Sparsities after each shot, rising: `shots` equal steps to the largest, and the wanted ones between them."""
    equal = [round(max(wanted) * t / shots, 9) for t in range(1, shots + 1)]
    near = {step: next((sparsity for sparsity in wanted if abs(sparsity - step) < 1e-9), step) for step in equal}
    return sorted({*near.values(), *(wanted if shots > 1 else [])})


def prune_all(pruning: Pruning) -> list[tuple[Row, list[float]]]:
    """Run everything that the settings ask for, or take it from its record; shows progress."""
    settings, start = pruning.settings, time.monotonic()
    key = provenance.text_hash(json.dumps(pruning.key, sort_keys=True))
    rows = load_or_run(pruning.out / "dense.json", key, pruning.dense_row)
    axes = [
        (method, structure, shots)
        for method in settings["methods"]
        for structure in settings["structures"]
        for shots in settings["shots"]
    ]
    for done, (method, structure, shots) in enumerate(axes, 1):
        name = f"{method}-{structure.replace(':', '-')}-{shots}"
        key = provenance.text_hash(json.dumps([pruning.key, settings["sparsities"]], sort_keys=True))
        rows += load_or_run(
            pruning.out / f"{name}.json", key, lambda axis=(method, structure, shots): pruning.run(*axis)
        )
        seconds = time.monotonic() - start
        left = seconds / done * (len(axes) - done)
        print(f"{name}: {seconds:.0f} s, about {left:.0f} s left", flush=True)
    return rows


def main() -> None:
    a, study, paths = parse_step("Prune one causal language model.", "model", "seed")
    axes, settings = {"model": a.model, "seed": a.seed}, study.language_settings("pruning")
    out = paths.experiment("pruning", **axes)
    provenance.deterministic(0)
    pruning = Pruning(paths.pretrained(a.model), paths.text("pruning"), axes, settings, out)
    rows = prune_all(pruning)
    _, tokens = document_losses(pruning.dense, pruning.test, settings["batch_size"])
    write_results(out, rows, pruning.test, tokens, pruning.inputs)


if __name__ == "__main__":
    run(main)
