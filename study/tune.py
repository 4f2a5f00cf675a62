"""Search learning rate and epochs of one model on validation, for each arm. The config is then edited by hand.

The search has a separate seed and does not evaluate on test data.
"""

import itertools
import math
from pathlib import Path

import pandas as pd

from study.definition.step import parse_step
from study.finetune import initial_model
from study.models.classifiers import check_checkpoint, load_tokenizer
from study.running import files, provenance
from study.running.device import acquire_device
from study.running.workflow import run
from study.training.classification import train_classifier
from study.training.examples import encode, load_task
from study.training.loop import Diverged


def try_settings(pretrained: Path, task: Path, arm: str, settings: dict, seed: int) -> dict[str, object]:
    """Best validation weighted F1 of one fine-tuning, and the epoch it came from; both NaN if it diverged."""
    device = acquire_device()
    check_checkpoint(pretrained)
    splits, classes = load_task(task)
    tokenizer = load_tokenizer(pretrained, settings["max_length"])
    provenance.make_deterministic(provenance.seed_of("tune", arm, task.name, seed))
    model, _ = initial_model(pretrained, arm, classes, tokenizer.pad_token_id)
    sets = [encode(splits[split], classes, tokenizer) for split in ("train", "validation")]
    try:
        _, fitted = train_classifier(model.to(device), *sets, settings, seed)
    except Diverged as error:
        print(error, flush=True)
        fitted = {}
    return {key: fitted.get(key, math.nan) for key in ("best_epoch", "validation_weighted_f1")}


def tune(model: str, pretrained: Path, tasks: list[Path], arms: list[str], grid: dict, settings: dict) -> pd.DataFrame:
    """All settings of the grid on all tasks for each arm; one row each, the best of each arm first."""
    rows = []
    for arm, rate, epochs in itertools.product(arms, grid["learning_rates"], grid["epochs"]):
        chosen = settings | {"learning_rate": rate, "epochs": epochs}
        for task in tasks:
            print(f"{arm}, learning rate {rate}, {epochs} epochs, {task.name}", flush=True)
            fitted = try_settings(pretrained, task, arm, chosen, grid["seed"])
            rows.append(
                {"model": model, "arm": arm, "learning_rate": rate, "epochs": epochs, "task": task.name, **fitted}
            )
    table = pd.DataFrame(rows)
    axes = ["arm", "learning_rate", "epochs"]
    by_settings = table.groupby(axes)["validation_weighted_f1"]
    table["mean_over_tasks"] = by_settings.transform(lambda scores: scores.mean(skipna=False))
    return table.sort_values(["arm", "mean_over_tasks"], ascending=[True, False], kind="stable")


def main() -> None:
    a, study, paths = parse_step("Search learning rate and epochs of one model on validation.", "model")
    search = study.tuning_settings(a.model)
    tasks = [paths.task(task) for task in search.pop("tasks")]
    table = tune(a.model, paths.pretrained(a.model), tasks, **search)
    files.write_csv(paths.tuning(a.model), table)
    print(table.to_string(index=False))


if __name__ == "__main__":
    run(main)
