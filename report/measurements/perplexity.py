"""Perplexity of language models: pruned by their loss, or adapted with a compressed update."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from report import drawing, labels, named, style
from report import table as columns
from report.measurements.contract import ResultFiles, ResultTables
from report.results import Columns, read_perplexity
from report.scores import aggregations
from report.table import Column, Table, TableCell

COLUMNS = {
    "perplexity": Columns.of(
        "experiment model method structure",
        "shots budget seeds failed perplexity perplexity_min perplexity_max loss rise kept_share "
        "parameters stored_bytes linear_layers smaller_layers seconds",
        "stored_share",
    )
}
SETTING = ["experiment", "model", "method", "structure", "shots", "budget"]
REFERENCES = {"pruning": "dense", "adaptation": "full"}  # experiment -> reference method
MOST = 1000  # times the reference; larger factors are not written out
EQUAL_SHARES = 0.005  # shares that differ less are the same in the text
ONE_SHOT = (0, (3, 1.5))
CONTROL_WORDS = {"full": "adapted, nothing reset", "none": "base, all reset"}


def compute(files: ResultFiles) -> dict[str, pd.DataFrame]:
    """The summary; no rows for a study without language models."""
    table = read_perplexity(files.results)
    return {"perplexity": pd.DataFrame(columns=COLUMNS["perplexity"].names) if table.empty else summary(table)}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment, model, method, structure, number of shots and budget: means over seeds and draws.

    `perplexity` is that of the mean loss. `rise` is the mean loss minus that of the dense model (pruning) or of the
    fully adapted model (adaptation), in nats per token.
    """
    ok = table[table["status"] == "ok"]
    same = ["experiment", "model", "seed"]
    reference = pd.concat(
        [ok[(ok["experiment"] == name) & (ok["method"] == method)] for name, method in REFERENCES.items()]
    )
    reference = reference.groupby(same)["loss"].mean().rename("reference").reset_index()
    ok = ok.merge(reference, "left", on=same)
    ok["rise"] = ok["loss"] - ok["reference"]
    means = "loss rise kept_share stored_share parameters stored_bytes linear_layers smaller_layers seconds"
    scored = ok.groupby(SETTING, sort=False, dropna=False).agg(
        seeds=("seed", "nunique"), **aggregations(means, ends="loss")
    )
    with np.errstate(over="ignore"):
        for end in ("", "_min", "_max"):
            scored[f"perplexity{end}"] = np.exp(scored[f"loss{end}"])
    failed = (table["status"] != "ok").astype(int).groupby([table[name] for name in SETTING], sort=False).sum()
    result = failed.rename("failed").to_frame().join(scored).reset_index()
    result["seeds"] = result["seeds"].fillna(0).astype(int)
    return result[[*COLUMNS["perplexity"].names, *COLUMNS["perplexity"].optional]]


def page(tables: ResultTables) -> dict[str, Any]:
    """Tables and sentences of the section on language models; nothing if the study has none."""
    table = tables.perplexity
    if table.empty:
        return {}
    return {
        **{experiment: perplexity_table(table, experiment) for experiment in REFERENCES},
        "sentences": result_sentences(table),
        "smaller": smaller_sentence(table),
    }


def perplexity_table(table: pd.DataFrame, experiment: str) -> Table:
    """Methods, structures and shots (rows) at every sparsity or kept share (columns); references come first."""
    shown = table[table["experiment"] == experiment]
    is_end = shown["method"].isin(("dense", *style.CONTROLS))
    budgets = sorted(set(shown.loc[~is_end, "budget"]))
    best = shown[~is_end].groupby(["model", "structure", "budget"])["perplexity"].min()

    def perplexity(row: Any, one: Any) -> TableCell:
        value = one.perplexity
        if row.is_end or pd.isna(value):
            return TableCell() if row.is_end else TableCell("failed", marks="missing")
        lowest = value == best.get((row.model, row.structure, one.budget))
        stored = style.percent(round(one.stored_share, 2)) if _stores_other(one.stored_share, one.budget) else ""
        return columns.number_cell(value, _perplexity, "best" if lowest else "", stored)

    def end(row: Any) -> TableCell:
        return (
            columns.number_cell(row.rows["perplexity"].iloc[0], _perplexity, "control") if row.is_end else TableCell()
        )

    shown = shown.assign(is_end=is_end).sort_values("is_end", ascending=False, kind="stable")
    return Table.of(
        [
            columns.text("Model", "model"),
            columns.method(),
            columns.text("Structure", lambda row: "" if row.is_end else row.structure),
            columns.text("Shots", lambda row: "" if row.is_end or not row.shots else f"{row.shots:.0f}"),
            *columns.wide({budget: style.percent(budget) for budget in budgets}, perplexity),
            Column("dense" if experiment == "pruning" else "control", end, "number"),
        ],
        columns.groups(shown, ["is_end", "model", "method", "structure", "shots"], "budget"),
    )


