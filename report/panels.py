"""Panels of curves over kept shares, one panel per family of methods, for the figures of scores."""

from collections.abc import Sequence

import pandas as pd

from report import drawing, named, style
from report.measurements.contract import ResultTables
from report.scores import with_kept_shares

FAMILIES = {"as they are": ("reset", "other", "control"), "rescaled": ("rescaled",)}
REFERENCES = ("ken", "random")  # drawn thin in every panel, so that panels can be compared
THIN = {"linewidth": 0.8, "markersize": 0}
RESET = {"full": "Full (nothing reset)", "none": "None (whole body reset)"}
XLABEL = "kept share of the body, % (log scale)"


def families(tables: ResultTables) -> dict[str, list[str]]:
    """What is done with kept values -> methods; families without methods are left out."""
    shares = with_kept_shares(tables.overview).drop_duplicates("method")
    methods = {title: shares.loc[shares["family"].isin(kinds), "method"] for title, kinds in FAMILIES.items()}
    return {title: list(names) for title, names in methods.items() if len(names)} or {"": []}


def draw_methods(
    axes: drawing.Axes,
    frame: pd.DataFrame,
    methods: Sequence[str],
    height: str,
    order: Sequence[str],
    words: dict[str, str] = RESET,
) -> int:
    """Draw lines of controls, references and methods; the first method gets a band from `low` to `high`.

    Args:
        order: the methods to be named, first ones first; others are grey.
        words: control -> name.

    Returns:
        The number of grey methods.
    """
    # A shrunk update stores all entries: it is drawn at the share by which it is shrunk.
    frame = frame.assign(kept_share=frame["kept_share"].mask(frame["family"] == "control", frame["budget"]))
    drawn = frame[frame[height].notna() & (frame["kept_share"] > 0)].sort_values("kept_share")
    present = set(drawn["method"])
    methods = [name for name in methods if name in present]
    chosen = named.chosen(order, methods, named.MOST - len(style.CONTROLS))
    styles = style.method_styles([*chosen, *REFERENCES])
    lines = {method: rows[["kept_share", height]] for method, rows in drawn.groupby("method")}
    for method in [name for name in methods if name not in chosen]:
        axes.plot(*lines[method].to_numpy().T, **drawing.OTHER)
    drawing.draw_controls(axes, frame, height, words)
    for method in [name for name in REFERENCES if name in present and name not in methods]:
        text = f"{style.label(method)} as it is"
        axes.plot(*lines[method].to_numpy().T, label=text, **drawing.method_line(styles[method]) | THIN)
    for method in reversed(chosen):  # so that the most important ones are on top where curves coincide
        axes.plot(*lines[method].to_numpy().T, label=style.label(method), **drawing.method_line(styles[method]))
    band = drawn[(drawn["method"] == methods[0]) & drawn["low"].notna()] if methods else drawn.iloc[:0]
    if (band["high"] > band["low"]).any():
        colour = styles[methods[0]].colour if methods[0] in styles else drawing.GREY
        axes.fill_between(band["kept_share"], band["low"], band["high"], color=colour, alpha=0.16, linewidth=0)
    return len(methods) - len(chosen)
