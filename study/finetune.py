"""Fine-tune one cell (model x task x seed), or its control that starts from random weights.

The initial state (pre-trained body and the cell's new head) is saved before the first step: a weight is reset to its
value there. The epoch with the best weighted F1 on validation is kept; test data is not used in training. A cell whose
training diverges before its first evaluation has no fine-tuned model; its manifest says why, and the study goes on.
"""

import resource
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from study.definition.step import parse_step
from study.models.classifiers import (
    check_checkpoint,
    load_classifier,
    load_tokenizer,
    random_classifier,
    replaced_labels,
)
from study.running import files, provenance
from study.running.device import FINETUNING, Needs, acquire_device
from study.running.workflow import run
from study.training import metrics
from study.training.classification import train_classifier
from study.training.examples import Examples, data_order_seed, encode, load_task, predict
from study.training.gradients import CPU
from study.training.loop import Diverged
from study.training.resumption import Checkpoint

ARMS = ("pretrained", "random-init")


def initial_model(pretrained: Path, arm: str, classes: list[str], pad_token_id: int) -> tuple[nn.Module, list[str]]:
    """The classifier that an arm starts from, and the names of its new head; no names for "random-init"."""
    if arm == "pretrained":
        return load_classifier(pretrained, classes, pad_token_id)
    return random_classifier(pretrained, classes, pad_token_id), []


def describe_replaced_head(pretrained: Path, head: list[str]) -> dict[str, str]:
    """A sentence for the manifest if the checkpoint had a classification head of its own; prints it."""
    if not (labels := replaced_labels(pretrained, head)):
        return {}
    sentence = f"The checkpoint's own classification head (labels: {', '.join(labels)}) was replaced by a new one."
    print(sentence, flush=True)
    return {"replaced_head": sentence}


def train_and_score(
    model: nn.Module, sets: dict[str, Examples], settings: dict, order: int, checkpoint: Checkpoint
) -> dict[str, object]:
    """Train a model: the record of `train_classifier` with scores on test, or status and reason if it diverged."""
    try:
        _, fitted = train_classifier(model, sets["train"], sets["validation"], settings, order, checkpoint=checkpoint)
    except Diverged as error:
        return {"status": "failed", "reason": str(error)}
    predictions = predict(model, sets["test"], settings["evaluation_batch_size"])
    return fitted | metrics.scores(sets["test"].labels, predictions)


def finetune(
    pretrained: Path,
    task: Path,
    axes: dict,
    settings: dict,
    out: Path,
    arm: str = "pretrained",
    device: torch.device = CPU,
) -> dict[str, object]:
    """Fine-tune one cell and write it into the folder `out`.

    If a call was killed, a call with the same arguments resumes its training; see `Checkpoint`.

    Args:
        pretrained: checkpoint folder.
        task: task folder.
        axes: model, task and seed of the cell, from which every random choice is derived.
        settings: the cell's section finetuning (see `train_classifier`) with max_length.
        arm: "pretrained" saves initial.safetensors, the fine-tuned model and its tokenizer; "random-init", the control,
            saves only the manifest.
        device: to compute on.

    Returns:
        The manifest that is also written: head names, scores on test, learning curve, settings, device, time, memory;
        replaced_head, if the checkpoint had a head of its own. If the training diverged, status "failed" and a reason
        take the place of scores and learning curve.
    """
    checkpoint = Checkpoint.beside(out)
    inputs = {"pretrained": check_checkpoint(pretrained)}
    splits, classes = load_task(task)
    tokenizer = load_tokenizer(pretrained, settings["max_length"])
    encoded = {name: encode(frame, classes, tokenizer) for name, frame in splits.items()}
    provenance.make_deterministic(provenance.seed_of("initial", arm, *axes.values()))
    with files.replacing_folder(out) as folder:
        model, head = initial_model(pretrained, arm, classes, tokenizer.pad_token_id)
        if arm == "pretrained":
            initial = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(initial, folder / "initial.safetensors")
        fitted = train_and_score(model.to(device), encoded, settings, data_order_seed(axes), checkpoint)
        if arm == "pretrained":
            (model.config if "reason" in fitted else model).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        manifest = provenance.write_manifest(
            folder,
            **axes,
            arm=arm,
            head=head,
            **describe_replaced_head(pretrained, head),
            settings=settings,
            **fitted,
            device=provenance.device_name(device),
            seconds=round(checkpoint.seconds(), 2),
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            inputs=inputs | {"task": files.read_json(task / "manifest.json")["sha256"]},
        )
    checkpoint.remove()
    return manifest


def main() -> None:
    arm = {"choices": ARMS, "default": "pretrained", "help": "weights that it starts from"}
    a, study, paths = parse_step("Fine-tune one cell of the study.", "model", "task", "seed", arm=arm)
    axes = {"model": a.model, "task": a.task, "seed": a.seed}
    out = (paths.finetuned if a.arm == "pretrained" else paths.random_init)(**axes)
    settings = study.finetuning_settings(a.model, a.arm)
    inputs = paths.pretrained(a.model), paths.task(a.task)
    needs = Needs.of_checkpoint(paths.pretrained(a.model), FINETUNING)
    manifest = finetune(*inputs, axes, settings, out, a.arm, acquire_device(needs))
    if "reason" in manifest:
        print(f"failed: {manifest['reason']}")
    else:
        print(f"best epoch {manifest['best_epoch']}, test weighted F1 {manifest['weighted_f1']:.3f}")


if __name__ == "__main__":
    run(main)
