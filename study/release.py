"""Remove the fine-tuned model and the initial state of a finished cell, and record this in released.json.

Only for studies with "keep_files: read". To run something else on such a cell, remove its folder finetuned and run the
study again: the training is repeated, with the same result.
"""

from pathlib import Path

from study.definition.step import parse_step
from study.running import files
from study.running.workflow import run

WEIGHTS = "*.safetensors"


def release(finetuned: Path, record: Path) -> int:
    """Remove the weights in the folder of a fine-tuned cell; returns the number of bytes.

    The record, with the SHA-256 of every removed file, is written first, so that the files are no longer expected.
    """
    weights = sorted(finetuned.glob(WEIGHTS))
    known = files.read_json(finetuned / "manifest.json")["sha256"]
    files.write_json(record, {"removed": {name: digest for name, digest in known.items() if Path(name).match(WEIGHTS)}})
    size = sum(path.stat().st_size for path in weights)
    for path in weights:
        path.unlink()
    return size


def main() -> None:
    a, _, paths = parse_step("Remove the large files of a finished cell.", "model", "task", "seed")
    axes = (a.model, a.task, a.seed)
    size = release(paths.finetuned(*axes), paths.released(*axes))
    print(f"{size:,} bytes removed")


if __name__ == "__main__":
    run(main)
