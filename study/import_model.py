"""Import one checkpoint from a folder or the hub: copy the files that a model needs, check them, write a manifest."""

import math
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from ken import checkpoint_files
from ken.errors import UserError
from study.definition.step import parse_step
from study.models.classifiers import load_tokenizer
from study.planning import kenviz_matrix
from study.running import files, hub, provenance
from study.running.workflow import run

COPIED = checkpoint_files.MODEL


def import_model(checkpoint: Path, name: str, out: Path, origin: dict | None = None) -> dict[str, object]:
    """Copy a checkpoint into the folder `out`; files of the hub's cache are linked if they are on the same disk.

    Args:
        checkpoint: folder in the Hugging Face layout; if study.pretrain wrote a manifest.json, its content is kept.
        origin: of a folder from the hub (`ken.hub.Snapshot.origin`); only files that it names are copied.

    Returns:
        The manifest: model, source, architecture, size, tokenizer, hash of every file, pre-training if known.

    Raises:
        UserError: no safetensors weights, no readable configuration, a damaged weight file, or no tokenizer that fits.
    """
    paths = checkpoint_files.model_files(checkpoint)
    paths = [path for path in paths if origin is None or path.name in origin["sha256"]]
    weights = [path for path in paths if path.suffix == ".safetensors"]
    if not weights:
        raise UserError(
            f"{checkpoint} holds no *.safetensors file: save the model there with save_pretrained (safetensors is the "
            "only format read)."
        )
    try:
        architecture = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False).model_type
    except (OSError, ValueError) as error:
        needs_code = "trust_remote_code" in str(error)
        reason = "it needs code of its own, which is never run" if needs_code else " ".join(str(error).split())
        raise UserError(f"{checkpoint}/config.json is not a configuration transformers can read: {reason}") from error
    parameters = 0
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as file:
                parameters += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or not a safetensors file ({error}): copy it again.") from error
    pretraining = read_pretraining(checkpoint) if origin is None else None
    load_tokenizer(checkpoint, max_length=1)  # now, and not when the first cell is fine-tuned
    with files.replacing_folder(out) as folder:
        for path in paths:
            # The cache of the hub never changes a file; a user may change a folder in place.
            (files.link_or_copy if origin else shutil.copy2)(path, folder / path.name)
        return provenance.write_manifest(
            folder,
            model=name,
            source=f"{origin['repository']}@{origin['commit']}" if origin else str(checkpoint),
            hub=origin,
            architecture=architecture,
            checkpoint_parameters=parameters,
            tokenizer=tokenizer_kind(folder / "tokenizer.json"),
            pretraining=pretraining,
        )


def read_pretraining(checkpoint: Path) -> dict | None:
    """Read the manifest that study.pretrain has written into a folder, if there is one.

    Raises:
        UserError: the weights do not have the hash in it.
    """
    path, weights = checkpoint / "manifest.json", checkpoint / "model.safetensors"
    manifest = files.read_json(path) if path.exists() else None
    expected = manifest.get("sha256") if isinstance(manifest, dict) else None
    if isinstance(expected, str) and files.sha256(weights) != expected:
        remedy = f"restore it (`git checkout {checkpoint}` if it came with the suite), or remove {path}"
        raise UserError(f"{weights} was changed or damaged after it was made (its SHA-256 differs): {remedy}.")
    return manifest


def tokenizer_kind(path: Path) -> str:
    """Algorithm of a tokenizer.json ("WordPiece", "BPE", ...), empty if there is no file."""
    return files.read_json(path)["model"].get("type", "") if path.exists() else ""


def main() -> None:
    a, study, paths = parse_step("Copy a checkpoint into the study and check it.", "any-model")
    section, folder = study.models[a.model], study.checkpoint(a.model, paths)
    if folder is None:
        snapshot = hub.fetch_model(section["repository"], section["revision"], COPIED)
        if a.model == (kenviz := study.config["kenviz"])["model"] and "matrix" in kenviz:
            kenviz_matrix.check_folder(snapshot.folder, kenviz["matrix"])
        manifest = import_model(snapshot.folder, a.model, paths.pretrained(a.model), snapshot.origin())
    else:
        manifest = import_model(folder, a.model, paths.pretrained(a.model))
    print(f"{a.model}: {manifest['architecture']}, {manifest['checkpoint_parameters']:,} parameters")


if __name__ == "__main__":
    run(main)
