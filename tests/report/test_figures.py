"""Figures are deterministic and show the numbers of the tables; the styles of methods are stable."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import METHODS, base
from ken.errors import UserError
from report import drawing, figures, labels, named, results, style
from report.measurements import frontier, overview, scores
from report.tables import Tables
from tests.report.synthetic import controls, score_row, write_results
from tests.steps import run_step


def test_two_builds_from_tables_alone_give_identical_files(built_study, tmp_path):
    (tmp_path / "tables").symlink_to(built_study / "tables")
    run_step(figures, "--results", tmp_path)
    first = {path.name: path.read_bytes() for path in (built_study / "figures").glob("[!k]*")}
    second = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()
    for stem in ("summary", "frontier", "frontier_models", "pretraining_gain"):
        assert {f"{stem}.{kind}" for kind in ("svg", "png", "pdf")} <= first.keys()
    assert {"model_bert.svg", "model_bloom.svg"} <= first.keys()


def drawn(draw, *arguments):
    with drawing.figure_style():
        figure = draw(*arguments)
        figure.draw_without_rendering()
    return figure


def lines_of(axes, colour):
    return [line.get_xydata() for line in axes.lines if line.get_color() == colour and len(line.get_xydata())]


def test_curves_show_the_means_of_the_table(built_study):
    tables = Tables.read(built_study)
    (axes,) = drawn(scores.draw_curves, tables, "bert").axes
    assert axes.get_title(loc="left") == "t1 · as they are"
    summary = tables.scores_summary
    for method in ("ken", "random"):
        rows = summary[(summary["model"] == "bert") & (summary["method"] == method)]
        (line,) = lines_of(axes, style.FIXED[method].colour)
        np.testing.assert_allclose(line, rows[["kept_share", "weighted_f1"]])
    heights = {round(float(line[0, 1]), 6) for line in lines_of(axes, style.INK)}
    assert heights == {0.91, 0.3}
    assert len(axes.collections) == 1  # the band of the first method


def names_in(axes):
    return sorted(text.get_text() for text in labels_of(axes))


def test_every_line_has_its_name_and_no_panel_a_legend(wide_study):
    tables = Tables.read(wide_study)
    ends = {"summary": ["Full (nothing reset)", "None (whole body reset)"], "curves": ["Full", "None"]}
    curves = drawn(scores.draw_curves, tables, "bloom")
    for name, figure in {"summary": drawn(overview.draw_summary, tables), "curves": curves}.items():
        kept, rescaled = figure.axes
        assert names_in(kept) == sorted([*ends[name], "KEN", "Random", "KEN grid (layers)"])
        assert names_in(rescaled) == sorted([*ends[name], "KEN rescaled", "KEN as it is", "Random as it is"])
        assert not figure.legends and all(axes.get_legend() is None for axes in figure.axes)
        for axes in figure.axes:
            assert all(lines_of(axes, style.FIXED[name].colour) for name in ("ken", "random"))


def test_the_summary_shows_only_methods_with_kept_shares_in_all_cells(wide_study):
    summary = drawn(overview.draw_summary, Tables.read(wide_study))
    colours = {line.get_color() for axes in summary.axes for line in axes.lines}
    assert not colours & {style.FIXED[name].colour for name in ("bitdelta", "lora", "lt-sft", "flop")}


def frontier_of(tables):
    return drawn(frontier.draw_frontier, tables.frontier_points, frontier.labelled(tables))


def labels_of(axes):
    return [text for text in axes.texts if text.get_text()]


def test_the_frontier_shows_all_cells_and_the_common_ones(wide_study):
    tables = Tables.read(wide_study)
    left, right = frontier_of(tables).axes
    assert left.get_title(loc="left") == "All 4 cells"
    assert right.get_title(loc="left") == "1 cell with every method"
    assert not lines_of(left, style.FIXED["lora"].colour)
    (lora,) = lines_of(right, style.FIXED["lora"].colour)
    points = tables.frontier_points
    rows = points[(points["method"] == "lora") & (points["cells_of"] == "common")]
    np.testing.assert_allclose(lora, rows[["stored_share", "difference_points"]])
    low, high = left.get_xlim()
    assert low <= 0.001 and high >= 1
    for axes in (left, right):
        (front,) = lines_of(axes, style.GRID)
        best = points[points["cells_of"] == ("all" if axes is left else "common")]
        assert front[-1, 1] == best.loc[~best["method"].isin(style.CONTROLS), "difference_points"].max()


def test_every_named_line_has_its_name_and_all_others_are_grey(crowded):
    chosen = frontier.labelled(crowded)
    assert len(chosen) == named.MOST and {"ken", "random", "ken-rescaled", "lora"} < set(chosen)
    (axes,) = frontier_of(crowded).axes
    assert names_in(axes) == sorted(map(style.label, (*chosen, *style.CONTROLS)))
    others = set(crowded.frontier_points["method"]) - {*chosen, *style.CONTROLS}
    assert len(lines_of(axes, drawing.GREY)) == len(others) > 20
    assert axes.get_title(loc="right") == f"grey: {len(others)} other methods"


def test_figures_give_names_to_the_same_methods(crowded):
    order = named.methods(crowded)
    for axes in drawn(overview.draw_summary, crowded).axes:
        coloured = {text for text in names_in(axes) if "(" not in text and not text.endswith("as it is")}
        assert coloured and coloured <= set(map(style.label, order))
    assert set(frontier.labelled(crowded)) <= set(order)
    assert len(named.chosen(order, crowded.overview["method"], most=4)) == 4


def test_all_methods_of_a_small_study_have_their_name(wide_study):
    tables = Tables.read(wide_study)
    pooled = tables.frontier_points.query("model == ''").groupby("cells_of")
    for axes, (_, rows) in zip(frontier_of(tables).axes, pooled, strict=True):
        assert names_in(axes) == sorted(map(style.label, set(rows["method"])))
        assert not axes.get_title(loc="right") and not lines_of(axes, drawing.GREY)


def test_the_best_selections_have_names_in_the_order_of_their_smallest_files(tmp_path):
    scored = {  # budget, and so size; weighted F1, of 0.9
        "magnitude": (0.5, 0.899), "seeded-rescaled-2bit": (0.4, 0.9), "seeded-rescaled-3bit": (0.1, 0.895),
        "rounded": (0.05, 0.893), "delta-magnitude": (0.01, 0.887), "dare": (0.02, 0.8), "ken": (0.03, 0.7),
    }  # fmt: skip
    rows = [score_row(method=name, budget=budget, f1=f1) for name, (budget, f1) in scored.items()]
    tables = Tables.compute(write_results(tmp_path, [*controls(), *rows]))
    expected = ["ken", "rounded", "seeded-rescaled-3bit", "magnitude", "delta-magnitude"]
    assert named.methods(tables) == expected
    assert named.chosen(expected, scored, most=4) == expected[:4]
    assert set(named.chosen(expected, scored)) == set(scored), "all of a few methods"


def test_the_frontier_of_each_model_has_a_panel(wide_study, tmp_path):
    tables = Tables.read(wide_study)
    points = tables.frontier_points
    figure = drawn(frontier.draw_models, points[points["model"] != ""], frontier.labelled(tables, 4))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["bert, 2 cells", "bloom, 2 cells"]
    assert figure.get_suptitle() == "grey: 1 other method"
    single = Tables.compute(write_results(tmp_path, [*controls(), score_row()]))
    assert not frontier.drawings(single)["frontier_models"].shown and frontier.drawings(single)["frontier"].shown


def test_intervals_are_drawn_for_labelled_methods(wide_study):
    tables = Tables.read(wide_study)
    points = tables.frontier_points
    points = points.assign(low=points["difference_points"] - 1, high=points["difference_points"] + 0.25)
    left, _ = drawn(frontier.draw_frontier, points, ["ken-rescaled"]).axes
    rows = points[(points["model"] == "") & (points["cells_of"] == "all") & (points["method"] == "ken-rescaled")]
    segments = [segment for collection in left.collections for segment in collection.get_segments()]
    ends = [[(row.stored_share, row.low), (row.stored_share, row.high)] for row in rows.itertuples()]
    np.testing.assert_allclose(segments, ends)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Tables of a study with every registered method."""
    rows = controls()
    for index, (name, method) in enumerate(METHODS.items()):
        for budget in method.budgets or (0.02, 0.022, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75):
            size = {"stored_bytes": 4000 * min(budget, 0.9) + 10 * index, "kept_share": min(budget, 0.9)}
            row = score_row(
                method=name, budget=budget, f1=0.3 + 0.6 * size["kept_share"] ** 0.3 - 0.001 * index, **size
            )
            rows += [row | {"family": method.family, "unit": method.unit}] if name not in style.CONTROLS else []
    return Tables.compute(write_results(tmp_path_factory.mktemp("crowded"), rows))


