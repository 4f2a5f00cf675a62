"""Fine-tune one cell (model x task x seed), or its control that starts from random weights.

The exact initial state, pre-trained body and this cell's fresh head, is saved before the first step: resetting a weight
means going back to it. The epoch with the best weighted F1 on validation is kept; test data plays no part in training.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from baselines.training import Recipe
from study import files, metrics, provenance
from study.errors import run
from study.examples import Examples, encode, load_task, predict, shuffled_batches
from study.models import load_classifier, load_tokenizer, random_classifier
from study.training import linear_schedule

ARMS = ("pretrained", "random-init")


def train(
    model: nn.Module,
    train_set: Examples,
    validation_set: Examples,
    settings: dict,
    seed: int,
    recipe: Recipe | None = None,
) -> tuple[nn.Module, dict]:
    """Train a model and choose its best epoch on validation; prints progress.

    Args:
        settings: epochs, batch_size, learning_rate, warmup_share, weight_decay, evaluation_batch_size.
        seed: of the data order, the same for every method that trains on this cell.
        recipe: what a method changes in the loop; nothing by default.

    Returns:
        The model of the best epoch (`model` itself, unless the recipe judges another) and a record: best_epoch (from
        1), validation_weighted_f1 at it, and history: one entry an epoch.

    Raises:
        ValueError: the recipe has offered no model to choose.
    """
    recipe = recipe or Recipe()
    generator = torch.Generator().manual_seed(seed)
    steps, done = settings["epochs"] * -(-len(train_set) // settings["batch_size"]), 0
    groups = recipe.parameter_groups(model, settings["learning_rate"])
    trained = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, settings["learning_rate"], weight_decay=settings["weight_decay"], fused=True)
    schedule = linear_schedule(optimizer, steps, settings["warmup_share"])
    history, best, start = [], None, time.monotonic()
    for epoch in range(1, settings["epochs"] + 1):
        model.train()
        losses = []
        for batch in shuffled_batches(train_set, settings["batch_size"], generator):
            loss = model(**batch).loss
            optimizer.zero_grad()
            (loss + recipe.penalty(done / steps)).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            recipe.after_step(done / steps)
            losses.append(loss.item())
        candidate = recipe.candidate(model, done / steps)
        f1 = None
        if candidate is not None:
            predictions = predict(candidate, validation_set, settings["evaluation_batch_size"])
            f1 = metrics.scores(validation_set.labels, predictions)["weighted_f1"]
            if best is None or f1 > best[0]:
                best = (f1, epoch, candidate, {name: t.clone() for name, t in candidate.state_dict().items()})
        history.append({"epoch": epoch, "loss": sum(losses) / len(losses), "validation_weighted_f1": f1})
        seconds = time.monotonic() - start
        left = seconds / epoch * (settings["epochs"] - epoch)
        judged = "not judged yet" if f1 is None else f"{f1:.3f}"
        loss = history[-1]["loss"]
        print(f"epoch {epoch}: loss {loss:.3f}, validation F1 {judged}, about {left:.0f} s left", flush=True)
    if best is None:
        raise ValueError("no epoch gave a model that can be chosen: train for more epochs.")
    best[2].load_state_dict(best[3])
    return best[2], {"best_epoch": best[1], "validation_weighted_f1": best[0], "history": history}


def data_order(axes: dict) -> int:
    """Seed of the order of the training data of a cell."""
    return provenance.seed_of("data order", axes["task"], axes["seed"])


def finetune(
    pretrained: Path, task: Path, axes: dict, settings: dict, out: Path, arm: str = "pretrained"
) -> dict[str, object]:
    """Fine-tune one cell and write it into the folder `out`.

    Args:
        pretrained: checkpoint folder. task: task folder.
        axes: model, task and seed of the cell, from which every random choice is derived.
        settings: the cell's section finetuning (see `train`) with max_length.
        arm: "pretrained" saves initial.safetensors, the fine-tuned model and its tokenizer; "random-init" saves only
            the manifest, it is a control.

    Returns:
        The manifest that is also written: head names, scores on test, learning curve, settings, time, memory.
    """
    start = time.monotonic()
    splits, classes = load_task(task)
    tokenizer = load_tokenizer(pretrained, settings["max_length"])
    encoded = {name: encode(frame, classes, tokenizer) for name, frame in splits.items()}
    provenance.deterministic(provenance.seed_of("initial", arm, *axes.values()))
    with files.replacing_folder(out) as folder:
        head: list[str] = []
        if arm == "pretrained":
            model, head = load_classifier(pretrained, classes, tokenizer.pad_token_id)
            save_file(
                {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
                folder / "initial.safetensors",
            )
        else:
            model = random_classifier(pretrained, classes, tokenizer.pad_token_id)
        order = data_order(axes)
        _, fitted = train(model, encoded["train"], encoded["validation"], settings, order)
        predictions = predict(model, encoded["test"], settings["evaluation_batch_size"])
        if arm == "pretrained":
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        manifest = {
            **axes,
            "arm": arm,
            "head": head,
            "settings": settings,
            **fitted,
            **metrics.scores(encoded["test"].labels, predictions),
            "seconds": round(time.monotonic() - start, 2),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "sha256": {path.name: files.sha256(path) for path in sorted(folder.glob("*.safetensors"))},
        }
        files.write_json(folder / "manifest.json", manifest)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune one cell of the study.")
    parser.add_argument("--pretrained", required=True, type=Path, help="checkpoint folder")
    parser.add_argument("--task-folder", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: epochs, learning_rate, ...")
    parser.add_argument("--arm", choices=ARMS, default="pretrained")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    a = parser.parse_args()
    axes = {"model": a.model, "task": a.task, "seed": a.seed}
    manifest = finetune(a.pretrained, a.task_folder, axes, a.settings, a.out, a.arm)
    print(f"best epoch {manifest['best_epoch']}, test weighted F1 {manifest['weighted_f1']:.3f}")


if __name__ == "__main__":
    run(main)
