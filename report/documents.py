"""Write the numbers of the committed runs into README and docs, between marks.

Run `python -m report.documents` after results/reference has changed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ken.errors import UserError, run
from report import findings, style
from report.benchmarks import benchmark_block, evaluation_block, gpu_block, plan_block, rivals_block
from report.power import power_block
from report.results import write_text

ROOT = findings.ROOT
REFERENCES = ROOT / "results" / "reference"
Block = Callable[[Path], str]


def of(study: str, block: Block) -> Block:
    """A block made from one committed study, as a function of the folder of all studies."""
    return lambda references: block(references / study)


DOCUMENTS: dict[str, dict[str, Block]] = {
    "README.md": {
        "answer": of("mini", findings.answer_block),
        "others": findings.others_block,
    },
    "docs/findings.md": {
        "overlap": findings.overlap_block,
        "claims": findings.claims_block,
        "mini": of("mini", findings.study_block),
        "real": of("real", findings.study_block),
        "base": of("base", findings.study_block),
        "small": of("small", findings.small_block),
        "offline": of("offline", findings.study_block),
    },
    "docs/power.md": {"power": power_block},
    "docs/surgeon.md": {"surgeon": of("surgeon", findings.surgeon_block)},
    "docs/benchmarks.md": {
        "benchmarks": of("benchmarks", benchmark_block),
        "evaluation": of("benchmarks", evaluation_block),
        "rivals": of("benchmarks", rivals_block),
    },
    "docs/cluster.md": {"plan": of("benchmarks", plan_block), "gpu": of("benchmarks/h100", gpu_block)},
    "docs/faq.md": {
        "speed": of("offline", findings.speed_answer),
        "random": of("mini", findings.random_answer),
        "cost": of("mini", findings.cost_answer),
    },
}  # document -> its blocks by the name in their marks


def updated(name: str, text: str, references: Path = REFERENCES) -> str:
    """The text of a document with up-to-date blocks.

    Args:
        name: of the document, one of `DOCUMENTS`.
        text: present text of the document.
        references: folder of committed runs.

    Raises:
        UserError: marks are missing.
    """
    to_root = "../" * name.count("/")
    for title, block in DOCUMENTS[name].items():
        start, end = f"<!-- {title}: written by `python -m report.documents` -->", f"<!-- end of {title} -->"
        before, start_mark, rest = text.partition(start)
        _, end_mark, after = rest.partition(end)
        if not (start_mark and end_mark):
            raise UserError(f"{name} lacks the marks {start!r} and {end!r}: put them where the {title} goes.")
        written = block(references).replace(style.NO_BREAK_SPACE, " ").replace("](results/", f"]({to_root}results/")
        text = f"{before}{start}\n{written}\n{end}{after}"
    return text


def update() -> None:
    """Update the numbers of the committed runs in all documents."""
    for name in DOCUMENTS:
        write_text(ROOT / name, updated(name, (ROOT / name).read_text(encoding="utf-8")))


def main() -> None:
    argparse.ArgumentParser(description="Write the numbers of the committed runs into the documents.").parse_args()
    update()


if __name__ == "__main__":
    run(main)