def texts_of(figure):
    """All texts that a figure shows, without ticks outside the limits of their axis."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    texts += [text for text in (figure._suptitle, figure._supxlabel, figure._supylabel) if text]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        texts += [text for legend in [axes.get_legend()] if legend for text in legend.get_texts()]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [axis.label, *(tick.label1 for tick in ticks)]
    return [text for text in dict.fromkeys(texts) if text.get_text().strip() and text.get_visible()]


def mistakes_of(name, figure):
    """What is wrong with the texts of a figure, one line each."""
    boxes = {text: matplotlib.text.Text.get_window_extent(text) for text in texts_of(figure)}
    width, height = figure.bbox.x1, figure.bbox.y1
    for text, box in boxes.items():
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
            yield f"{name}: {text.get_text()!r} is cut off"
        if text.get_fontsize() < 8:
            yield f"{name}: {text.get_text()!r} is too small"
    for one, other in itertools.combinations(boxes, 2):
        if boxes[one].overlaps(boxes[other]):
            yield f"{name}: {one.get_text()!r} overlaps {other.get_text()!r}"
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    yield from (f"{name}: a legend of many entries" for legend in legends if len(legend.get_texts()) > 8)
    if figure.get_figwidth() > 6.4:
        yield f"{name}: too wide for a phone"


def mistakes(tables):
    return [
        line for name, drawing in figures.drawings(tables).items() for line in mistakes_of(name, drawn(drawing.draw))
    ]


REFERENCES = sorted(path.name for path in Path("results/reference").iterdir() if (path / "scores.csv").exists())


@pytest.mark.parametrize("name", REFERENCES)
def test_all_texts_of_the_committed_studies_can_be_read(name):
    assert not mistakes(Tables.compute(Path("results/reference") / name))


def test_all_texts_of_invented_studies_can_be_read(crowded, wide_study, built_study):
    for tables in (crowded, Tables.read(wide_study), Tables.read(built_study)):
        assert not mistakes(tables)


def test_mistakes_are_found():
    figure, panels = drawing.canvas(7, 1)
    for x in (0.2, 0.21, 1.2):
        panels[0, 0].text(x, 0.5, "some text", fontsize=7)
    for index in range(9):
        panels[0, 0].plot([0, 1], label=index)
    panels[0, 0].legend()
    figure.draw_without_rendering()
    found = "\n".join(mistakes_of("it", figure))
    for mistake in ("cut off", "too small", "'some text' overlaps 'some text'", "many entries", "too wide"):
        assert mistake in found


def test_names_of_lines_neither_overlap_nor_leave_the_panel(crowded):
    (axes,) = frontier_of(crowded).axes
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in labels_of(axes)]
    assert len(boxes) == named.MOST + len(style.CONTROLS)
    panel = axes.get_window_extent()
    assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_names_of_lines_lie_beside_their_lines():
    figure, panels = drawing.canvas(5, 4)
    lines = {height: panels[0, 0].plot([0, 1], [height, height], label=f"at {height}")[0] for height in (0, 1, 2)}
    panels[0, 0].plot([0, 1], [1.5, 1.5])  # has no name
    labels.write(figure)
    figure.draw_without_rendering()
    assert names_in(panels[0, 0]) == ["at 0", "at 1", "at 2"]
    for text in labels_of(panels[0, 0]):
        box = matplotlib.text.Text.get_window_extent(text)
        heights = {height: line.get_transform().transform((0, height))[1] for height, line in lines.items()}
        near = min(heights, key=lambda height: abs(heights[height] - (box.y0 + box.y1) / 2))
        assert text.get_text() == f"at {near}" and not box.y0 < heights[near] < box.y1


def test_a_name_without_room_is_left_out():
    figure, panels = drawing.canvas(1, 1)
    panels[0, 0].plot([0.2, 0.8], [0.2, 0.8], label="far too long a name for so small a panel")
    labels.write(figure)
    assert not labels_of(panels[0, 0])


@pytest.mark.parametrize("width", [2, 3, 5])
def test_ticks_that_would_touch_are_left_out(width):
    def draw():
        figure, panels = drawing.canvas(width, 2)
        drawing.share_axis(panels[0, 0], pd.Series([0.005, 1.0]))
        panels[0, 0].set_ylim(1, 1e12)
        drawing.log_axis(panels[0, 0].yaxis)
        return figure

    figure = drawn(draw)
    assert not [line for line in mistakes_of("ticks", figure) if "overlaps" in line]
    assert all(len(axis.get_majorticklocs()) >= 3 for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))


def test_hostile_names_are_drawn_as_text(hostile_study):
    for path in (hostile_study / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()
    files = {path.name for path in (hostile_study / "figures").iterdir()}
    assert all(re.fullmatch(r"[\w.-]+", name) for name in files)


def test_every_registered_method_has_a_unique_style_and_label():
    names = [name for name in METHODS if name not in style.CONTROLS]
    assert {style.MethodName.of(name).base for name in names} <= style.FIXED.keys()
    styles = style.method_styles([*names, "flop"])
    assert len({(one.colour, one.marker, one.hollow) for one in styles.values()}) == len(styles)
    coded = [f"{name}-{bits}bit" for name in names for bits in base.WIDTHS]
    names += [name for name in coded if name in METHODS]
    styles = style.method_styles(names)
    assert len(names) > 80 and len(set(styles.values())) == len(names)
    labels = {style.label(name) for name in styles}
    assert len(labels) == len(styles) and not labels & styles.keys()


def test_units_and_families_of_the_methods_are_known():
    assert results.FAMILIES == base.FAMILIES
    assert {style.budget_label(2, unit) for unit in base.UNITS} == {
        *("k\xa0=\xa02", "rank\xa02", "size\xa0200\xa0%", "2\xa0bits", "200\xa0% of the bytes"),
    }


def test_a_rescaled_method_differs_from_its_base_in_dash_and_fill():
    styles = style.method_styles(["ken", "ken-rescaled", "mine", "mine-rescaled"])
    for name in ("ken", "mine"):
        plain, rescaled = styles[name], styles[f"{name}-rescaled"]
        assert (plain.colour, plain.marker) == (rescaled.colour, rescaled.marker)
        assert plain.line != rescaled.line and rescaled.hollow and not plain.hollow
    assert style.label("ken-rescaled") == "KEN rescaled" and style.label("mine-rescaled") == "mine-rescaled"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("seeded-rescaled-3bit", "Seeded, rescaled, 3 bits"),
        ("seeded-1bit", "Seeded, 1 bit"),
        ("ken-base-rescaled-4bit", "KEN of the base, rescaled, 4 bits"),
        ("ken-rescaled-16bit", "KEN, rescaled, 16 bits"),
        ("ken-base-rescaled", "KEN of the base rescaled"),
        ("rounded", "Rounded"),
        ("seeded-5bit", "seeded-5bit"),
        ("mine-rescaled-3bit", "mine-rescaled-3bit"),
    ],
)
def test_a_method_with_bits_is_named_after_its_selection(method, expected):
    assert style.label(method) == expected


def test_methods_of_one_selection_share_colour_and_marker_at_every_number_of_bits():
    assert tuple(style.DASHES) == base.WIDTHS
    styles = style.method_styles(f"{name}-{bits}bit" for name in ("seeded-rescaled", "mine") for bits in base.WIDTHS)
    assert {(one.colour, one.marker) for name, one in styles.items() if name.startswith("seeded")} == {
        (style.FIXED["seeded"].colour, style.FIXED["seeded"].marker)
    }
    assert len({one.line for one in styles.values()}) == len(base.WIDTHS)
    assert all(one.hollow == name.startswith("seeded") for name, one in styles.items())


@given(st.lists(st.text(min_size=1), max_size=30, unique=True))
def test_every_method_gets_a_unique_style(names):
    styles = style.method_styles([*names, "ken"])
    assert len(set(styles.values())) == len(styles)
    assert styles["ken"] == style.FIXED["ken"]
    assert styles == style.method_styles(["ken", *reversed(names)])


def test_the_style_of_an_unknown_method_does_not_depend_on_the_others():
    assert style.method_styles(["mine"])["mine"] == style.method_styles(["mine", "yours", "ken", "dare"])["mine"]


@pytest.mark.parametrize(
    ("value", "expected"), [(-0.04, "±0.0"), (0.04, "±0.0"), (-12.34, "−12.3"), (3, "+3.0"), (float("nan"), "")]
)
def test_points(value, expected):
    assert style.points(value) == expected


@pytest.mark.parametrize(("budget", "expected"), [(0.02, "2 %"), (0.125, "12.5 %"), (1.0, "100 %"), (128, "k = 128")])
def test_budget_label(budget, expected):
    assert style.budget_label(budget).replace("\xa0", " ") == expected
    assert style.budget_label(budget, "share").replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("budget", "unit", "expected"),
    [
        (4, "rank", "rank 4"),
        (0.25, "size", "size 25 %"),
        (1, "bits", "1 bit"),
        (2, "bits", "2 bits"),
        (0.05, "bytes", "5 % of the bytes"),
        (3, "mm", "mm 3"),
    ],
)
def test_budgets_in_other_units(budget, unit, expected):
    assert style.budget_label(budget, unit).replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345, "12.3 kB"), (999_999, "1000 kB"), (3.2e6, "3.2 MB")],
)
def test_size(count, expected):
    assert style.size(count).replace("\xa0", " ") == expected


def test_matplotlib_settings_are_restored():
    before = matplotlib.rcParams["svg.hashsalt"]
    with drawing.figure_style():
        assert matplotlib.rcParams["svg.hashsalt"] == "report"
    assert matplotlib.rcParams["svg.hashsalt"] == before


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(UserError, match=r"headline\.csv does not exist"):
        run_step(figures, "--results", tmp_path)


def test_computing_tables_does_not_import_matplotlib():
    code = "import sys, report.tables; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_figures_depend_neither_on_a_notebook_nor_on_a_matplotlibrc(built_study, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 22\naxes.facecolor: red\n")
    changes = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
    }
    for name, environment in {"plain": {}, "own": changes}.items():
        command = [sys.executable, "-m", "report.figures", "--results", built_study, "--out", tmp_path / name]
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, timeout=200)
    pictures = sorted(path.name for path in (tmp_path / "plain").glob("*.svg"))
    assert pictures and all(
        (tmp_path / "plain" / name).read_bytes() == (tmp_path / "own" / name).read_bytes() for name in pictures
    )
