"""KENviz: neighbour counts against a loop, expected counts against random draws, and the figures."""

import numpy as np
import pytest
import torch

from ken import viz
from ken.subnetwork import Subnetwork
from ken.viz.pictures import FORMATS
from ken.viz.tiles import tile_means, tile_size, tile_sums


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


def test_expected_neighbours_of_a_random_choice():
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


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 2), (7, 9)])
def test_tiles_agree_with_a_loop(tile):
    torch.manual_seed(0)
    matrix = torch.randn(7, 5).numpy()
    matrix[torch.rand(7, 5).numpy() < 0.4] = np.nan
    matrix[:2, :3] = np.nan
    sums, means = tile_sums(np.nan_to_num(matrix), tile), tile_means(matrix, tile)
    for i, top in enumerate(range(0, 7, tile[0])):
        for j, left in enumerate(range(0, 5, tile[1])):
            part = matrix[top : top + tile[0], left : left + tile[1]]
            present = part[~np.isnan(part)]
            assert sums[i, j] == pytest.approx(present.sum(), abs=1e-6)
            assert means[i, j] == pytest.approx(present.mean() if present.size else np.nan, nan_ok=True)
    assert sums.shape == (-(-7 // tile[0]), -(-5 // tile[1]))


def test_there_are_at_most_as_many_tiles_as_requested():
    assert tile_size((4096, 768), 256) == (16, 3)
    assert tile_size((7, 256), 256) == (1, 1)


@pytest.fixture(scope="module")
def subnetwork():
    torch.manual_seed(0)
    shapes = {f"body.layer.{i}.{part}.weight": (16, 24) for i in (10, 2, 0) for part in ("query", "key")}
    shapes |= {"body.embedding.weight": (600, 8), "body.bias": (8,)}
    pretrained, finetuned = ({name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(2))
    return Subnetwork.extract(pretrained, finetuned, 0.25)


def test_kinds_are_listed_in_layer_order(subnetwork):
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


def pictures(figure):
    """The matrices of all panels, in reading order; NaN where a panel is blank."""
    shown = [axis.get_images()[0].get_array() for axis in figure.axes if axis.get_images()]
    return [np.ma.filled(np.ma.asarray(matrix).astype(float), np.nan) for matrix in shown]


def test_a_single_layer_shows_values_and_neighbours(subnetwork):
    name = "body.layer.2.key.weight"
    mask = subnetwork.masks[name]
    (values,) = pictures(viz.draw_layers(subnetwork, "key", "values", layer=2))
    assert np.array_equal(~np.isnan(values), mask.numpy())
    assert np.array_equal(values[mask], subnetwork.values[name].numpy())
    (counts,) = pictures(viz.draw_layers(subnetwork, "key", "neighbours", layer=2))
    assert np.array_equal(np.nan_to_num(counts, nan=-1), loop_counts(mask))
    assert len(pictures(viz.draw_layers(subnetwork, "key", layer=2))) == 2
    with pytest.raises(ValueError, match="has no layer 3: expected one of 0, 2, 10"):
        viz.draw_layers(subnetwork, "key", layer=3)


def test_a_large_matrix_is_drawn_in_tiles(subnetwork):
    mask = subnetwork.masks["body.embedding.weight"]
    share, counts = pictures(viz.draw_matrix(subnetwork, "body.embedding.weight"))
    assert share.shape == counts.shape == (200, 8)  # 600 rows are more than 512: tiles of 3 × 1
    for row in range(200):
        for column in range(8):
            kept = mask[3 * row : 3 * row + 3, column]
            around = loop_counts(mask[max(0, 3 * row - 1) : 3 * row + 4])[(row > 0) :, column][:3][kept]
            if not kept.any():
                assert np.isnan(share[row, column]) and np.isnan(counts[row, column])
            else:
                assert share[row, column] == pytest.approx(kept.float().mean().item())
                assert counts[row, column] == pytest.approx(around.mean())
    (values,) = pictures(viz.draw_matrix(subnetwork, "body.embedding.weight", "values"))
    assert values.shape == (600, 8)  # a single panel has room for every row


@pytest.mark.parametrize("suffix", FORMATS)
def test_saving_is_atomic_and_deterministic(subnetwork, suffix, tmp_path):
    paths = [tmp_path / f"{name}{suffix}" for name in ("first", "second")]
    for path in paths:
        viz.save(viz.draw_layers(subnetwork, "query", "values", layer=0), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_an_unsupported_image_format_is_refused(subnetwork, tmp_path):
    figure = viz.draw_layers(subnetwork, "query", layer=0)
    with pytest.raises(ValueError, match=r"end its name in \.svg, \.pdf, \.png"):
        viz.save(figure, tmp_path / "picture.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["body.embedding.weight", "body.bias"])
def test_matrix_figure(subnetwork, name, tmp_path):
    viz.draw_matrix(subnetwork, name).savefig(tmp_path / "matrix.png", dpi=40)


def test_error_messages_suggest_valid_names(subnetwork):
    with pytest.raises(ValueError, match="'value' fits 0 kinds of matrices"):
        viz.draw_layers(subnetwork, "value")
    with pytest.raises(ValueError, match=r"did you mean 'query\.weight'\?"):
        viz.draw_layers(subnetwork, "quary.weight")
    with pytest.raises(ValueError, match=r"did you mean 'body\.embedding\.weight'\?"):
        viz.draw_layers(subnetwork, "body.embeding.weight")
    with pytest.raises(ValueError, match="'weight' fits 2 kinds"):
        viz.draw_layers(subnetwork, "weight")
    with pytest.raises(ValueError, match="unknown view 'all'"):
        viz.draw_layers(subnetwork, "query", "all")
    with pytest.raises(ValueError, match=r"no body tensor 'x': expected one of body.bias"):
        viz.draw_matrix(subnetwork, "x")
