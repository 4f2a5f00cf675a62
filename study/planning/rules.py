"""Inputs and settings of the Snakemake rules, as functions of their wildcards.

All of them can be called and tested without Snakemake: wildcards are any object with the axes as attributes.
"""

import json
import shlex
import sys
import time
from collections.abc import Collection, Iterable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import baselines
from baselines.base import names_entries
from ken import checkpoint_files
from ken.errors import UserError
from study import manifest
from study.definition import checks, method_settings
from study.definition.config import check_keys
from study.definition.config import load as load_config
from study.definition.kept_files import kept_files
from study.definition.paths import Paths
from study.definition.study import Cell, Study
from study.planning import kenviz_matrix
from study.running import device, files
from study.running.code import code_hash
from study.running.workflow import hold_study, prepare_environment

if TYPE_CHECKING:
    from snakemake.io import Wildcards
    from snakemake.workflow import Workflow

SKEW = 10  # seconds by which the clock of a file server may be ahead
CONFIG_FILES = ("config/claims.yaml", "config/published.yaml")  # inputs of rules


def as_json(value: object) -> str:
    """Settings as text, so that Snakemake can show how the parameter of a rule has changed."""
    return json.dumps(value, sort_keys=True)


def logged(step: str, arguments: str) -> str:
    """Shell command of a rule that runs a step. Its log begins with the command itself, ready to be pasted.

    Args:
        step: name of a module, such as "study.finetune".
        arguments: with the fields that Snakemake fills in, such as "--model {wildcards.model}".
    """
    command = f"python -m {step} {arguments}"
    return f"cat > {{log}} <<'END'\n{command}\nEND\n{command} >> {{log}} 2>&1"


def prepare_study(
    config: dict, dry_run: bool, configfiles: Iterable[str | Path] = (), overrides: Collection[str] = ()
) -> Study:
    """Check the config that Snakemake has read, and prepare this process to run the study.

    Args:
        config: if it has the key report_only, only rules of the report are run, and data and models may be missing.
        dry_run: whether nothing will be written.
        configfiles: files that the config was read from.
        overrides: keys of the config that were set on the command line.

    Raises:
        UserError: the config has a mistake, or the results cannot be written.
    """
    for path in configfiles:
        check_keys(path)
    sources = not config.pop("report_only", False)
    unused = not sources or "methods" in overrides
    study = Study(load_config(config, baselines.METHODS, sources, unused))
    for note in checks.notes(study.config, baselines.METHODS):
        print(note, file=sys.stderr)
    paths = Paths(f"results/{study.name}")
    if not dry_run:
        files.check_writable(paths.results)
        if paths.results.is_dir() and not paths.config.exists():  # removed from a study that has nothing to run
            study.write(paths.results)
    checkpoint_minutes = study.config["finetuning"]["checkpoint_minutes"]
    prepare_environment(study.config["device"], study.config["jobs_per_gpu"], checkpoint_minutes)
    return study


def needs_gpu(workflow: "Workflow") -> bool:
    """Whether jobs that use the GPU, if there is one, will run on this machine and not on a cluster."""
    return workflow.local_exec and any("gpu" in job.rule.resources for job in workflow.dag.needrun_jobs())


