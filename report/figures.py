"""Draw the figures of a study from its tables, each as SVG, PNG and PDF.

`python -m report.figures --results results/mini` reads results/mini/tables and writes results/mini/figures. Nothing is
computed here, so a changed colour costs seconds. The modules of `report.measurements` describe the figures.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ken.errors import run
from report.drawing import Drawing, figure_style, save
from report.measurements.contract import ResultTables
from report.outputs import MEASUREMENTS
from report.tables import Tables


def drawings(tables: ResultTables) -> dict[str, Drawing]:
    """Name -> drawing, for all figures of a study."""
    return {name: drawing for one in MEASUREMENTS for name, drawing in one.call("drawings", tables).items()}


def draw(name: str, drawing: Drawing, folder: Path) -> None:
    """Draw one figure and write it."""
    with figure_style():
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
