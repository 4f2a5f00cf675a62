"""Check of Snakemake's command line, before Snakemake reads the configs that it names.

`--configfile` and `--config` take every word up to the next option. So in `snakemake --configfile mine.yaml figures`,
Snakemake takes the target for a second config, and ends with a traceback. The profiles call `check_arguments`: they are
the only files that Snakemake reads before the configs.
"""

import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

CONFIGS = ("--configfile", "--configfiles")
VALUES = ("--config", "-C")
SUFFIXES = (".yaml", ".yml", ".json")


def check_arguments(arguments: Sequence[str]) -> None:
    """End Snakemake with a sentence if an option has taken a target for its value, or if a config does not exist.

    Args:
        arguments: of Snakemake, without its name.

    Raises:
        SystemExit: the sentence has the command that works.
    """
    targets, others, configs, option, taken_by = [], [], [], "", ""
    for before, argument in pairwise(["", *arguments]):
        if argument.startswith("-"):
            option = argument
        elif _is_target(option, argument, is_first=before == option):
            targets.append(argument)
            taken_by = option
            continue
        elif option in CONFIGS:
            configs.append(argument)
        others.append(argument)
    if targets:
        command = shlex.join(["snakemake", *targets, *others])
        sys.exit(f"error: Snakemake takes {targets[0]} for a value of {taken_by}. Put targets first: {command}")
    for config in configs:
        if not Path(config).exists():
            sys.exit(f"error: the config {config} does not exist (relative paths start at {Path.cwd()}).")


def _is_target(option: str, argument: str, is_first: bool) -> bool:
    """Whether a word behind an option is a target that the option would take."""
    if option in CONFIGS:
        return not is_first and (not argument.endswith(SUFFIXES) or Path(argument).parts[0] == "results")
    return option in VALUES and "=" not in argument
