"""Fine-tune one cell (model x task x seed), or its control that starts from random weights.

The exact initial state, pre-trained body and this cell's fresh head, is saved before the first step: resetting a weight
means going back to it. The epoch with the best weighted F1 on validation is kept; test data plays no part in training.
"""

import resource
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from study.definition.step import parse_step
from study.models.classifiers import checked_checkpoint, load_classifier, load_tokenizer, random_classifier
from study.running import device, files, provenance
from study.running.workflow import run
from study.training import metrics
from study.training.examples import encode, load_task, predict
from study.training.gradients import CPU
from study.training.loop import train
from study.training.resumption import Checkpoint

ARMS = ("pretrained", "random-init")


def data_order(axes: dict) -> int:
    """Seed of the order of the training data of a cell."""
    return provenance.seed_of("data order", axes["task"], axes["seed"])


def finetune(
    pretrained: Path,
    task: Path,
    axes: dict,
    settings: dict,
    out: Path,
    arm: str = "pretrained",
    on: torch.device = CPU,
    checkpoint_minutes: float | None = None,
) -> dict[str, object]:
    """Fine-tune one cell and write it into the folder `out`.

    Args:
        pretrained: checkpoint folder. task: task folder.
        axes: model, task and seed of the cell, from which every random choice is derived.
        settings: the cell's section finetuning (see `loop.train`) with max_length.
        arm: "pretrained" saves initial.safetensors, the fine-tuned model and its tokenizer; "random-init" saves only
            the manifest, it is a control.
        on: device to compute on.
        checkpoint_minutes: see `Checkpoint`; the state of the training lies in a folder beside `out`, and a call with
            the same arguments goes on from there after one that was killed.

    Returns:
        The manifest that is also written: head names, scores on test, learning curve, settings, device, time, memory.
    """
    start = time.monotonic()
    imported = checked_checkpoint(pretrained)
    checkpoint = Checkpoint(out.with_name(f"{out.name}.training"), checkpoint_minutes)
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
        model.to(on)
        _, fitted = train(model, encoded["train"], encoded["validation"], settings, order, checkpoint=checkpoint)
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
            "device": torch.cuda.get_device_name() if on.type == "cuda" else "cpu",
            "seconds": round(checkpoint.seconds_before + time.monotonic() - start, 2),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "inputs": {"pretrained": imported, "task": files.read_json(task / "manifest.json")["sha256"]},
        }
        manifest = provenance.write_manifest(folder, **manifest)
    checkpoint.remove()
    return manifest


def main() -> None:
    arm = {"choices": ARMS, "default": "pretrained", "help": "weights that it starts from"}
    a, study, paths = parse_step("Fine-tune one cell of the study.", "model", "task", "seed", arm=arm)
    axes = {"model": a.model, "task": a.task, "seed": a.seed}
    out = (paths.finetuned if a.arm == "pretrained" else paths.random_init)(**axes)
    settings = study.finetuning_settings(a.model, a.arm)
    manifest = finetune(paths.pretrained(a.model), paths.task(a.task), axes, settings, out, a.arm, device.take())
    print(f"best epoch {manifest['best_epoch']}, test weighted F1 {manifest['weighted_f1']:.3f}")


if __name__ == "__main__":
    run(main)
