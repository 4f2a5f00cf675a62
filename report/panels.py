"""Panels of curves over kept shares, one column of panels per family of methods, for the figures of scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from report import drawing, style
from report.measurements.contract import ResultTables
from report.scores import with_kept_shares

FAMILIES = {"Kept values as they are": ("reset", "other", "control"), "Kept updates rescaled": ("rescaled",)}
REFERENCES = ("ken", "random")  # drawn thin in every panel, so that panels can be compared
THIN = {"linewidth": 0.8, "markersize": 0}
RESET = {"full": "nothing", "none": "whole body"}


def method_panels(
    tables: ResultTables, height: float, rows: int, sharey: str | bool
) -> tuple[drawing.Figure, np.ndarray, dict[str, list[str]]]:
    """A figure, its panels, and title -> methods for each column; families without methods get no column."""
    shares = with_kept_shares(tables.overview).drop_duplicates("method")
    methods = {title: shares.loc[shares["family"].isin(families), "method"] for title, families in FAMILIES.items()}
    families = {title: list(names) for title, names in methods.items() if len(names)} or {"No method": []}
    figure, panels = drawing.canvas(
        max(6.4, 4.9 * len(families)), height, rows, len(families), sharex=True, sharey=sharey
    )
    return figure, panels, families


def draw_methods(axes: drawing.Axes, frame: pd.DataFrame, methods: Sequence[str], height: str) -> None:
    """Draw lines of controls, references and methods; the first method gets a band from `low` to `high`."""
    drawing.draw_controls(axes, frame, height)
    styles = style.method_styles([*methods, *REFERENCES])
    # A shrunk update stores all entries: it is drawn at the share by which it is shrunk.
    frame = frame.assign(kept_share=frame["kept_share"].mask(frame["family"] == "control", frame["budget"]))
    drawn = frame[frame[height].notna() & (frame["kept_share"] > 0)].sort_values("kept_share")
    # In reverse order, so that the first methods of the study are on top where curves coincide.
    for method in [*_absent(REFERENCES, methods), *reversed(methods)]:
        rows = drawn[drawn["method"] == method]
        axes.plot(
            rows["kept_share"],
            rows[height],
            **drawing.method_line(styles[method]) | ({} if method in methods else THIN),
        )
    band = drawn[(drawn["method"] == methods[0]) & drawn["low"].notna()] if methods else drawn.iloc[:0]
    if (band["high"] > band["low"]).any():
        colour = styles[methods[0]].colour
        axes.fill_between(band["kept_share"], band["low"], band["high"], color=colour, alpha=0.16, linewidth=0)


def _absent(names: Sequence[str], methods: Sequence[str]) -> list[str]:
    return [name for name in names if name not in methods]


def finish(figure: drawing.Figure, panels: np.ndarray, families: dict[str, list[str]], tables: ResultTables) -> None:
    """Set the shared axis, and add a legend below each column of panels and one for the controls."""
    known = tables.counts["methods"]
    drawing.share_axis(panels[0, 0], with_kept_shares(tables.overview)["kept_share"])
    for axes, methods in zip(panels[-1], families.values(), strict=True):
        axes.set_xlabel("kept share of the body, % (log scale)")
        if methods:
            _panel_legend(axes, methods, [name for name in _absent(REFERENCES, methods) if name in known])
    controls = [
        drawing.entry(f"{style.label(name)} ({RESET[name]} reset)", color=style.INK, linewidth=1.1, linestyle=line)
        for name, line in drawing.CONTROL_LINES.items()
        if name in known
    ]
    figure.legend(handles=controls, loc="outside upper center", ncols=2, handlelength=2.6)


def _panel_legend(axes: drawing.Axes, methods: Sequence[str], references: Sequence[str]) -> None:
    """Add a legend below a panel: its methods in the order of the study, then the thin lines of the references."""
    from matplotlib.transforms import ScaledTranslation

    entries = drawing.method_entries(methods)
    for line in drawing.method_entries(references, **THIN):
        line.set_label(f"{line.get_label()}, as it is")
        entries.append(line)
    below = axes.transAxes + ScaledTranslation(0, -0.5, axes.figure.dpi_scale_trans)  # inches
    anchor = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0), "bbox_transform": below, "borderaxespad": 0}
    spacing = {"handlelength": 2.4, "columnspacing": 1.0, "handletextpad": 0.5}
    axes.legend(handles=entries, ncols=drawing.legend_columns(entries, 80), fontsize=8, **spacing, **anchor)
