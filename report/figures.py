"""Drawing: from the tables of a study to its figures, each as SVG, PNG and PDF.

`python -m report.figures --results results/mini` reads results/mini/tables and writes results/mini/figures. Nothing is
computed here, so a changed colour costs seconds. What each figure shows is said in `report.measurements`.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ken.errors import run
from report.drawing import Drawing, applied, save
from report.measurements.contract import ResultTables
from report.outputs import MEASUREMENTS
from report.tables import Tables


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """Name -> drawing, of the figures that a study has."""
    return {name: drawing for one in MEASUREMENTS for name, drawing in one.call("drawings", tables).items()}


def draw(name: str, drawing: Drawing, folder: Path) -> None:
    """Draw one figure and write it."""
    with applied():
        save(drawing.draw(), folder / name, drawing.formats)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of a study from its tables.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with tables/")
    parser.add_argument("--out", type=Path, help="folder to write to (default: figures in the results folder)")
    parser.add_argument("--processes", type=int, default=1, help="figures drawn at once (default: 1)")
    arguments = parser.parse_args()
    folder = arguments.out or arguments.results / "figures"
    figures = drawings(Tables.read(arguments.results))
    with ProcessPoolExecutor(arguments.processes) as pool:
        for done in [pool.submit(draw, name, drawing, folder) for name, drawing in figures.items()]:
            done.result()
    print(f"{len(figures)} figures in {folder}")


if __name__ == "__main__":
    run(main)
