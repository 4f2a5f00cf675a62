"""The KENviz explorer page: its data against sub-networks and plain loops, and the page in a real browser."""

import base64
import json
import math
import re
import time
import tomllib
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ken import cli
from ken.sources import open_source
from ken.subnetwork import Subnetwork
from ken.viz import explorer, explorer_data
from tests.browser import Browser, start
from tests.ken.test_viz import loop_counts

HOSTILE = "</script><script>alert('1 & 2')</script><!-- \"'"
LIMIT, TILES = 10_000, 32  # in these tests: entries of a matrix shown exactly, and tiles along a side
SHAPES = {"query.weight": (12, 20), "key.weight": (12, 20), "output.dense.weight": (300, 131)}


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Base, fine-tuned model and three sub-networks; all values are multiples of 1/256 and fit into float16."""
    folder = tmp_path_factory.mktemp("explorer")
    torch.manual_seed(0)
    names = {f"bert.layer.{i}.{part}": shape for i in (0, 1, 10) for part, shape in SHAPES.items()}
    base = {name: torch.randint(-512, 512, shape) / 256 for name, shape in names.items()}
    base |= {"bert.layer.0.norm.weight": torch.ones(20)}
    tuned = {name: tensor + torch.randint(-99, 99, tensor.shape) / 256 for name, tensor in base.items()}
    tuned["classifier.weight"] = torch.ones(2, 20)
    save_file(base, folder / "base.safetensors")
    save_file(tuned, folder / "tuned.safetensors")
    Subnetwork.extract(base, tuned, 0.25).save(folder / "ken.safetensors")
    Subnetwork.extract(base, tuned, 0.25, rule="rescale").save(folder / "rescaled.safetensors")
    masks = {name: torch.rand(tensor.shape) < 0.4 for name, tensor in base.items()}
    masks["bert.layer.1.key.weight"][:] = False
    Subnetwork.from_masks(base, tuned, masks, 5, HOSTILE).save(folder / "even.safetensors")
    return folder


def page_of(out: Path) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', out.read_text("utf-8"), re.S)
    return json.loads(text)


@pytest.fixture(scope="module")
def written(cell):
    """The page with all files, its data, the facts that `write_page` returned, and the sub-networks."""
    patch = pytest.MonkeyPatch()
    patch.setattr(explorer_data, "EXACT_ENTRIES", LIMIT)
    patch.setattr(explorer_data, "TILES", TILES)
    files = [cell / f"{name}.safetensors" for name in ("ken", "even", "rescaled")]
    out = cell / "page.html"
    facts = explorer.write_page(files, out, cell / "base.safetensors", cell / "tuned.safetensors")
    patch.undo()
    return out, page_of(out), facts, [Subnetwork.load(path) for path in files]


def unpacked(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), "<f2").astype(np.float64) / 2.0 ** packed["exponent"]


def layers_of(data: dict, exact: bool):
    """(layer, file, index of the file) of the matrices shown exactly, or of those shown in tiles."""
    for kind in data["kinds"]:
        for layer in kind["layers"]:
            if (layer["tile"] is None) is exact:
                yield from ((layer, file, i) for i, file in enumerate(layer["files"]))


@pytest.mark.parametrize("scale", [1e-40, 1e-9, 0.03, 1.0, 1e6])
def test_packed_values_keep_three_digits(scale):
    values = np.concatenate([np.linspace(-1, 1, 999), [1e-3, -1e-4]]) * scale
    np.testing.assert_allclose(unpacked(explorer_data.packed(values)), values, rtol=2**-11, atol=scale * 2**-39)
    assert unpacked(explorer_data.packed(np.zeros(3))).tolist() == [0, 0, 0]
    assert unpacked(explorer_data.packed(np.zeros(0))).size == 0


def test_exact_matrices_match_the_sub_networks(written, cell):
    _, data, _, subnetworks = written
    base, tuned = (open_source(cell / f"{name}.safetensors") for name in ("base", "tuned"))
    checked = 0
    for layer, file, i in layers_of(data, exact=True):
        name, subnetwork = layer["tensor"], subnetworks[i]
        bits = np.frombuffer(base64.b64decode(file["mask"]), np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: layer["rows"] * layer["columns"]].astype(bool)
        assert np.array_equal(mask, subnetwork.masks[name].numpy().reshape(-1))
        pretrained, finetuned = base.tensor(name).double().numpy(), tuned.tensor(name).double().numpy()
        kept = subnetwork.values[name].double().numpy()
        rounded = {"atol": 0 if subnetwork.rule == "reset" else 2**-10 * np.abs(kept).max(initial=0), "rtol": 0}
        np.testing.assert_allclose(unpacked(file["values"]), kept, **rounded)
        np.testing.assert_allclose(unpacked(file["updates"]), kept - pretrained.reshape(-1)[mask], **rounded)
        assert np.array_equal(unpacked(layer["pretrained"]), pretrained.reshape(-1))
        assert np.array_equal(unpacked(layer["changes"]), (finetuned - pretrained).reshape(-1))
        checked += 1
    assert checked == 2 * 3 * 3


def test_counts_agree_with_a_loop(written, cell):
    _, data, _, subnetworks = written
    base, tuned = (open_source(cell / f"{name}.safetensors") for name in ("base", "tuned"))
    for layer, file, i in layers_of(data, exact=True):
        mask = subnetworks[i].masks[layer["tensor"]]
        counts = loop_counts(mask)
        assert file["kept"] == int(mask.sum())
        assert file["mean_neighbours"] == pytest.approx(counts[counts >= 0].mean() if mask.any() else 0)
        squares = (tuned.tensor(layer["tensor"]) - base.tensor(layer["tensor"])).double() ** 2
        assert file["update_share"] == pytest.approx(float(squares[mask].sum() / squares.sum()))


def loop_tiles(matrix: np.ndarray, tile: tuple[int, int]) -> list[np.ndarray]:
    rows, columns = matrix.shape
    return [
        matrix[top : top + tile[0], left : left + tile[1]]
        for top in range(0, rows, tile[0])
        for left in range(0, columns, tile[1])
    ]


def test_binned_matrices_agree_with_a_loop_over_tiles(written, cell):
    _, data, facts, subnetworks = written
    base, tuned = (open_source(cell / f"{name}.safetensors") for name in ("base", "tuned"))
    assert facts["binned"] == [f"bert.layer.{i}.output.dense.weight" for i in (0, 1, 10)] and not facts["left_out"]
    for layer, file, i in layers_of(data, exact=False):
        name, subnetwork = layer["tensor"], subnetworks[i]
        mask, tile = subnetwork.masks[name].numpy(), tuple(layer["tile"])
        assert tile == (10, 5)
        values = np.zeros(mask.shape)
        values[mask] = subnetwork.values[name].double().numpy()
        pretrained = base.tensor(name).double().numpy()
        changes = np.abs(tuned.tensor(name).double().numpy() - pretrained)
        tiles = [loop_tiles(of, tile) for of in (mask, values, values - pretrained, loop_counts(mask), changes)]
        expected = {"values": [], "updates": [], "neighbours": [], "lost": []}
        for kept, value, update, count, change in zip(*tiles, strict=True):
            some, rest = kept.any(), not kept.all()
            expected["values"].append(np.abs(value[kept]).mean() if some else 0)
            expected["updates"].append(np.abs(update[kept]).mean() if some else 0)
            expected["neighbours"].append(count[kept].mean() if some else 0)
            expected["lost"].append(change[~kept].mean() if rest else 0)
        counts = np.frombuffer(base64.b64decode(file["counts"]), "<u4")
        assert counts.tolist() == [int(kept.sum()) for kept in tiles[0]]
        for what, means in expected.items():
            np.testing.assert_allclose(unpacked(file[what]), means, rtol=2**-10, atol=1e-6)


def test_colour_scales_end_at_the_99th_percentile(written):
    _, data, _, subnetworks = written
    (query,) = [kind for kind in data["kinds"] if "query" in kind["name"]]
    for limits, subnetwork in zip(query["limits"], subnetworks, strict=True):
        sizes = [subnetwork.values[f"bert.layer.{i}.query.weight"].abs().numpy() for i in (0, 1, 10)]
        assert limits["values"] == pytest.approx(max(np.quantile(size, 0.99) for size in sizes))


def test_queries_come_first_and_layers_in_order(written):
    data = written[1]
    assert [kind["name"] for kind in data["kinds"]] == [
        "bert.layer.*.query.weight", "bert.layer.*.key.weight", "bert.layer.*.output.dense.weight",
    ]  # fmt: skip
    assert [layer["layer"] for layer in data["kinds"][0]["layers"]] == [0, 1, 10]
    assert any("3 of 9 matrices are shown by tiles" in note and "(layers 0 to 1, 10)" in note for note in data["notes"])


def test_names_cannot_end_the_script(written):
    out, data, _, _ = written
    assert data["files"][1]["label"] == f"{HOSTILE}, 5 of each row"
    text = out.read_text("utf-8")
    assert "alert('1 & 2')" in text and "<script>alert" not in text and text.count("</script>") == 2
    assert [file["source"] for file in data["files"]] == ["ken.safetensors", "even.safetensors", "rescaled.safetensors"]


def test_without_the_models_only_kept_values_are_shown(cell):
    facts = explorer.write_page([cell / "ken.safetensors"], cell / "kept.html", matrices=["key.weight"])
    layer = page_of(cell / "kept.html")["kinds"][0]["layers"][0]
    assert (layer["pretrained"], layer["changes"], layer["files"][0]["updates"]) == (None, None, None)
    assert facts["exact"] == [f"bert.layer.{i}.key.weight" for i in (0, 1, 10)]
    assert any("without the pre-trained model" in note for note in facts["notes"])


@pytest.mark.parametrize("megabytes", [0.2, 0.5, 1.0])
def test_a_page_stays_within_its_size_limit(cell, megabytes, monkeypatch):
    monkeypatch.setattr(explorer_data, "TILES", 64)
    files = [cell / f"{name}.safetensors" for name in ("ken", "even", "rescaled")]
    facts = explorer.write_page(files, cell / "small.html", cell / "base.safetensors", megabytes=megabytes)
    assert facts["bytes"] == (cell / "small.html").stat().st_size <= megabytes * 1e6
    data = page_of(cell / "small.html")
    shown = {layer["tensor"] for kind in data["kinds"] for layer in kind["layers"]}
    assert shown == {*facts["exact"], *facts["binned"]} and shown.isdisjoint(facts["left_out"])
    assert len(shown) + len(facts["left_out"]) == 9
    assert bool(facts["left_out"]) == any("are left out" in note for note in data["notes"])
    assert bool(facts["left_out"]) == (megabytes == 0.2)


def test_plan_prefers_all_matrices_binned_over_some_exact():
    costs = {"a": (100, 10), "b": (None, 10), "c": (5, 10), "d": (60, 10), "e": (50, 30)}
    assert explorer.plan(costs, 1000) == {"a": "exact", "b": "binned", "c": "exact", "d": "exact", "e": "exact"}
    assert explorer.plan(costs, 65 + 90) == {"a": "exact", "b": "binned", "c": "exact", "d": "binned", "e": "binned"}
    assert explorer.plan(costs, 64) == {"a": "binned", "b": "binned", "c": "exact", "d": "binned"}
    assert explorer.plan(costs, 4) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ken", "--matrices", "quary.weight"], "did you mean 'query.weight'"),
        (["ken", "--pretrained", "tuned"], "the base has fingerprint"),
        (["ken", "--finetuned", "tuned"], "give that with the fine-tuned one"),
        (["ken", "--pretrained", "base", "--finetuned", "base"], "differ from the fine-tuned model"),
        (["rescaled", "--pretrained", "base", "--finetuned", "base"], "differ from the fine-tuned model"),
        (["ken", "other"], "is of another base than"),
        (["ken", "--megabytes", "0.06"], "no matrix fits into 0.06 MB"),
        (["ken", "even", "--out", "x.png"], "--out draws one sub-network, found 2"),
        (["base"], "is not a sub-network"),
    ],
)
def test_a_mistake_is_one_sentence(cell, tmp_path, arguments, sentence):
    tensors = {"bert.layer.0.query.weight": torch.ones(2, 2)}
    Subnetwork.extract({name: tensor * 0 for name, tensor in tensors.items()}, tensors, 1).save(
        cell / "other.safetensors"
    )
    paths = {path.stem: str(path) for path in cell.glob("*.safetensors")}
    given = [paths.get(argument, argument) for argument in arguments]
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        cli.main(["viz", *given, "--explorer", str(tmp_path / "page.html")])
    assert "x.png" in given or not list(tmp_path.iterdir())


def test_the_command_writes_the_page_and_lists_its_contents(cell, capsys):
    out = str(cell / "command.html")
    command = ["viz", str(cell / "ken.safetensors"), "--pretrained", str(cell / "base.safetensors"), "--explorer", out]
    cli.main([*command, "--matrices", "key.weight,query.weight", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["explorer"] == out and facts["bytes"] == Path(out).stat().st_size and len(facts["exact"]) == 6
    assert [kind["name"] for kind in page_of(Path(out))["kinds"]] == [f"bert.layer.*.{part}.weight" for part in
                                                                     ("key", "query")]  # fmt: skip
    cli.main(command)
    assert "the updates that the reset removed are not known" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is nothing to write"):
        cli.main(["viz", str(cell / "ken.safetensors")])


def test_the_template_is_packaged_and_self_contained():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ken.viz"]
    assert root / "ken" / "viz" / "explorer.html" in {
        path for pattern in patterns for path in (root / "ken" / "viz").glob(pattern)
    }
    text = (root / "ken" / "viz" / "explorer.html").read_text("utf-8")
    assert not re.search(r"https?:|\bsrc=|url\(|@import|\bfetch\(|XMLHttpRequest", text)
    assert text.count("KENVIZ_DATA") == 1 and len(text.encode()) < explorer._PAGE_BYTES


# ---- In a browser ----


class ExplorerBrowser(Browser):
    """A browser that shows an explorer page, which publishes a checksum of its picture."""

    def open(self, page: Path, width: int = 500, dark: bool = False, **fragment) -> str:
        """Load a page from scratch; returns the checksum of its picture."""
        self.load(page, width, dark=dark, fragment=urlencode(fragment))
        return self.checksum()

    def checksum(self) -> str:
        for _ in range(300):
            checksum = self.js("document.documentElement?.dataset.checksum || ''")
            if checksum and self.js("location.protocol") == "file:":
                return checksum
            time.sleep(0.02)
        raise AssertionError(f"no picture: {self.js('document.documentElement.dataset.error')}")

    def after(self, code: str) -> str:
        """Checksum of the picture after running a script."""
        self.js("delete document.documentElement.dataset.checksum; 0")
        self.js(f"{code}; 0")
        return self.checksum()

    def press(self, key: str) -> str:
        self.js("delete document.documentElement.dataset.checksum; 0")
        self.key(key)
        return self.checksum()

    def entry(self) -> dict[str, str]:
        """The page's description of the selected entry or tile."""
        texts = self.js("Array.from(document.querySelectorAll('#entry > *'), one => one.textContent)")
        return dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from start(ExplorerBrowser, tmp_path_factory)


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def set_control(name: str, value: object) -> str:
    """Script that selects a value in a list as a user would."""
    return f"{{ const one = $('{name}'); one.value = '{value}'; one.dispatchEvent(new Event('input')) }}"


