"""Put the numbers of the committed runs into README and docs, between marks; nothing there is typed.

`python -m report.documents` after something in results/reference has changed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ken.errors import UserError, run
from report import findings, style
from report.measured import benchmark_block, gpu_block
from report.results import write_text

ROOT = findings.ROOT
REFERENCES = ROOT / "results" / "reference"
Block = Callable[[Path], str]


def of(study: str, block: Block) -> Block:
    """A block of one committed study, as one that is given the folder of all."""
    return lambda references: block(references / study)


DOCUMENTS: dict[str, dict[str, Block]] = {
    "README.md": {
        "results": of("mini", findings.study_block),
        "claims": findings.claims_block,
        "surgeon": of("surgeon", findings.surgeon_block),
        "benchmarks": of("benchmarks", benchmark_block),
    },
    "docs/findings.md": {
        "real": of("real", findings.study_block),
        "offline": of("offline", findings.study_block),
    },
    "docs/cluster.md": {"gpu": of("benchmarks/h100", gpu_block)},
    "docs/faq.md": {
        "speed": of("mini", findings.speed_answer),
        "random": of("mini", findings.random_answer),
        "cost": of("mini", findings.cost_answer),
    },
}  # document -> its blocks by the name in their marks


def updated(name: str, text: str, references: Path = REFERENCES) -> str:
    """A document with its blocks made new.

    Args:
        name: of the document, one of `DOCUMENTS`. text: what it says now. references: folder of committed runs.

    Raises:
        UserError: marks are missing.
    """
    to_root = "../" * name.count("/")
    for title, block in DOCUMENTS[name].items():
        start, end = f"<!-- {title}: written by `python -m report.documents` -->", f"<!-- end of {title} -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise UserError(f"{name} lacks the marks {start!r} and {end!r}: put them where the {title} goes.")
        written = block(references).replace(style.NO_BREAK_SPACE, " ").replace("](results/", f"]({to_root}results/")
        text = f"{before}{start}\n{written}\n{end}{after}"
    return text


def update() -> None:
    """Write the numbers of the committed runs into all documents that show them."""
    for name in DOCUMENTS:
        write_text(ROOT / name, updated(name, (ROOT / name).read_text(encoding="utf-8")))


def main() -> None:
    argparse.ArgumentParser(description="Write the numbers of the committed runs into the documents.").parse_args()
    update()


if __name__ == "__main__":
    run(main)
