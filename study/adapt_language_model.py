"""Adapt one causal language model to a text: plain training of all of it, the best epoch on validation kept."""

import time
from pathlib import Path

from study.definition.step import parse_step
from study.models.classifiers import checked_checkpoint, load_tokenizer
from study.models.language_models import load_language_model, read_chunks, train
from study.running import files, provenance
from study.running.workflow import run


def adapt(pretrained: Path, text: Path, axes: dict, settings: dict, out: Path) -> dict[str, object]:
    """Adapt a model and write it, its tokenizer and a manifest into the folder `out`.

    Args:
        pretrained: checkpoint folder. text: folder of `study.text`.
        axes: model and seed, from which the order of the chunks is derived.
        settings: epochs, batch_size, learning_rate, max_length.

    Returns:
        The manifest: axes, settings, inputs, best_epoch, history, seconds, hashes.
    """
    start = time.monotonic()
    inputs = {"pretrained": checked_checkpoint(pretrained), "text": files.checked(text)}
    order = provenance.seed_of("adaptation", *axes.values())
    provenance.deterministic(order)
    tokenizer = load_tokenizer(pretrained, settings["max_length"])
    parts = [read_chunks(text, split, tokenizer, settings["max_length"]) for split in ("train", "validation")]
    model = load_language_model(pretrained)
    with files.replacing_folder(out) as folder:
        fitted = train(model, *parts, settings, order)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        seconds = round(time.monotonic() - start, 2)
        return provenance.write_manifest(folder, **axes, settings=settings, inputs=inputs, **fitted, seconds=seconds)


def main() -> None:
    a, study, paths = parse_step("Adapt one causal language model to a text.", "model", "seed")
    axes, settings = {"model": a.model, "seed": a.seed}, study.adaptation_settings()
    manifest = adapt(paths.pretrained(a.model), paths.text("adaptation"), axes, settings, paths.adapted(**axes))
    print(f"best epoch {manifest['best_epoch']}")


if __name__ == "__main__":
    run(main)