def _stores_other(stored_share: float, sparsity: float) -> bool:
    """Whether a pruned model stores another share of the linear layers' weights than its sparsity says."""
    return abs(stored_share - (1 - sparsity)) > EQUAL_SHARES


def _perplexity(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.2g}"


def drawings(tables: ResultTables) -> dict[str, drawing.Drawing]:
    """A figure for each experiment of the study."""
    scored = tables.perplexity[tables.perplexity["perplexity"].notna()]
    pruning, adaptation = (scored[scored["experiment"] == name] for name in REFERENCES)
    figures = {
        "perplexity": (draw_pruning, pruning, "Perplexity against sparsity"),
        "adaptation": (draw_adaptation, adaptation, "Perplexity against kept share"),
    }
    return {
        name: drawing.Drawing(partial(draw, rows), text)
        for name, (draw, rows, text) in figures.items()
        if not rows.empty
    }


def draw_pruning(table: pd.DataFrame) -> drawing.Figure:
    """Perplexity against what is not stored: a panel per structure and model; dashed is one shot."""
    pruned = table[table["method"] != REFERENCES["pruning"]]
    structures, models = (list(dict.fromkeys(pruned[name])) for name in ("structure", "model"))
    parts = list(product(structures, models))
    wide = min(2, len(parts))
    high = math.ceil(len(parts) / wide)
    figure, panels = drawing.canvas(drawing.WIDE, 2.7 * high + 0.5, high, wide)
    for axes, (structure, model) in zip(panels.ravel(), parts, strict=False):
        _draw_pruned(axes, pruned[(pruned["model"] == model) & (pruned["structure"] == structure)])
        dense = table[(table["model"] == model) & (table["method"] == REFERENCES["pruning"])]["perplexity"]
        for value in dense:
            axes.axhline(value, color=style.INK, linewidth=1.1, zorder=1, label="Dense")
        _perplexity_axis(axes, MOST * dense.max())
        axes.set_title(f"{model} · {style.STRUCTURE_LABELS.get(structure, structure)}")
    drawing.remove_rest(panels, len(parts))
    figure.supxlabel("weights of linear layers not stored, %", fontsize=9)
    figure.supylabel("perplexity (log scale)", fontsize=9)
    drawing.note_above(figure, "dashed: one shot")
    labels.write(figure, wrap=16)
    return figure


def _draw_pruned(axes: drawing.Axes, panel: pd.DataFrame) -> None:
    """Lines of the methods, named where they have the most shots; dashed in one shot."""
    styles = style.method_styles(panel["method"])
    most = panel.groupby("method")["shots"].max()
    for (method, shots), line in panel.sort_values("budget").groupby(["method", "shots"], sort=False):
        look = drawing.method_line(styles[method]) | {"linestyle": "-"}
        if shots == 1:
            look |= {"linestyle": ONE_SHOT, "alpha": 0.75}
        name = style.label(method) if shots == most[method] else None
        axes.plot(100 * (1 - line["stored_share"]), line["perplexity"], label=name, **look)


