"""Command line of a step: a results folder and the axes of the job. Settings come from the resolved config there."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from ken.errors import UserError, did_you_mean
from study.definition.paths import Paths
from study.definition.study import Study

AXES: dict[str, tuple[str, Callable[[Study], Iterable]]] = {
    "package": ("package of the corpus", lambda study: study.config["corpus"]["packages"]),
    "model": ("model or language model", lambda study: study.models),
    "task": ("task", lambda study: study.config["tasks"]),
    "seed": ("seed", lambda study: study.config["seeds"]),
    "experiment": ("experiment on language models", lambda study: study.experiments),
}


def parse_step(description: str, *axes: str, **options: dict) -> tuple[argparse.Namespace, Study, Paths]:
    """Read the command line of a step and the study that it names.

    Args:
        description: of the step, for --help.
        axes: of the job, from `AXES`; each is a required option.
        options: further options with the keyword arguments of `add_argument`.

    Returns:
        Arguments (one attribute per axis and option), the study, and the paths of its results folder.

    Raises:
        UserError: the folder holds no config, or an axis has a value that is not in the study.

    Example:
        >>> a, study, paths = parse_step("Make one task.", "task")  # doctest: +SKIP
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("results", type=Path, help="results folder of the study, such as results/mini")
    for axis in axes:
        parser.add_argument(f"--{axis}", required=True, type=int if axis == "seed" else str, help=AXES[axis][0])
    for name, keywords in options.items():
        parser.add_argument(f"--{name}", **keywords)
    arguments = parser.parse_args()
    paths = Paths(arguments.results)
    if not paths.config.is_file():
        advice = "name the results folder of a study that Snakemake has started, such as results/mini"
        raise UserError(f"{paths.config} does not exist: {advice}.")
    study = Study.read(arguments.results)
    for axis in axes:
        value, valid = getattr(arguments, axis), list(AXES[axis][1](study))
        if value not in valid:
            hint = did_you_mean(str(value), map(str, valid))
            raise UserError(f"--{axis} is {value}, which is not in the study {study.name}.{hint}")
    return arguments, study, paths
