"""Compress the update of one adapted language model: store, load back, apply to the base, evaluate on held-out text.

The methods are those of the classifiers. The base is the whole pre-trained language model; there is no head.
"""

import time
from functools import partial
from pathlib import Path

import torch

import baselines
from baselines import Cell, Method, TrainedMethod
from study.cells.calibration import TRAINS, load_text
from study.cells.perplexity_rows import Results, Row, describe_stored, evaluate, run_all, write_results
from study.definition import method_settings
from study.definition.step import parse_step
from study.models.classifiers import check_checkpoint
from study.models.language_models import body_of, empty_language_model, load_body, load_language_model
from study.running import files, provenance
from study.running.code import code_hash
from study.running.workflow import run


class Adapted:
    """An adapted language model and its base.

    Args:
        pretrained: checkpoint folder of the base. adapted: folder of `study.adapt_language_model`.
        text: folder of `study.text`. axes: model and seed.
        settings: kept_shares, draws, max_length, batch_size, and methods: method -> options.
        out: folder of the stored files.

    Attributes:
        failure: why there is nothing to compress: the adaptation diverged in its first epoch. "" if it did not.
    """

    def __init__(self, pretrained: Path, adapted: Path, text: Path, axes: dict, settings: dict, out: Path):
        self.folder, self.axes, self.settings, self.out = pretrained, axes, settings, out
        self.inputs = {
            "pretrained": check_checkpoint(pretrained),
            "adapted": check_checkpoint(adapted),
            "text": files.check_folder(text),
        }
        manifest = files.read_json(adapted / "manifest.json") if (adapted / "manifest.json").exists() else {}
        self.failure = "" if manifest.get("best_epoch") else manifest.get("diverged", "")
        self.training, self.test = load_text(pretrained, text, settings["max_length"], axes["seed"])
        self.base = body_of(load_language_model(pretrained))
        self.adapted = body_of(load_language_model(adapted))
        self.skeleton = empty_language_model(pretrained)
        shared = [settings["max_length"], settings["batch_size"], torch.__version__.partition("+")[0]]
        self.key = [self.inputs, axes, *shared]

    def cell(self, method: Method, draw: int) -> Cell:
        """The model in the form that methods take."""
        seed = provenance.seed_of("compress", "language", *self.axes.values(), method.name, draw)
        return Cell(self.base, self.adapted, seed, self.skeleton, self.training if method.needs_data else None)

    def rows(self, method: Method, draw: int) -> Results:
        """Rows of one draw at all budgets."""
        view, prepared, start, results = self.cell(method, draw), None, time.monotonic(), []
        for budget in method.budgets or self.settings["kept_shares"]:
            file = f"{method.name}/draw{draw}/{budget}.safetensors"
            row = Row("adaptation", **self.axes, draw=draw, method=method.name, structure="", shots=0, budget=budget,
                      file=file)  # fmt: skip
            losses: list[float] = []
            try:
                if self.failure:
                    row.status, row.reason, row.file = "failed", self.failure, ""
                elif reason := TRAINS if isinstance(method, TrainedMethod) else method.decline(view):
                    row.status, row.reason, row.file = "declined", reason, ""
                else:
                    prepared = method.prepare(view) if prepared is None else prepared
                    losses = self.score(method, view, prepared, row, start)
            except (ValueError, RuntimeError, ArithmeticError, NotImplementedError) as error:
                row.status, row.reason, row.file = "failed", f"{type(error).__name__}: {error}", ""
            results.append((row, losses))
            start = time.monotonic()
        return results

    def score(self, method: Method, view: Cell, prepared: object, row: Row, start: float) -> list[float]:
        """Store one budget, load it back, evaluate the restored model; returns the loss of each held-out document."""
        path = self.out / row.file
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = method.store(view, prepared, row.budget, path)
        describe_stored(row, path, start)
        row.kept_share = stored.kept / view.body_size
        load_body(self.skeleton, method.restore(self.base, path))
        return evaluate(row, self.skeleton, self.test, self.settings["batch_size"])


def compress_all(adapted: Adapted, methods: list[str]) -> Results:
    """Run every draw of every method, or take it from its record."""
    runs, settings = [], adapted.settings
    for name in methods:
        options = method_settings.options(settings["methods"].get(name, {}))
        method = baselines.METHODS[name].configured(options)
        code = code_hash("study.compress_language_model", baselines.module_of(name))
        for draw in range(settings["draws"] if method.stochastic else 1):
            facts = [adapted.key, code, options, settings["kept_shares"], draw]
            runs.append((f"{name}-{draw}", facts, partial(adapted.rows, method, draw)))
    return run_all(adapted.out, runs)


def main() -> None:
    a, study, paths = parse_step("Compress the update of one adapted language model.", "language-model", "seed")
    axes, settings = {"model": a.model, "seed": a.seed}, study.language_settings("adaptation")
    out = paths.experiment("adaptation", **axes)
    provenance.make_deterministic(0)
    adapted = Adapted(paths.pretrained(a.model), paths.adapted(**axes), paths.text("adaptation"), axes, settings, out)
    write_results(out, compress_all(adapted, study.adaptation_methods), adapted.test, adapted.inputs)


if __name__ == "__main__":
    run(main)
