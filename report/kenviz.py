"""Draw the KENviz picture of one stored sub-network, and write a page to explore it with others of its cell.

`python -m report.kenviz --subnetwork FILE --out results/mini/figures/kenviz` writes kenviz.svg, kenviz.pdf, kenviz.png
and kenviz.json, which has the facts of the caption. With `--explorer PAGE.html` it also writes a page
(`ken.viz.explorer`) that shows the sub-network first and those of `--compared` after it. `--pretrained` and
`--finetuned` are the initial state and the fine-tuned model of the same cell. If the sub-network has no score, because
its method or the training of its cell failed, the files hold the reason.
"""

import argparse
import html
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ken.errors import UserError, run
from report import drawing
from report.results import why_not_stored, write_text

if TYPE_CHECKING:
    from ken.subnetwork import Subnetwork


def load(path: Path) -> "Subnetwork":
    """Load a stored sub-network.

    Raises:
        UserError: there is no such file, or it is not a sub-network.
    """
    from ken.subnetwork import Subnetwork

    try:
        return Subnetwork.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a sub-network that a study has stored.") from None
    except ValueError as error:
        raise UserError(str(error)) from None


def choose_kind(subnetwork: "Subnetwork", part: str | None) -> str:
    """Call `ken.viz.matrix_kinds.choose_kind`.

    Raises:
        UserError: not exactly one kind of matrix fits.
    """
    from ken.viz import matrix_kinds

    try:
        return matrix_kinds.choose_kind(subnetwork, part)
    except ValueError as error:
        raise UserError(str(error)) from None


def facts(subnetwork: "Subnetwork", kind: str, source: Path) -> dict:
    """Facts of the caption: source, method, kept share, and mean number of kept neighbours, observed and expected."""
    from ken.viz.matrix_kinds import kinds
    from ken.viz.neighbours import expected_neighbours, neighbour_counts

    layers = []
    for layer, name in kinds(subnetwork)[kind].items():
        mask = subnetwork.masks[name]
        counted = neighbour_counts(mask)
        counted = counted[counted >= 0]
        layers.append(
            {
                "layer": layer,
                "kept_share": float(mask.float().mean()),
                "neighbours": float(np.mean(counted)) if counted.size else 0.0,
                "expected_neighbours": expected_neighbours(mask),
            }
        )
    return {
        "source": source.as_posix(),
        "matrix": kind,
        "method": subnetwork.method,
        "rule": subnetwork.rule,
        "kept_share": subnetwork.kept_share,
        "layers": layers,
    }


def write_explorer(
    subnetworks: list[Path], page: Path, pretrained: Path | None = None, finetuned: Path | None = None
) -> dict:
    """Call `ken.viz.explorer.write_page`; the folder of the page is created.

    Raises:
        UserError: a file is missing or no sub-network, or the files and models are not of one cell.
    """
    from ken.viz import explorer

    if missing := [path for path in subnetworks if not path.is_file()]:
        raise UserError(f"{missing[0]} does not exist: give sub-networks that a study has stored.")
    page.parent.mkdir(parents=True, exist_ok=True)
    try:
        return explorer.write_page(subnetworks, page, pretrained, finetuned)
    except ValueError as error:
        raise UserError(str(error)) from None


def write_reason(reason: str, out: Path, page: Path | None) -> None:
    """Write picture, facts and page with the reason why the sub-network does not exist."""
    with drawing.figure_style():
        drawing.save(drawing.draw_note("\n".join(textwrap.wrap(f"No sub-network: {reason}", 80))), out)
    write_text(out.with_name(f"{out.name}.json"), json.dumps({"reason": reason, "files": []}, indent=2) + "\n")
    if page:
        title = "<!doctype html>\n<meta charset='utf-8'>\n<title>KENviz</title>\n"
        write_text(page, f"{title}<p>No sub-network: {html.escape(reason)}</p>\n")
    print(f"no sub-network: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw where the kept entries of a matrix lie, over all layers.")
    parser.add_argument("--subnetwork", required=True, type=Path, help="stored sub-network (safetensors)")
    parser.add_argument("--out", required=True, type=Path, help="path of the pictures without suffix")
    parser.add_argument("--matrix", help='part of the matrix name, such as "query" (default: the queries)')
    parser.add_argument("--explorer", type=Path, help="HTML page to write as well")
    parser.add_argument("--compared", type=Path, nargs="*", default=[], help="further sub-networks for the page")
    parser.add_argument("--pretrained", type=Path, help="base of the sub-networks, for the page")
    parser.add_argument("--finetuned", type=Path, help="the fine-tuned model, for the page")
    arguments = parser.parse_args()
    if reason := why_not_stored(arguments.subnetwork):
        write_reason(reason, arguments.out, arguments.explorer)
        return
    from ken.viz.pictures import draw_layers

    compared = [path for path in arguments.compared if path != arguments.subnetwork and not why_not_stored(path)]
    subnetwork = load(arguments.subnetwork)
    kind = choose_kind(subnetwork, arguments.matrix)
    # Grid lines would hide entries, and ken.viz.pictures expects centred titles.
    with drawing.figure_style({"axes.grid": False, "axes.titlelocation": "center"}):
        drawing.save(draw_layers(subnetwork, kind), arguments.out)
    described = facts(subnetwork, kind, arguments.subnetwork)
    shown = [arguments.subnetwork, *compared, arguments.pretrained, arguments.finetuned]
    described["files"] = sorted({os.path.relpath(path, arguments.out.parent) for path in shown if path})
    json_path = arguments.out.with_name(f"{arguments.out.name}.json")
    write_text(json_path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    print(f"{kind} of {len(described['layers'])} layers: {arguments.out}.svg")
    if arguments.explorer:
        subnetworks = [arguments.subnetwork, *compared]
        written = write_explorer(subnetworks, arguments.explorer, arguments.pretrained, arguments.finetuned)
        print(f"{len(subnetworks)} sub-networks, {written['bytes']:,} bytes: {arguments.explorer}")


if __name__ == "__main__":
    run(main)