class Rules:
    """Inputs and settings of the rules of one study.

    Args:
        study: with its resolved config.
        paths: of its results folder.

    Attributes:
        post_hoc: methods that are run on all cells. trained: methods that train, run on `Study.trained_cells`.
        searched: methods whose kept share is searched for.
        collected: tables that `study.collect` writes.
    """

    collected = ("scores", "finetuning", "suggestions", "inference", "checks", "tasks", "models")

    def __init__(self, study: Study, paths: Paths):
        self.study, self.paths = study, paths
        self.post_hoc, self.trained = method_settings.by_training(study.methods)
        self.searched = study.config["suggestion"]["methods"]

    # Text and tasks.

    def corpora(self, packages: Iterable[str]) -> list[Path]:
        """Sentences of packages."""
        return [self.paths.corpus(package) for package in packages]

    def task_inputs(self, wildcards: "Wildcards") -> list[Path | str]:
        """Corpora of a docstring task, or the user's files of a task; nothing for a task from the hub."""
        study = self.study
        return [*self.corpora(study.task_packages(wildcards.task)), *study.task_files(wildcards.task)]

    def text_inputs(self, wildcards: "Wildcards") -> list[Path | str]:
        """Corpora or files of a running text; nothing for a text from the hub."""
        packages = self.study.text_settings(wildcards.experiment).get("packages", [])
        return [*self.corpora(packages), *self.study.text_files(wildcards.experiment)]

    # Models.

    def checkpoint_files(self, wildcards: "Wildcards") -> list[tuple[str, int, int]]:
        """Name, size and time of change of the files that are imported from a folder: gigabytes need not be hashed."""
        folder = self.study.checkpoint(wildcards.model, self.paths)
        if folder is None:
            return []
        sources = checkpoint_files.model_files(folder)
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]

    def checkpoint_inputs(self, wildcards: "Wildcards") -> list[Path]:
        """A small file of a model's source folder, instead of gigabytes of weights; nothing for the hub."""
        folder = self.study.checkpoint(wildcards.model, self.paths)
        if folder is None:
            return []
        is_users = self.study.models[wildcards.model]["source"] == "directory"
        return [folder / ("config.json" if is_users else "manifest.json")]

    # Cells.

    def method_code(self, step: str, methods: Iterable[str]) -> str:
        """Hash of the code of a step and of the methods it runs."""
        return code_hash(step, *map(baselines.module_of, methods))

    def compression_settings(self, methods: Iterable[str], wildcards: "Wildcards") -> str:
        """What the scores of methods in a cell depend on: budgets, draws, learning rates, options, evaluation."""
        config, used, task = self.study.config, {}, wildcards.task
        kept = kept_files(self.study, (wildcards.model, task, int(wildcards.seed)))
        for name in methods:
            method, section = baselines.METHODS[name], config["method_settings"].get(name, {})
            used[name] = {
                "budgets": method_settings.budgets_in(config, method, task),
                "draws": method_settings.draws(method, section, config["draws"]),
                "learning_rates": method_settings.learning_rate_multipliers(method, section),
                "options": method_settings.options(section),
                "keeps_files": name not in config["scores_only"],
            } | ({} if kept is None else {"kept_files": kept.get(name, [])})
        return as_json([used, self.study.evaluation_settings(task)])

    def finetuned_manifests(self) -> list[Path]:
        """Manifests of all fine-tuned cells and of the controls from random weights."""
        paths, study = self.paths, self.study
        folders = [paths.finetuned(*cell) for cell in study.cells]
        folders += [paths.random_init(*cell) for cell in study.random_init_cells]
        return [folder / "manifest.json" for folder in folders]

    def scores(self) -> list[Path]:
        """Scores of every method on each of its cells."""
        runs = [*product(self.study.cells, self.post_hoc), *product(self.study.trained_cells, self.trained)]
        return [self.paths.scores(*cell, method) for cell, method in runs]

    def suggestions(self) -> list[Path]:
        """Suggested kept shares of all cells, if any are searched for."""
        cells = self.study.cells if self.study.suggests else []
        return [self.paths.suggested(*cell) / "suggestions.csv" for cell in cells]

    def inference(self) -> list[Path]:
        """Inference times, if any are measured."""
        cells = self.study.trained_cells if self.study.config["inference"]["methods"] else []
        return [self.paths.inference(*cell) for cell in cells]

    def checks(self) -> list[Path]:
        """Ablations of KEN, if any are run."""
        cells = self.study.trained_cells if self.study.has_ablations else []
        return [self.paths.checks(*cell) / "checks.csv" for cell in cells]

    def released(self) -> list[Path]:
        """Records of the cells whose fine-tuned models are removed in the end."""
        return [self.paths.released(*cell) for cell in self.study.released_cells]

    def finished_cell(self, wildcards: "Wildcards") -> list[Path]:
        """Everything that is made from the fine-tuned model of a cell."""
        cell = (wildcards.model, wildcards.task, int(wildcards.seed))
        study, paths = self.study, self.paths
        methods = [*self.post_hoc, *(self.trained if cell in study.trained_cells else [])]
        parts = [paths.scores(*cell, method) for method in methods]
        parts += [paths.suggested(*cell) / "suggestions.csv"] if study.suggests else []
        if cell in study.trained_cells:
            parts += [paths.inference(*cell)] if study.config["inference"]["methods"] else []
            parts += [paths.checks(*cell) / "checks.csv"] if study.has_ablations else []
        return parts

    # Language models.

    def perplexities(self) -> list[Path]:
        """Perplexities of every experiment on all language models."""
        runs = product(self.study.experiments, *self.study.language_axes.values())
        return [self.paths.experiment(*run) / "perplexity.csv" for run in runs]

    # The report.

    def measured_tables(self) -> list[Path]:
        """Tables that are measured apart from the scores, some of them only in some studies."""
        config = self.study.config
        measured = {
            "updates": True,
            "choices": True,
            "spread": config["spread"]["methods"],
            "timing": config["timing"]["heights"],
            "perplexity": self.study.experiments,
        }
        return [self.paths.table(name) for name, wanted in measured.items() if wanted]

    def spread_cells(self) -> list[tuple[Cell, str]]:
        """(cell, method) whose kept entries are tested for clusters: all models on the first task and seed."""
        return list(product(self.study.first_cells, self.study.config["spread"]["methods"]))

    def spread_scores(self) -> list[Path]:
        """Scores of `spread_cells`; they are written together with the stored files."""
        return [self.paths.scores(*cell, method) for cell, method in self.spread_cells()]

    def spread_files(self) -> list[Path]:
        """Stored files of `spread_cells`."""
        share = self.study.config["spread"]["kept_share"]
        return [self.paths.stored(*cell, method, share) for cell, method in self.spread_cells()]

    @property
    def kenviz_cell(self) -> Cell:
        """Cell that KENviz shows."""
        section = self.study.config["kenviz"]
        return section["model"], section["task"], self.study.config["seeds"][0]

    @property
    def kenviz_methods(self) -> list[str]:
        """Methods whose sub-networks KENviz compares: all that reset entries at its kept share and keep their files."""
        config, methods = self.study.config, []
        for name in self.post_hoc:
            method, stays = baselines.METHODS[name], name not in config["scores_only"]
            budgets = method_settings.budgets_in(config, method, config["kenviz"]["task"])
            if (
                method.family == "reset"
                and names_entries(method)
                and stays
                and config["kenviz"]["kept_share"] in budgets
            ):
                methods.append(name)
        return methods

    def kenviz_scores(self) -> list[Path]:
        """Scores of the methods that KENviz shows: written when their files are."""
        methods = dict.fromkeys([self.study.config["kenviz"]["method"], *self.kenviz_methods])
        return [self.paths.scores(*self.kenviz_cell, name) for name in methods]

    def kenviz_files(self, methods: Iterable[str]) -> list[Path]:
        """Stored sub-networks of methods at the kept share of KENviz."""
        share = self.study.config["kenviz"]["kept_share"]
        return [self.paths.stored(*self.kenviz_cell, name, share) for name in methods]

    @property
    def kenviz_matrix(self) -> str:
        """Option of the step that draws KENviz: part of the name of the matrix, where the config gives one."""
        matrix = self.study.config["kenviz"].get("matrix")
        return f"--matrix {shlex.quote(matrix)}" if matrix else ""

    # Everything.

    def results(self) -> list[Path]:
        """Every intermediate result, without those that were left out of the archive that the study comes from.

        Missing ones are made again, even in a finished study.
        """
        archive = self.paths.results / manifest.PACKED
        left_out = files.read_json(archive).get("left_out", []) if archive.exists() else []
        missing = {self.paths.results / name for name in left_out}
        return [path for path in self._all_results() if path not in missing]

    def _all_results(self) -> list[Path]:
        study, paths = self.study, self.paths
        manifests = [paths.task(task) / "manifest.json" for task in study.axes["task"]]
        manifests += [paths.text(experiment) / "manifest.json" for experiment in study.experiments]
        if "adaptation" in study.experiments:
            manifests += [paths.adapted(*axes) / "manifest.json" for axes in product(*study.language_axes.values())]
        corpora = self.corpora(study.packages)
        manifests += [*corpora, *(corpus.with_suffix(".json") for corpus in corpora)]
        manifests += [paths.pretrained(model) / "manifest.json" for model in study.models]
        sources = [study.checkpoint(model, paths) for model in study.models]
        manifests += [folder / "manifest.json" for folder in sources if folder and folder.is_relative_to(paths.results)]
        cells = [*self.finetuned_manifests(), *self.scores(), *self.suggestions(), *self.inference(), *self.checks()]
        tables = [*map(paths.table, [*self.collected, "claims"]), *self.measured_tables()]
        return [*manifests, *cells, *self.released(), *self.perplexities(), *tables, paths.collected, paths.provenance]

    def check_sources(self) -> None:
        """Refuse to start with the user's files changed in the future: Snakemake removes what is made from them.

        Raises:
            UserError: the file and what to do.
        """
        study = self.study
        sources = [path for task in study.axes["task"] for path in study.task_files(task)]
        sources += [path for experiment in study.experiments for path in study.text_files(experiment)]
        sources += [path for model in study.models for path in self.checkpoint_inputs(SimpleNamespace(model=model))]
        for path in map(Path, [*sources, *CONFIG_FILES]):
            if path.exists() and path.stat().st_mtime > time.time() + SKEW:
                changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
                raise UserError(
                    f"{path} was changed in the future ({changed}), so Snakemake would remove what is made from it: "
                    f"check the clock, run `touch {shlex.quote(str(path))}`, then the same command again."
                )

    def begin_run(self, needs_gpu: bool = False) -> None:
        """Keep other runs of the study out, write its config for the steps, and remove tables it no longer asks for.

        Args:
            needs_gpu: see the function of that name.

        Raises:
            UserError: another run of the study is under way, or jobs would fail: there is no GPU, no matrix of that
                name for KENviz, or a file was changed in the future.
        """
        if needs_gpu:
            device.check_available()
        self.check_sources()
        kenviz_matrix.check(self.study, self.paths)
        hold_study(self.study.name)
        self.study.write(self.paths.results)
        for name in ("spread", "timing", "perplexity"):
            if self.paths.table(name) not in self.measured_tables():
                self.paths.table(name).unlink(missing_ok=True)
