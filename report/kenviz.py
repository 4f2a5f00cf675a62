"""Draw KENviz for one stored sub-network of a study: what was kept, and how many neighbours were kept beside it."""

import argparse
from pathlib import Path

import ken
from ken import viz
from report import results, style
from report.results import ReportError


def choose_kind(subnetwork: ken.Subnetwork, wanted: str | None) -> str:
    """The wanted kind of matrix, or the queries (fused or not), or the first kind that repeats over layers.

    Raises:
        ReportError: no matrix repeats over layers.
    """
    kinds = list(viz.kinds(subnetwork))
    if not kinds:
        raise ReportError("the sub-network has no matrices that repeat over layers: there is nothing to draw.")
    return wanted or next((kind for kind in kinds if "query" in kind or "q_lin" in kind), kinds[0])


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw KENviz of a stored sub-network.")
    parser.add_argument("--subnetwork", required=True, type=Path, help="file of ken.Subnetwork.save")
    parser.add_argument("--matrix", help='part of a matrix name, e.g. "query.weight"; by default the queries')
    parser.add_argument("--out", required=True, type=Path, help="path without ending; .svg, .pdf and .png are added")
    arguments = parser.parse_args()
    style.use_style()
    try:
        subnetwork = ken.Subnetwork.load(arguments.subnetwork)
        figure = viz.draw_layers(subnetwork, choose_kind(subnetwork, arguments.matrix))
    except ValueError as error:
        raise ReportError(str(error)) from None
    style.save(figure, arguments.out)


if __name__ == "__main__":
    results.run(main)
