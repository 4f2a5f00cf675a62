"""Adapt one causal language model to a text: all parameters are trained, the best epoch on validation is kept."""

from pathlib import Path

import torch

from study.definition.step import parse_step
from study.models.classifiers import check_checkpoint, load_tokenizer
from study.models.language_models import load_language_model
from study.running import files, provenance
from study.running.device import acquire_device
from study.running.workflow import run
from study.training.chunks import read_chunks
from study.training.gradients import CPU
from study.training.language_modelling import train_language_model
from study.training.resumption import Checkpoint


def adapt(
    pretrained: Path, text: Path, axes: dict, settings: dict, out: Path, device: torch.device = CPU
) -> dict[str, object]:
    """Adapt a model and write it, its tokenizer and a manifest into the folder `out`.

    If a call was killed, a call with the same arguments resumes its training; see `Checkpoint`.

    Args:
        pretrained: checkpoint folder.
        text: folder of `study.text`.
        axes: model and seed, from which the order of the chunks is derived.
        settings: epochs, batch_size, learning_rate, max_length.
        device: to compute on.

    Returns:
        The manifest: axes, settings, inputs, best_epoch, history, precision, device, seconds, hashes; if the training
        diverged, a sentence about it (diverged).
    """
    checkpoint = Checkpoint.beside(out)
    inputs = {"pretrained": check_checkpoint(pretrained), "text": files.check_folder(text)}
    order = provenance.seed_of("adaptation", *axes.values())
    provenance.make_deterministic(order)
    tokenizer = load_tokenizer(pretrained, settings["max_length"])
    parts = [read_chunks(text, split, tokenizer, settings["max_length"]) for split in ("train", "validation")]
    model = load_language_model(pretrained).to(device)
    with files.replacing_folder(out) as folder:
        fitted = train_language_model(model, *parts, settings, order, checkpoint)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = {key: fitted[key] for key in ("best_epoch", "history", "precision", "diverged") if key in fitted}
        facts |= {"device": provenance.device_name(device), "seconds": round(checkpoint.seconds(), 2)}
        manifest = provenance.write_manifest(folder, **axes, settings=settings, inputs=inputs, **facts)
    checkpoint.remove()
    return manifest


def main() -> None:
    a, study, paths = parse_step("Adapt one causal language model to a text.", "language-model", "seed")
    axes, settings = {"model": a.model, "seed": a.seed}, study.adaptation_settings()
    texts = paths.text("adaptation")
    manifest = adapt(paths.pretrained(a.model), texts, axes, settings, paths.adapted(**axes), acquire_device())
    print(f"best epoch {manifest['best_epoch']}")


if __name__ == "__main__":
    run(main)
