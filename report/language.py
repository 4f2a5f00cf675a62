"""Language models in the report: perplexity of pruned and adapted models, from perplexity.csv of a study.

Computing (`summary`, `LossSample`), drawing (`pruning_figure`, `adaptation_figure`) and the sheets of the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from report import style
from report.errors import ReportError
from report.results import STATUSES, read_if_run, read_table
from report.statistics import RESAMPLES, Differences, resample_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = ("model", "seed")
SETTING = ["experiment", "model", "method", "structure", "shots", "budget"]
TEXT = ("experiment", "model", "method", "structure", "status", "reason", "file")
NUMERIC = ("seed", "draw", "shots", "budget", "kept_share", "parameters", "stored_bytes", "linear_layers")
NUMERIC += ("smaller_layers", "tokens", "loss", "perplexity", "seconds")
SUMMARY_TEXT = ("experiment", "model", "method", "structure")
SUMMARY_NUMERIC = (
    *("shots", "budget", "seeds", "failed", "perplexity", "perplexity_min", "perplexity_max", "loss", "rise"),
    *("kept_share", "parameters", "stored_bytes", "linear_layers", "smaller_layers", "seconds"),
)
STRUCTURES = {"element": "elements", "2:4": "2:4", "row-column": "rows and columns"}
MOST = 1000  # times; beyond that a model has forgotten all it knew
REFERENCES = {"pruning": "dense", "adaptation": "full"}  # experiment -> method that others are compared with


def read_perplexity(results: Path) -> pd.DataFrame:
    """perplexity.csv of a study, one row a stored file; no rows if the study has no language models.

    Raises:
        ReportError: as `read_table`, or an unknown status, or a loss that is no number in a row that is ok.
    """
    path = results / "perplexity.csv"
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=str if name in TEXT else float) for name in (*TEXT, *NUMERIC)})
    table = read_table(path, TEXT, NUMERIC)
    unknown = sorted(set(table["status"]) - set(STATUSES))
    if unknown:
        raise ReportError(f"{path} has the status {unknown[0]!r}, expected one of {', '.join(STATUSES)}.")
    if table.loc[table["status"] == "ok", "loss"].isna().any():
        raise ReportError(f"{path} has rows that are ok and have no loss: run the step that writes it again.")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row an experiment, model, method, structure, number of shots and budget: means over seeds and draws.

    `perplexity` is that of the mean loss, `rise` the mean loss minus the dense model's (pruning) or the fully adapted
    one's (adaptation), in nats a token.
    """
    ok = table[table["status"] == "ok"]
    reference = pd.concat([ok[(ok["experiment"] == name) & (ok["method"] == own)] for name, own in REFERENCES.items()])
    reference = reference.groupby(["experiment", *AXES])["loss"].mean().rename("reference").reset_index()
    ok = ok.merge(reference, "left", on=["experiment", *AXES])
    ok["rise"] = ok["loss"] - ok["reference"]
    means = ("rise", "kept_share", "parameters", "stored_bytes", "linear_layers", "smaller_layers", "seconds")
    found = ok.groupby(SETTING, sort=False, dropna=False).agg(
        seeds=("seed", "nunique"),
        loss=("loss", "mean"),
        perplexity_min=("loss", "min"),
        perplexity_max=("loss", "max"),
        **{name: (name, "mean") for name in means},
    )
    with np.errstate(over="ignore"):
        found["perplexity"] = np.exp(found["loss"])
        found[["perplexity_min", "perplexity_max"]] = np.exp(found[["perplexity_min", "perplexity_max"]])
    failed = (table["status"] != "ok").astype(int).groupby([table[name] for name in SETTING], sort=False).sum()
    result = failed.rename("failed").to_frame().join(found).reset_index()
    result["seeds"] = result["seeds"].fillna(0).astype(int)
    return result[[*SUMMARY_TEXT, *SUMMARY_NUMERIC]]


def read_summary(results: Path) -> pd.DataFrame:
    """tables/perplexity.csv; no rows if the study has no language models."""
    return read_if_run(results / "tables" / "perplexity.csv", SUMMARY_TEXT, SUMMARY_NUMERIC)


