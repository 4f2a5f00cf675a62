"""All paths of a study's results folder.

An axis may also be a wildcard of Snakemake: ``Paths("results/mini").finetuned("{model}", "{task}", "{seed}")``.
"""

from pathlib import Path

SPLITS = ("train", "validation", "test")
Axis = str | int


class Paths:
    """Paths below the results folder of a study.

    Args:
        results: the folder, such as results/mini.
    """

    def __init__(self, results: str | Path):
        self.results = Path(results)
        self.config = self.results / "config.json"  # resolved: all defaults written out
        self.provenance = self.results / "provenance.json"
        self.manifest = self.results / "manifest.json"
        self.collected = self.results / "collected.json"
        self.benchmarks = self.results / "benchmarks"
        self.logs = self.results / "logs"

    # Text and tasks.

    def corpus(self, package: str) -> Path:
        """Sentences of a package; a manifest (.json) lies beside them."""
        return self.results / "corpus" / f"{package}.parquet"

    def task(self, task: str) -> Path:
        """Folder of a task: its splits and manifest.json."""
        return self.results / "tasks" / task

    def text(self, experiment: str) -> Path:
        """Folder of the running text of an experiment on language models."""
        return self.results / "language" / "text" / experiment

    # Models.

    def pretraining(self, model: str) -> Path:
        """Folder of a checkpoint that this study pre-trains."""
        return self.results / "pretraining" / model

    def pretrained(self, model: str) -> Path:
        """Folder of the imported checkpoint, which the cells start from."""
        return self.results / "models" / model / "pretrained"

    def tuning(self, model: str) -> Path:
        """Table of the search for learning rate and epochs."""
        return self.results / "tuning" / f"{model}.csv"

    # Cells.

    def cell(self, model: str, task: str, seed: Axis) -> Path:
        """Folder of a cell."""
        return self.results / "cells" / model / task / f"seed{seed}"

    def finetuned(self, model: str, task: str, seed: Axis) -> Path:
        """Folder of the initial state, the fine-tuned model and manifest.json."""
        return self.cell(model, task, seed) / "finetuned"

    def released(self, model: str, task: str, seed: Axis) -> Path:
        """Record that the large files of the fine-tuned model were removed, and which."""
        return self.cell(model, task, seed) / "released.json"

    def random_init(self, model: str, task: str, seed: Axis) -> Path:
        """Folder of the control that is trained from random weights."""
        return self.cell(model, task, seed) / "random-init"

    def compressed(self, model: str, task: str, seed: Axis, method: str) -> Path:
        """Folder of a method: scores.csv, predictions.parquet, manifest.json, stored files with their records."""
        return self.cell(model, task, seed) / "compressed" / method

    def scores(self, model: str, task: str, seed: Axis, method: str) -> Path:
        """Scores of a method in a cell."""
        return self.compressed(model, task, seed, method) / "scores.csv"

    def stored(self, model: str, task: str, seed: Axis, method: str, budget: Axis | float, draw: int = 0) -> Path:
        """Stored file of a method at a budget."""
        return self.compressed(model, task, seed, method) / f"draw{draw}" / f"{budget}.safetensors"

    def suggested(self, model: str, task: str, seed: Axis) -> Path:
        """Folder of the suggested kept shares: suggestions.csv, curves.csv and the stored sub-networks."""
        return self.cell(model, task, seed) / "suggested"

    def inference(self, model: str, task: str, seed: Axis) -> Path:
        """Table of inference times; its manifest (.json) lies beside it."""
        return self.cell(model, task, seed) / "inference.csv"

    def checks(self, model: str, task: str, seed: Axis) -> Path:
        """Folder of the ablations of KEN: checks.csv and stored files."""
        return self.cell(model, task, seed) / "checks"

    # Language models.

    def adapted(self, model: str, seed: Axis) -> Path:
        """Folder of an adapted language model."""
        return self.results / "language" / model / f"seed{seed}" / "adapted"

    def experiment(self, experiment: str, model: str, seed: Axis) -> Path:
        """Folder of the perplexities of "pruning" or "adaptation" of one language model."""
        return self.results / "language" / model / f"seed{seed}" / experiment

    # Tables and report.

    def table(self, name: str) -> Path:
        """A collected table, such as scores."""
        return self.results / f"{name}.csv"

    def report(self, folder: str, file: str) -> Path:
        """A file of the report, in one of its folders: statistics, tables, figures, report, publication."""
        return self.results / folder / file

    # Logs and times.

    def log(self, rule: str, *axes: str) -> Path:
        """Log of a job, in folders named after its rule and the values of its wildcards."""
        return self.logs.joinpath(rule, *axes).with_name(f"{(rule, *axes)[-1]}.log")

    def benchmark(self, rule: str, *axes: str) -> Path:
        """Time and memory of a job, as Snakemake measures them."""
        return self.benchmarks.joinpath(rule, *axes).with_name(f"{(rule, *axes)[-1]}.tsv")


def without_split(path: str | Path) -> tuple[Path, str]:
    """Path of a user's data, and the name of the split behind its last "#"; a "#" may also belong to the path itself.

    Example:
        >>> without_split("data/saved#train")
        (PosixPath('data/saved'), 'train')
    """
    name, separator, split = str(path).rpartition("#")
    return (Path(name), split) if separator and not Path(path).exists() else (Path(path), "")