def _perplexity_axis(axes: drawing.Axes, most: float) -> None:
    """Make the vertical axis logarithmic and cut off what is above `most`, if that is a number."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, np.nanmin([high, most]))
    drawing.log_axis(axes.yaxis)


def draw_adaptation(table: pd.DataFrame) -> drawing.Figure:
    """Perplexity of adapted models against the kept share of the update, one panel per model, with both controls."""
    compressed = table[~table["method"].isin(style.CONTROLS)]
    # A shrunk update stores all entries: it is drawn at the share by which it is shrunk.
    shares = compressed["kept_share"].mask(compressed["method"] == "shrink", compressed["budget"])
    compressed = compressed.assign(kept_share=shares)
    models, methods = (list(dict.fromkeys(compressed[name])) for name in ("model", "method"))
    chosen = named.chosen(methods, methods)
    styles = style.method_styles(chosen)
    rows = max(1, len(models))
    figure, panels = drawing.canvas(drawing.WIDTH, 3.6 * rows, rows, 1)
    for axes, model in zip(panels[:, 0], models, strict=False):
        panel = compressed[compressed["model"] == model].sort_values("kept_share")
        drawing.draw_controls(axes, table[table["model"] == model], "perplexity", CONTROL_WORDS)
        for method in reversed(methods):
            line = panel[panel["method"] == method]
            look = drawing.method_line(styles[method]) if method in chosen else drawing.OTHER
            name = style.label(method) if method in chosen else None
            axes.plot(100 * line["kept_share"], line["perplexity"], label=name, **look)
        drawing.note_others(axes, len(methods) - len(chosen))
        base = table[(table["model"] == model) & (table["method"] == "none")]["perplexity"]
        _perplexity_axis(axes, 10 * base.max())
        drawing.log_axis(axes.xaxis)
        axes.set(title=model, xlabel="kept share of the update, % (log scale)", ylabel="perplexity (log scale)")
    labels.write(figure)
    return figure


def compared_rows(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The settings of the text: each structure at the highest sparsity, and adapted models at a middle kept share.

    Yields:
        (short name, start of a sentence, rows of the table); of each method those with the most shots.
    """
    scored = table[table["rise"].notna()]
    pruned = scored[(scored["experiment"] == "pruning") & (scored["method"] != REFERENCES["pruning"])]
    for structure, group in pruned.groupby("structure", sort=False):
        budget = group["budget"].max()
        rows = group[group["budget"] == budget]
        rows = rows[rows["shots"] == rows.groupby("method")["shots"].transform("max")]
        share, name = style.percent(budget), style.STRUCTURE_LABELS.get(structure, structure)
        yield f"{name}, {share} removed", f"With {share} of the linear layers removed as {name}", rows
    adapted = scored[(scored["experiment"] == "adaptation") & ~scored["method"].isin(style.CONTROLS)]
    if not adapted.empty:
        budget = sorted(set(adapted["budget"]))[len(set(adapted["budget"])) // 2]
        share = style.percent(budget)
        text = f"With {share} of each row of an adaptation's update kept"
        yield f"adapted, {share} kept", text, adapted[adapted["budget"] == budget]


def result_sentences(table: pd.DataFrame) -> list[str]:
    """The rise in perplexity of models pruned to the highest sparsity, and of adapted models at a middle share."""
    lines = []
    for _, start, rows in compared_rows(table):
        if rows["experiment"].iloc[0] == "pruning":
            stored = _stored(rows["stored_share"], rows["budget"].iloc[0])
            lines.append(f"{start}, {_rises(rows, 'dense model')}{stored}")
        else:
            none = table.loc[(table["experiment"] == "adaptation") & (table["method"] == "none"), "rise"].mean()
            base = "" if pd.isna(none) else f" The base, with the whole update reset, has {factor(np.exp(none))} times."
            lines.append(f"{start}, {_rises(rows, 'fully adapted model')}{base}")
    return lines


def factors(rows: pd.DataFrame) -> pd.Series:
    """Method -> factor on the perplexity of the reference, lowest first."""
    return np.exp(rows.groupby("method", sort=False)["rise"].mean()).sort_values()


def _stored(shares: pd.Series, sparsity: float) -> str:
    """A sentence on the range of stored shares, if a model stores another share than its sparsity says."""
    if not shares.map(lambda share: _stores_other(share, sparsity)).any():
        return ""
    low, high = (style.percent(round(share, 2)) for share in (shares.min(), shares.max()))
    return f" The files hold {low} to {high} of the weights of these layers."


def _rises(rows: pd.DataFrame, reference: str) -> str:
    """The lowest and the highest factor on perplexity, and those of KEN and of a random choice."""
    times = factors(rows)
    best, *others = times.index
    lines = [f"{style.label(best)} has {factor(times[best])} times the perplexity of the {reference}."]
    words = {"ken": "KEN", "random": "A random choice"}
    lines += [f"{words[name]} has {factor(times[name])} times." for name in words if name in others]
    if others and others[-1] not in ("ken", "random"):
        lines.append(f"The highest, {style.label(others[-1])}, has {factor(times[others[-1]])} times.")
    return " ".join(lines)


def factor(value: float) -> str:
    """A factor on perplexity with two decimals, or fewer if it is large."""
    if value > MOST:
        return f"over {MOST:,}"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def smaller_sentence(table: pd.DataFrame) -> str:
    """How many layers become smaller by removed rows and columns."""
    rows = table[(table["structure"] == "row-column") & (table["smaller_layers"] > 0)]
    if rows.empty:
        return "No layer became smaller: what is removed is stored as zeros."
    layers, every = rows["smaller_layers"].max(), rows["linear_layers"].max()
    return (
        f"Removed rows and columns make up to {layers:.0f} of {every:.0f} linear layers really smaller: those with "
        "only an activation between them. These also lose what faced a removed unit. In all others, what is removed is "
        "stored as zeros."
    )
