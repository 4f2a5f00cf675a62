"""A study as its resolved config describes it: cells, methods, and the settings of every step.

The Snakefile and the steps read the same settings here, so what a rule declares as a trigger is what its step uses.
It imports nothing heavy, so that light steps, such as the extraction of text, start quickly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from study.definition.paths import SPLITS, Paths, without_split
from study.running import files

CONTROLS = ("full", "none")
EXPERIMENTS = ("pruning", "adaptation")  # on language models
SCORING = ("scored_texts", "kept_shares")  # keys of a task that say how models are scored on it
Cell = tuple[str, str, int]  # model, task, seed


@dataclass(frozen=True)
class Study:
    """A study with all defaults of its config written out.

    Attributes:
        config: as `definition.config.load` returns it.
    """

    config: Mapping

    @classmethod
    def read(cls, results: Path) -> "Study":
        """Read the resolved config of a results folder; Snakemake writes it when a run starts.

        Raises:
            UserError: there is no such file, or it was changed by hand.
        """
        return cls(files.read_json(Paths(results).config))

    def write(self, results: Path) -> None:
        """Write the resolved config into the results folder, where the steps read it.

        The order of models and tasks is kept: tables list them in this order, and the first ones serve as examples.
        """
        files.write_json(Paths(results).config, dict(self.config), sort_keys=False)

    @property
    def name(self) -> str:
        """Name of the study and of its results folder."""
        return self.config["study"]

    # Axes.

    @property
    def axes(self) -> dict[str, list]:
        """Values of the axes of all cells."""
        return {"model": list(self.config["models"]), "task": list(self.config["tasks"]), "seed": self.config["seeds"]}

    @property
    def trained_axes(self) -> dict[str, list]:
        """Values of the axes of the cells for methods that train, inference and ablations."""
        return {axis: self.config["trained_on"].get(f"{axis}s", values) for axis, values in self.axes.items()}

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return list(product(*self.axes.values()))

    @property
    def trained_cells(self) -> list[Cell]:
        """Cells of `trained_axes`."""
        return list(product(*self.trained_axes.values()))

    @property
    def random_init_seeds(self) -> list[int]:
        """Seeds of the control that is trained from random weights: the first one by default."""
        return self.config["finetuning"].get("random_init_seeds", self.config["seeds"][:1])

    @property
    def random_init_cells(self) -> list[Cell]:
        """Cells with that control."""
        return [cell for cell in self.cells if cell[2] in self.random_init_seeds]

    @property
    def methods(self) -> list[str]:
        """All methods, the controls first."""
        return [*CONTROLS, *(method for method in self.config["methods"] if method not in CONTROLS)]

    @property
    def models(self) -> dict[str, dict]:
        """Name -> section of the config, of classifiers and language models."""
        return self.config["models"] | self.config["language_modelling"]["models"]

    @property
    def experiments(self) -> list[str]:
        """Experiments on language models that have a text."""
        section = self.config["language_modelling"]
        return [name for name in EXPERIMENTS if section["models"] and "text" in section[name]]

    @property
    def parts(self) -> list[str]:
        """What the study has of the parts that only some studies have; `report.outputs` names what each adds."""
        other = [] if self.config["evaluation"]["precision"] == "float32" else ["precision"]
        return [*self.experiments, *(["random-init"] if self.random_init_seeds else []), *other]

    @property
    def language_axes(self) -> dict[str, list]:
        """Values of the axes of the language models."""
        return {"model": list(self.config["language_modelling"]["models"]), "seed": self.config["seeds"]}

    @property
    def has_ablations(self) -> bool:
        """Whether any ablation of KEN is run."""
        return any(self.config["checks"][check] for check in ("bandwidth_factors", "zero", "matrices"))

    # Text and tasks.

    def task_settings(self, task: str) -> dict:
        """The section of a task, with the limits of docstring snippets and without how models are scored on it."""
        spec = {key: value for key, value in self.config["tasks"][task].items() if key not in SCORING}
        limits = ("min_words", "max_words") if spec["source"] == "docstrings" else ()
        return spec | {key: self.config["corpus"][key] for key in limits}

    @property
    def packages(self) -> list[str]:
        """Packages whose docstrings the study uses: for its tasks and texts."""
        texts = [self.text_settings(experiment) for experiment in self.experiments]
        used = [*map(self.task_packages, self.config["tasks"]), *(text.get("packages", []) for text in texts)]
        return list(dict.fromkeys(package for packages in used for package in packages))

    def task_packages(self, task: str) -> list[str]:
        """Packages whose docstrings a task is made from."""
        spec = self.config["tasks"][task]
        if spec["source"] != "docstrings":
            return []
        return spec["classes"] if spec["label"] == "library" else [spec["package"]]

    def task_files(self, task: str) -> list[str]:
        """The user's files or folders that a task is made from."""
        spec = self.config["tasks"][task]
        return [str(without_split(spec[split])[0]) for split in SPLITS if split in spec and spec["source"] == "files"]

    def text_settings(self, experiment: str) -> dict:
        """The section of the running text of an experiment on language models."""
        return self.config["language_modelling"][experiment]["text"]

    def text_files(self, experiment: str) -> list[str]:
        """The user's files that the running text is made from."""
        spec = self.text_settings(experiment)
        return [spec[split] for split in SPLITS if split in spec and spec["source"] == "files"]

    # Models.

    def pretraining_settings(self, model: str) -> dict:
        """Architecture, size and settings of a model that is pre-trained in this study."""
        section = self.models[model]
        return {key: section[key] for key in ("architecture", "size")} | {"settings": self.config["pretraining"]}

    @property
    def pretrained_models(self) -> list[str]:
        """Classifiers whose checkpoint is, or was earlier, pre-trained by the suite."""
        return [name for name, model in self.config["models"].items() if model["source"] == "pretraining"]

    def checkpoint(self, model: str, paths: Paths) -> Path | None:
        """Folder that a model is imported from: the user's, committed, or pre-trained here; None for the hub."""
        section = self.models[model]
        if section["source"] == "hub":
            return None
        return Path(section.get("path") or section.get("checkpoint") or paths.pretraining(model))

    def import_settings(self, model: str) -> dict:
        """Where a model comes from."""
        keys = ("source", "path", "checkpoint", "repository", "revision")
        return {key: value for key, value in self.models[model].items() if key in keys}

    # Cells.

    def finetuning_settings(self, model: str, arm: str = "pretrained") -> dict:
        """Settings of a fine-tuning: the section finetuning with the overrides of the model."""
        section, overrides = self.config["finetuning"], self.config["models"][model]
        evaluation = self.config["evaluation"]
        settings = section | {"evaluation_batch_size": evaluation["batch_size"]}
        if evaluation["precision"] != "float32":
            settings["evaluation_precision"] = evaluation["precision"]
        settings |= {key: overrides[key] for key in settings.keys() & overrides.keys()}
        scratch_rate = overrides.get("random_init_learning_rate", section.get("random_init_learning_rate"))
        if arm == "random-init" and scratch_rate is not None:
            settings["learning_rate"] = scratch_rate
        others = ("random_init_learning_rate", "random_init_seeds", "checkpoint_minutes")
        return {key: value for key, value in settings.items() if key not in others}

    def tuning_settings(self, model: str) -> dict:
        """Grid, arms, tasks and settings of the search for learning rate and epochs."""
        arms = ["pretrained", *(["random-init"] if self.random_init_seeds else [])]
        settings = self.finetuning_settings(model)
        return {"grid": self.config["tuning"], "arms": arms, "tasks": self.axes["task"], "settings": settings}

    @property
    def first_cells(self) -> list[Cell]:
        """The cells of all models on the first task and seed, from which examples are drawn."""
        axes = self.axes
        return list(product(axes["model"], axes["task"][:1], axes["seed"][:1]))

    @property
    def released_cells(self) -> list[Cell]:
        """The cells whose fine-tuned models are removed when they are finished."""
        return [cell for cell in self.cells if cell not in self.described_cells]

    @property
    def described_cells(self) -> list[Cell]:
        """The cells in which updates and choices are described: all, or the first two tasks if models are removed."""
        if not self.removes_files:
            return self.cells
        axes = self.axes
        return list(product(axes["model"], axes["task"][:2], axes["seed"][:1]))

    @property
    def removes_files(self) -> bool:
        """Whether only those large files stay on the disk that a later step reads."""
        return self.config["keep_files"] == "read"

    def compression_settings(self, methods: Iterable[str], task: str) -> dict:
        """Settings with which `cells.finetuned_cell` runs these methods on a task."""
        methods = list(methods)
        sections = {name: section for name, section in self.config["method_settings"].items() if name in methods}
        scores_only = [name for name in self.config["scores_only"] if name in methods]
        shared = {key: self.config[key] for key in ("kept_shares", "draws")} | self.evaluation_settings(task)
        of_task = self.config["tasks"][task].get("kept_shares")
        return shared | {"methods": sections, "scores_only": scores_only, "kept_shares_of_task": of_task}

    def evaluation_settings(self, task: str) -> dict:
        """How restored models are evaluated on a task; `scored_texts` None for all texts."""
        settings = self.config["evaluation"] | {"max_length": self.config["finetuning"]["max_length"]}
        return settings | {"scored_texts": self.scored_texts(task)}

    def scored_texts(self, task: str) -> int | None:
        """Largest number of test texts on which compressed models are scored; None for all."""
        return self.config["tasks"][task].get("scored_texts")

    def inference_settings(self, task: str) -> dict:
        """Methods, number of texts and passes, and how the methods are run."""
        section = self.config["inference"]
        return section | {"settings": self.compression_settings(section["methods"], task)}

    def ablation_settings(self, task: str) -> dict:
        """Which ablations of KEN are run, and how models are evaluated."""
        return {"checks": self.config["checks"], "settings": self.evaluation_settings(task)}

    # Language models.

    def adaptation_settings(self) -> dict:
        """How a language model is adapted to a text."""
        section = self.config["language_modelling"]
        settings = {key: section["adaptation"][key] for key in ("epochs", "batch_size", "learning_rate")}
        return settings | {"max_length": section["max_length"]}

    @property
    def adaptation_methods(self) -> list[str]:
        """Methods that compress the update of an adapted language model, the controls first."""
        methods = self.config["language_modelling"]["adaptation"]["methods"]
        return [*CONTROLS, *(method for method in methods if method not in CONTROLS)]

    def language_settings(self, experiment: str) -> dict:
        """How language models are pruned, or how the updates of adapted ones are compressed."""
        section = self.config["language_modelling"]
        settings = section[experiment] | {key: section[key] for key in ("max_length", "batch_size")}
        if experiment == "adaptation":
            sections = self.config["method_settings"]
            own = {name: sections[name] for name in self.adaptation_methods if name in sections}
            settings |= {"draws": self.config["draws"], "methods": own}
        return {key: value for key, value in settings.items() if key != "text"}

    @property
    def suggests(self) -> bool:
        """Whether a kept share or a file is searched for."""
        search = self.config["suggestion"]
        return bool(search["methods"]) or search["smallest_file"]

    # Tables.

    def collection_settings(self) -> dict:
        """What `study.collect` collects."""
        return {
            **self.axes,
            "methods": self.methods,
            "scored_texts": {task: self.scored_texts(task) for task in self.axes["task"]},
            "trained": self.trained_axes,
            "measured": bool(self.config["inference"]["methods"]),
            "checked": self.has_ablations,
            "random_init_seeds": self.random_init_seeds,
            "suggested": self.suggests,
        }
