"""KENviz: neighbour counts against a loop, expected counts against draws, and figures that say what they show."""

import numpy as np
import pytest
import torch

from ken import viz
from ken.subnetwork import Subnetwork


def loop_counts(mask):
    rows, n = mask.shape
    counts = np.full((rows, n), -1)
    for i in range(rows):
        for j in range(n):
            if mask[i, j]:
                around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                counts[i, j] = sum(bool(mask[a, b]) for a, b in around if 0 <= a < rows and 0 <= b < n)
    return counts


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (12, 15)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_neighbour_counts(shape, share):
    torch.manual_seed(0)
    mask = torch.rand(shape) < share
    assert np.array_equal(viz.neighbour_counts(mask), loop_counts(mask))


def test_neighbours_expected_of_an_even_choice():
    torch.manual_seed(0)
    counts = torch.tensor([2, 9, 5, 0, 12, 7])[:, None]
    means = []
    for _ in range(3000):
        mask = torch.rand(6, 15).argsort(1) < counts
        observed = viz.neighbour_counts(mask)
        means.append(observed[observed >= 0].mean())
        expected = viz.expected_neighbours(mask)
    assert abs(np.mean(means) - expected) < 4 * np.std(means) / len(means) ** 0.5
    assert viz.expected_neighbours(torch.zeros(3, 4, dtype=torch.bool)) == 0


def test_block_means_leave_blanks_out():
    matrix = np.arange(20.0).reshape(4, 5)
    matrix[0, :2] = matrix[1, 0] = np.nan
    matrix[2:, 4] = np.nan
    means, block = viz.block_means(matrix, largest_side=3)
    assert block == (2, 2)
    assert np.array_equal(means, [[6, 5, 6.5], [13, 15, np.nan]], equal_nan=True)
    assert viz.block_means(matrix)[1] == (1, 1)


@pytest.fixture(scope="module")
def subnetwork():
    torch.manual_seed(0)
    shapes = {f"body.layer.{i}.{part}.weight": (16, 24) for i in (10, 2, 0) for part in ("query", "key")}
    shapes |= {"body.embedding.weight": (600, 8), "body.bias": (8,)}
    pretrained, finetuned = ({name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(2))
    return Subnetwork.extract(pretrained, finetuned, 0.25)


def test_kinds_are_in_the_order_of_the_layers(subnetwork):
    assert {kind: list(layers) for kind, layers in viz.kinds(subnetwork).items()} == {
        "body.layer.*.query.weight": [0, 2, 10],
        "body.layer.*.key.weight": [0, 2, 10],
    }


@pytest.mark.parametrize(("view", "panels"), [("values", 3), ("neighbours", 3), ("both", 6)])
def test_layers_figure(subnetwork, view, panels, tmp_path):
    figure = viz.draw_layers(subnetwork, "query", view)
    figure.savefig(tmp_path / "layers.png", dpi=40)
    titled = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titled) == panels
    assert titled[-1].startswith("layer 10")
    assert "25.0% of the body kept" in figure.get_suptitle()
    shown = np.ma.getmaskarray(figure.axes[0].get_images()[0].get_array())
    assert np.array_equal(~shown, subnetwork.masks["body.layer.0.query.weight"].numpy())


@pytest.mark.parametrize("name", ["body.embedding.weight", "body.bias"])
def test_matrix_figure(subnetwork, name, tmp_path):
    viz.draw_matrix(subnetwork, name).savefig(tmp_path / "matrix.png", dpi=40)


def test_wrong_names_are_answered_with_the_right_ones(subnetwork):
    with pytest.raises(ValueError, match="'value' fits 0 kinds of matrices"):
        viz.draw_layers(subnetwork, "value")
    with pytest.raises(ValueError, match="'weight' fits 2 kinds"):
        viz.draw_layers(subnetwork, "weight")
    with pytest.raises(ValueError, match="unknown view 'all'"):
        viz.draw_layers(subnetwork, "query", "all")
    with pytest.raises(ValueError, match=r"no body tensor 'x': expected one of body.bias"):
        viz.draw_matrix(subnetwork, "x")