def test_the_page_loads_without_errors_or_requests(browser, written):
    browser.open(written[0])
    assert browser.js("document.documentElement.dataset.error") is None
    assert browser.js("$('error').hidden") is True
    noise = [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded",
                                                                      "Runtime.consoleAPICalled")]  # fmt: skip
    assert not noise
    requests = [event["params"]["request"]["url"] for event in browser.events
                if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert all(url.startswith((written[0].as_uri(), "data:")) for url in requests) and requests
    assert browser.js("performance.getEntriesByType('resource').length") == 0


def test_an_error_is_shown_in_the_page(browser, written):
    browser.open(written[0])
    browser.js("setTimeout(() => { throw new Error('broken on purpose') }); 0")
    for _ in range(100):
        if browser.js("document.documentElement.dataset.error"):
            break
        time.sleep(0.02)
    assert "broken on purpose" in browser.js("$('error').textContent")


@pytest.mark.parametrize(
    ("control", "value"), [("file", 1), ("kind", 1), ("layer", 2), ("view", "neighbours"), ("view", "updates"),
                           ("view", "lost"), ("kind", 2)],
)  # fmt: skip
def test_a_control_changes_the_picture_and_the_url(browser, written, control, value):
    page = written[0]
    before = browser.open(page)
    changed = browser.after(set_control(control, value))
    address = browser.js("location.hash")
    assert changed != before and browser.js("document.documentElement.dataset.error") is None
    assert browser.open(page) == before
    assert browser.after(f"location.hash = {json.dumps(address)}") == changed


def test_the_url_may_contain_part_of_a_name(browser, written):
    browser.open(written[0], kind="key.weight", layer=10, view="neighbours", file=2)
    assert browser.js("$('title').textContent") == "Layer 10, bert.layer.*.key.weight"
    assert [browser.js(f"$('{name}').value") for name in ("file", "kind", "layer", "view")] == [
        "2", "1", "2", "neighbours",
    ]  # fmt: skip
    first = browser.open(written[0])
    assert browser.open(written[0], kind="nothing", layer="x", view="toString", file=99, row=-1) == first


@pytest.mark.parametrize("kept", [True, False])
def test_the_page_describes_an_entry(browser, written, cell, kept):
    page, _, _, subnetworks = written
    name, subnetwork = "bert.layer.10.key.weight", subnetworks[0]
    mask = subnetwork.masks[name]
    row, column = (mask if kept else ~mask).nonzero()[17].tolist()
    base, tuned = (open_source(cell / f"{of}.safetensors").tensor(name) for of in ("base", "tuned"))
    browser.open(page, kind="key.weight", layer=10, row=row, column=column)
    entry = browser.entry()
    assert (number(entry["Row"]), number(entry["Column"]), entry["State"]) == (row, column, "kept" if kept else "reset")

    def same(text: str, value: torch.Tensor) -> bool:
        return math.isclose(number(text), value.item(), rel_tol=0.0051, abs_tol=1e-9)

    assert same(entry["Pre-trained value"], base[row, column]) and same(entry["Fine-tuned value"], tuned[row, column])
    assert same(entry["Kept update" if kept else "Reset update"], tuned[row, column] - base[row, column])
    assert ("Kept value" in entry) is kept
    if kept:
        assert same(entry["Kept value"], tuned[row, column])
        assert entry["Kept neighbours"] == str(loop_counts(mask)[row, column])


def cells(browser: Browser, what: str, shape: tuple[int, int]) -> np.ndarray:
    """The values that the page has decoded, NaN where there are none."""
    values = browser.js(f"Array.from(cells.{what}, value => Number.isNaN(value) ? null : value)")
    return np.array(values, dtype=float).reshape(shape)


@pytest.mark.parametrize("file", [0, 1, 2])
def test_the_browser_decodes_every_entry(browser, written, cell, file):
    page, _, _, subnetworks = written
    name, subnetwork = "bert.layer.0.query.weight", subnetworks[file]
    mask, shape = subnetwork.masks[name].numpy(), SHAPES["query.weight"]
    base, tuned = (open_source(cell / f"{of}.safetensors").tensor(name).numpy() for of in ("base", "tuned"))
    values = np.full(shape, np.nan)
    values[mask] = subnetwork.values[name].numpy()
    browser.open(page, file=file)
    expected = {"values": values, "updates": values - base, "lost": np.where(mask, np.nan, tuned - base)}
    for what, matrix in expected.items():
        np.testing.assert_allclose(cells(browser, what, shape), matrix, rtol=0, atol=2**-8 if file == 2 else 0)
    counts = cells(browser, "neighbours", shape)
    assert np.array_equal(np.nan_to_num(counts, nan=-1), loop_counts(mask))


def test_the_browser_decodes_every_tile(browser, written):
    page, _, _, subnetworks = written
    mask = subnetworks[1].masks["bert.layer.0.output.dense.weight"].numpy()
    browser.open(page, file=1, kind="output")
    tiles = loop_tiles(mask, (10, 5))
    assert cells(browser, "counts", -1).tolist() == [tile.sum() for tile in tiles]
    assert cells(browser, "areas", -1).tolist() == [tile.size for tile in tiles]
    shares = [tile.mean() if tile.any() else np.nan for tile in tiles]
    np.testing.assert_allclose(cells(browser, "values", -1), shares, rtol=1e-6)


def test_the_page_describes_a_tile(browser, written):
    page, _, _, subnetworks = written
    mask = subnetworks[1].masks["bert.layer.1.output.dense.weight"]
    browser.open(page, file=1, kind="output", layer=1, row=299, column=130)
    entry = browser.entry()
    assert (entry["Rows"], entry["Columns"]) == ("290 to 299", "130")
    kept = int(mask[290:300, 130:].sum())
    assert entry["Kept"] == f"{kept} of 10 ({kept / 10:.1%})"
    assert "tiles of 10 × 5 entries" in browser.js("$('binned').textContent")


def test_counts_appear_in_the_text_and_the_table(browser, written):
    page, _, _, subnetworks = written
    browser.open(page, kind="query", layer=0)
    kept = int(subnetworks[0].masks["bert.layer.0.query.weight"].sum())
    text = browser.js("$('what').textContent")
    assert f"{kept} of 240 entries are kept" in text and "would be expected if every row kept as many at random" in text
    rows = browser.js("Array.from(document.querySelectorAll('#rows tr'), row => row.cells[1].textContent)")
    counts = [int(one.masks["bert.layer.0.query.weight"].sum()) for one in subnetworks]
    assert rows == [f"{count} ({count / 240:.1%})" for count in counts]


def test_keys_move_and_zoom(browser, written):
    first = browser.open(written[0])
    browser.js("$('picture').focus()")
    assert browser.press("ArrowDown") != first
    assert (browser.entry()["Row"], browser.entry()["Column"]) == ("0", "0")
    browser.press("ArrowDown")
    browser.press("ArrowRight")
    assert (browser.entry()["Row"], browser.entry()["Column"]) == ("1", "1")
    assert "row=1&column=1" in browser.js("location.hash")
    fitted = browser.js("document.documentElement.dataset.checksum")
    shown = browser.js("$('shown').textContent")
    assert shown == "rows 0 to 11, columns 0 to 19"
    assert browser.press("+") != fitted
    assert browser.js("$('shown').textContent") != shown
    assert browser.press("0") == fitted


def test_the_mouse_points_zooms_and_drags(browser, written):
    browser.open(written[0])
    box = browser.js(
        "(() => { const b = picture.getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )

    def mouse(kind: str, row: float, column: float, **more) -> None:
        x, y = box[0] + box[2] * column / 20, box[1] + box[3] * row / 12
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    mouse("mouseMoved", 7.5, 13.5)
    assert (browser.entry()["Row"], browser.entry()["Column"]) == ("7", "13")
    browser.after("$('in').click()")
    before = browser.js("$('shown').textContent")
    mouse("mousePressed", 6, 10, button="left", clickCount=1)
    mouse("mouseMoved", 3, 5, button="left", buttons=1)
    mouse("mouseReleased", 3, 5, button="left", clickCount=1)
    after = browser.js("$('shown').textContent")
    assert after != before
    browser.js("$('all').click()")
    assert browser.js("$('shown').textContent") == "rows 0 to 11, columns 0 to 19"


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("kind", ["query", "output"])
def test_nothing_overflows_and_every_control_has_a_label(browser, written, width, kind):
    browser.open(written[0], width=width, file=1, kind=kind, row=5, column=5)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth")
    outside = browser.js(
        "Array.from(document.querySelectorAll('main *')).filter(one => !one.closest('table') && "
        f"one.getBoundingClientRect().right > {width} + 1).map(one => one.id || one.tagName)"
    )
    assert outside == []
    controls = browser.js(
        "Array.from(document.querySelectorAll('select, button, canvas'), "
        "one => one.labels?.[0]?.textContent || one.ariaLabel || one.textContent.trim())"
    )
    assert len(controls) == 8 and all(controls)


def test_light_and_dark_pictures_differ(browser, written):
    light, dark = (browser.open(written[0], dark=dark) for dark in (False, True))
    assert light != dark


def test_hostile_names_are_shown_as_text(browser, written):
    browser.open(written[0], file=1)
    assert browser.js("$('what').textContent").startswith(f"{HOSTILE}, 5 of each row: ")
    assert browser.js("document.querySelectorAll('script').length") == 2
    assert not [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"]


def test_a_page_without_models_shows_kept_values_only(browser, cell):
    explorer.write_page([cell / "ken.safetensors"], cell / "alone.html")
    row, column = Subnetwork.load(cell / "ken.safetensors").masks["bert.layer.0.query.weight"].nonzero()[3].tolist()
    browser.open(cell / "alone.html", row=row, column=column, view="updates")
    assert list(browser.entry()) == ["Row", "Column", "State", "Kept value", "Kept neighbours"]
    assert browser.js("Array.from($('view').options, one => one.value)") == [
        "values",
        "neighbours",
    ]
    assert browser.js("$('compared').hidden") is True
