"""Pre-train one small model: tokenizer, and body with the language-modelling objective of its architecture.

Only the body, from which fine-tuning starts, is saved, in half precision.
"""

import math
from pathlib import Path

import pandas as pd
import torch

from study import corpus
from study.definition.step import parse_step
from study.models.architectures import ARCHITECTURES
from study.models.initial_embeddings import initialise_embeddings
from study.models.pretraining import build
from study.models.tokenization import train_tokenizer
from study.running import files, provenance
from study.running.device import acquire_device
from study.running.workflow import run
from study.training.gradients import CPU
from study.training.loop import Diverged
from study.training.pretraining import blocks, held_out_loss, pretrain_model
from study.training.resumption import Checkpoint


def pretrain(
    texts: dict[str, list[str]],
    architecture: str,
    size: dict,
    settings: dict,
    out: Path,
    device: torch.device = CPU,
) -> dict[str, object]:
    """Pre-train a model and save its body, its tokenizer and a manifest into the folder `out`.

    If a call was killed, a call with the same arguments resumes its training; see `Checkpoint`.

    Args:
        texts: sentences of train and validation.
        architecture: one of `ARCHITECTURES`.
        size: see `models.pretraining.build`.
        settings: the config's section pretraining: tokens, learning_rate, batch_size, max_length, vocabulary,
            mask_share, seed.
        device: to compute on.

    Returns:
        The manifest: size, settings, tokens seen, validation_loss, device, seconds, hash of the weights.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    checkpoint = Checkpoint.beside(out)
    provenance.make_deterministic(settings["seed"])
    kind = ARCHITECTURES[architecture]
    tokenizer = train_tokenizer(kind.tokenizer, texts["train"], settings["vocabulary"], settings["max_length"])
    data, held_out = (blocks(tokenizer, texts[split], settings["max_length"]) for split in ("train", "validation"))
    model = build(architecture, size, tokenizer, settings)
    initialise_embeddings(model.body, data.flatten().numpy())
    model.to(device)
    tokens = pretrain_model(model, data, settings, checkpoint)
    loss = held_out_loss(model, held_out, settings["seed"])
    if not math.isfinite(loss):
        raise Diverged(f"the held-out loss is not finite: set a learning rate below {settings['learning_rate']:g}.")
    with files.replacing_folder(out) as folder:
        model.body.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        manifest = {
            "architecture": architecture,
            "objective": kind.objective,
            "size": size,
            "settings": settings,
            "tokens": tokens,
            "corpus_tokens": data.numel(),
            "validation_loss": round(loss, 4),
            "device": provenance.device_name(device),
            "seconds": round(checkpoint.seconds(), 1),
            "parameters": sum(parameter.numel() for parameter in model.body.parameters()),
            "sha256": files.sha256(folder / "model.safetensors"),
            "versions": provenance.versions(),
        }
        files.write_json(folder / "manifest.json", manifest)
    checkpoint.remove()
    return manifest


def main() -> None:
    a, study, paths = parse_step("Pre-train one small model on docstring prose.", "any-model")
    corpora = sorted(map(paths.corpus, study.config["corpus"]["packages"]))
    sentences = pd.concat([corpus.read(path) for path in corpora])
    texts = {split: list(part["sentence"]) for split, part in sentences.groupby("split")}
    settings, out = study.pretraining_settings(a.model), paths.pretraining(a.model)
    manifest = pretrain(texts, **settings, out=out, device=acquire_device())
    print(f"held-out loss {manifest['validation_loss']} after {manifest['tokens']:,} tokens")


if __name__ == "__main__":
    run(main)