@dataclass(frozen=True)
class LossSample:
    """Losses of pruned language models with their bootstrap resamples over held-out documents.

    Attributes:
        rows: rows of perplexity.csv that are ok; the index is 0, 1, 2, ...
        resampled: loss in nats a token, (rows, resamples).
    """

    rows: pd.DataFrame
    resampled: np.ndarray

    @classmethod
    def read(cls, results: Path, resamples: int = RESAMPLES) -> "LossSample":
        """From perplexity.csv and the losses of documents; documents are resampled whole, alike for all models.

        Raises:
            ReportError: a file is missing or malformed.
        """
        table = read_perplexity(results)
        rows = table[(table["experiment"] == "pruning") & (table["status"] == "ok")].astype({"seed": int})
        rows = rows.reset_index(drop=True)
        resampled = np.empty((len(rows), resamples))
        for (model, seed), own in rows.groupby(list(AXES), sort=False):
            path = results / "language" / model / f"seed{seed}" / "pruning" / "losses.parquet"
            losses = read_losses(path, list(own["file"]))
            tokens, summed = losses["tokens"].to_numpy(float), losses[list(own["file"])].to_numpy()
            blocks = resample_counts("language", len(losses), resamples)
            found = [(block @ summed).T / (block @ tokens) for block in blocks]
            resampled[own.index] = np.hstack(found)
        return cls(rows, resampled)

    def of(self, method: str, **values: object) -> pd.DataFrame:
        """Rows of a method, with these values in other columns."""
        found = self.rows[self.rows["method"] == method]
        for name, value in values.items():
            found = found[found[name] == value]
        return found

    def differences(self, first: pd.DataFrame, second: pd.DataFrame, keys: Sequence[str]) -> Differences:
        """Loss of the rows `first` minus that of the rows `second` with the same model, seed and other keys."""
        columns = [*AXES, *keys]
        left, right = (rows.assign(row=rows.index)[[*columns, "row"]] for rows in (first, second))
        pairs = left.merge(right, on=columns, suffixes=("", "_second"))
        one, two = pairs["row"].to_numpy(), pairs["row_second"].to_numpy()
        loss = self.rows["loss"].to_numpy()
        cells = pairs[list(AXES)].assign(task="language")[["model", "task", "seed"]]
        return Differences(cells, loss[one] - loss[two], self.resampled[one] - self.resampled[two])


def read_losses(path: Path, files: list[str]) -> pd.DataFrame:
    """losses.parquet of one model: tokens of each held-out document and its summed loss in each file.

    Raises:
        ReportError: it is missing, or lacks a column.
    """
    try:
        return pd.read_parquet(path, columns=["document", "tokens", *files])
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: run the step that writes it first.") from None
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        problem = str(error).strip().splitlines()[0]
        raise ReportError(f"{path} cannot be read ({problem}): run the step that writes it again.") from None


def pruning_figure(table: pd.DataFrame) -> "Figure":
    """Perplexity against sparsity: a row of panels a model, a column a structure; dashed is one shot."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = table[(table["experiment"] == "pruning") & table["perplexity"].notna()]
    pruned = found[found["method"] != REFERENCES["pruning"]]
    models, structures = (list(dict.fromkeys(pruned[name])) for name in ("model", "structure"))
    methods, looks = list(dict.fromkeys(pruned["method"])), style.looks(pruned["method"])
    figure = Figure(figsize=(1.6 + 2.9 * len(structures), 0.9 + 2.7 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), len(structures), squeeze=False, sharey="row")
    for row, model in zip(panels, models, strict=True):
        dense = found.loc[(found["model"] == model) & (found["method"] == REFERENCES["pruning"]), "perplexity"]
        for axes, structure in zip(row, structures, strict=True):
            own = pruned[(pruned["model"] == model) & (pruned["structure"] == structure)]
            for (method, shots), line in own.sort_values("budget").groupby(["method", "shots"], sort=False):
                one = {"linestyle": (0, (3, 1.5)), "alpha": 0.75} if shots == 1 else {"linestyle": "-"}
                axes.plot(100 * line["budget"], line["perplexity"], **_line(looks[method]) | one)
            for value in dense:
                axes.axhline(value, color=style.INK, linewidth=1.1)
            axes.set_yscale("log")
            axes.set_title(f"{model} · {STRUCTURES.get(structure, structure)}")
        row[0].set_ylabel("perplexity (log scale)")
    for axes in panels[-1]:
        axes.set_xlabel("removed of linear layers, %")
    for axes in panels.flat:
        _plain_log(axes)
    entries = [Line2D([], [], **_line(looks[name]), label=style.label(name)) for name in methods]
    entries += [Line2D([], [], color=style.MUTED, linestyle=(0, (3, 1.5)), label="one shot")]
    entries += [Line2D([], [], color=style.INK, linewidth=1.1, label="dense")]
    figure.legend(handles=entries, loc="outside upper center", ncols=4)
    return figure


def adaptation_figure(table: pd.DataFrame) -> "Figure":
    """Perplexity of an adapted model against the kept share of its update, a panel a model, between its two ends."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = table[(table["experiment"] == "adaptation") & table["perplexity"].notna()]
    compressed = found[~found["method"].isin(style.CONTROLS)]
    models, methods = (list(dict.fromkeys(compressed[name])) for name in ("model", "method"))
    looks, lines = style.looks(methods), {"full": "-", "none": (0, (1, 1.6))}
    figure = Figure(figsize=(1.2 + 4.1 * max(1, len(models)), 4.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(models)), squeeze=False)
    for axes, model in zip(panels[0], models, strict=False):
        own = compressed[compressed["model"] == model]
        for method in methods:
            line = own[own["method"] == method].sort_values("kept_share")
            axes.plot(100 * line["kept_share"], line["perplexity"], **_line(looks[method]))
        for name, kind in lines.items():
            for value in found.loc[(found["model"] == model) & (found["method"] == name), "perplexity"]:
                axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=kind)
        axes.set(xscale="log", yscale="log", title=model, xlabel="kept share of the update, % (log scale)")
        _plain_log(axes)
        _plain_log(axes, "x")
    panels[0, 0].set_ylabel("perplexity (log scale)")
    entries = [Line2D([], [], **_line(looks[name]), label=style.label(name)) for name in methods]
    words = {"full": "adapted, nothing reset", "none": "base, all reset"}
    entries += [Line2D([], [], color=style.INK, linewidth=1.1, linestyle=kind, label=words[name])
                for name, kind in lines.items()]  # fmt: skip
    figure.legend(handles=entries, loc="outside upper center", ncols=4)
    return figure


def _line(look: style.Look) -> dict:
    edge = {"markeredgecolor": look.colour, "markerfacecolor": "white"} if look.hollow else {"markeredgecolor": "white"}
    shape = {"marker": look.marker, "markersize": look.size, "linestyle": look.line, "markeredgewidth": 0.6}
    return {"color": look.colour, **shape, **edge}


def _plain_log(axes, name: str = "y") -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.yaxis if name == "y" else axes.xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


FIGURES = {"perplexity": ("pruning", pruning_figure), "adaptation": ("adaptation", adaptation_figure)}


def drawings(results: Path) -> dict[str, Callable[[], "Figure"]]:
    """Name -> what draws it, of the experiments that a study has; to be called within `style.applied`."""
    table = read_summary(results)
    present = set(table.loc[table["perplexity"].notna(), "experiment"])
    return {name: partial(draw, table) for name, (experiment, draw) in FIGURES.items() if experiment in present}


def sentences(table: pd.DataFrame) -> list[str]:
    """What came out, in numbers: the rise of pruned models at one half and one fifth, and what an update needs."""
    found = table[table["rise"].notna()]
    pruned = found[(found["experiment"] == "pruning") & (found["method"] != REFERENCES["pruning"])]
    lines = []
    for structure, own in pruned.groupby("structure", sort=False):
        budget = own["budget"].max()
        rows = own[(own["budget"] == budget) & (own["shots"] == own["shots"].max())]
        times = np.exp(rows.groupby("method", sort=False)["rise"].mean())
        parts = [f"{_times(value)} with {style.label(name)}" for name, value in times.sort_values().items()]
        name = STRUCTURES.get(structure, structure)
        lines.append(
            f"With {style.percent(budget)} of the linear layers removed as {name}, perplexity in units of the dense "
            f"model's: {_list(parts)}."
        )
    adapted = found[(found["experiment"] == "adaptation") & ~found["method"].isin(style.CONTROLS)]
    if not adapted.empty:
        budget = sorted(set(adapted["budget"]))[len(set(adapted["budget"])) // 2]
        times = np.exp(adapted[adapted["budget"] == budget].groupby("method", sort=False)["rise"].mean())
        parts = [f"{_times(value)} with {style.label(name)}" for name, value in times.sort_values().items()]
        none = np.exp(found.loc[(found["experiment"] == "adaptation") & (found["method"] == "none"), "rise"].mean())
        lines.append(
            f"With {style.percent(budget)} of each row of an adaptation's update kept, perplexity in units of the "
            f"adapted model's: {_list(parts)}; the base has {_times(none)}."
        )
    return lines


def _times(value: float) -> str:
    if value > MOST:
        return f"over {MOST:,}"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def smaller_sentence(table: pd.DataFrame) -> str:
    """How many layers removed rows and columns make smaller, and what becomes of the others."""
    rows = table[(table["structure"] == "row-column") & (table["smaller_layers"] > 0)]
    if rows.empty:
        return "No layer became smaller: what is removed is stored as zeros."
    layers, every = rows["smaller_layers"].max(), rows["linear_layers"].max()
    return (
        f"Removed rows and columns make up to {layers:.0f} of {every:.0f} linear layers really smaller, those with "
        "only an activation between them, which also lose what faced a removed unit; in all others they are zeros."
    )
