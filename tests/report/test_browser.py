"""The pages in a real browser at two widths, and what a keyboard and a screen reader need."""

import itertools
import re
from pathlib import Path

import pytest

from report import page, style
from tests.browser import Browser, start
from tests.report.markup import Reader

WIDTHS = (1280, 390)
STUDIES = ("built_study", "wide_study", "hostile_study")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from start(Browser, tmp_path_factory)


@pytest.fixture(params=STUDIES)
def folder(request) -> Path:
    return request.getfixturevalue(request.param) / "report"


def show(browser: Browser, path: Path, width: int = 1280, fragment: str = "") -> None:
    browser.load(path, width, fragment=fragment)
    browser.wait("document.readyState === 'complete'")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["index.html", page.APPENDIX])
def test_pages_load_without_a_complaint_and_fit_the_width(browser, folder, name, width):
    show(browser, folder / name, width)
    browser.wait(f"document.documentElement.scrollWidth <= {width}")
    assert browser.complaints() == []


def test_the_picture_shows_every_point_of_the_data(browser, wide_study):
    show(browser, wide_study / "report" / "index.html")
    browser.wait("document.querySelectorAll('.chart .point').length")
    whole = (
        "JSON.parse(document.getElementById('headline-data').textContent).points.filter(one => !one.model && !one.task)"
    )
    assert browser.js("document.querySelectorAll('.chart .point').length") == browser.js(f"{whole}.length")
    names = browser.js("Array.from(document.querySelectorAll('.chart .point'), one => one.ariaLabel)")
    ken = next(name for name in names if name.startswith("KEN, 25"))
    assert "−10.00 points to full" in ken.replace("\xa0", " ") and "Mean over 4 cells" in ken


def test_a_model_filters_the_picture(browser, wide_study):
    show(browser, wide_study / "report" / "index.html")
    browser.wait("document.querySelector('.choices select')")
    browser.js(
        "{ const one = document.querySelector('.choices select'); one.value = 'bloom';"
        " one.dispatchEvent(new Event('input')) }; 0"
    )
    names = browser.js("Array.from(document.querySelectorAll('.chart .point'), one => one.ariaLabel)")
    assert names and not any(name.startswith("LoRA") for name in names)  # it was run on bert alone
    assert all("Mean over 2 cells" in name for name in names)


def test_a_point_is_reached_with_the_keyboard_and_leads_to_its_row_and_command(browser, wide_study):
    folder = wide_study / "report"
    show(browser, folder / "index.html")
    browser.wait("document.querySelector('.chart .point')")
    browser.js(
        "Array.from(document.querySelectorAll('.chart .point'))"
        ".find(one => one.ariaLabel.startsWith('KEN, 5')).focus(); 0"
    )
    assert browser.js("document.querySelector('.tip').hidden") is False
    browser.key("Enter")
    link = browser.js("document.querySelector('.chosen a').getAttribute('href')")
    assert browser.js("document.querySelector('.chosen code').textContent") == (
        "python -m study.trace results/tiny bert t1 0 ken 0.05"
    )
    name, _, fragment = link.partition("#")
    show(browser, folder / name, fragment=fragment)
    browser.wait("document.querySelector('tr:target')")
    row = browser.js("Array.from(document.querySelector('tr:target').cells, one => one.textContent)")
    assert row[0] == "KEN" and row[1].replace("\xa0", " ") == "5 %"
    browser.wait("document.querySelector('tr:target').closest('details').open")


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_of_the_picture_do_not_overlap(browser, wide_study, width):
    show(browser, wide_study / "report" / "index.html", width)
    browser.wait("document.querySelectorAll('.chart .label').length")
    boxes = browser.js(
        "Array.from(document.querySelectorAll('.chart .label'), one => { const box = one.getBoundingClientRect();"
        " return [box.left, box.right, box.top + 3, box.bottom - 3] })"
    )
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]
    assert all(left >= 0 and right <= width for left, right, *_ in boxes)


def test_a_mark_of_the_first_screen_leads_to_its_claim(browser, wide_study):
    show(browser, wide_study / "report" / "index.html")
    links = browser.js("Array.from(document.querySelectorAll('.strip a'), one => one.getAttribute('href'))")
    assert links and all(browser.js(f"Boolean(document.querySelector({link!r}))") for link in links)


# What a screen reader needs.


@pytest.fixture(params=["index.html", page.APPENDIX])
def html(folder, request) -> str:
    return (folder / request.param).read_text(encoding="utf-8")


def test_headings_skip_no_level(html):
    levels = [int(tag[1]) for tag, _ in Reader(html).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in itertools.pairwise(levels))


def test_pictures_are_described_or_hidden(html):
    for tag, attributes in Reader(html).tags:
        if tag == "svg" and "x" not in attributes:  # not the marker inside a hidden picture
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_landmarks_and_the_language_are_named(html):
    tags = Reader(html).tags
    assert ("html", {"lang": "en"}) in tags and [tag for tag, _ in tags].count("main") == 1
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "nav")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_both_schemes():
    css = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\n\s*\}", css, re.S)[:2]
    )
    for scheme in (light, dark):
        for ground, ink in itertools.product(("paper", "side"), ("ink", "muted", "accent", "warning")):
            assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ground, ink)
    for name in ("ken", "random", "ken-rescaled", "lora"):
        colour = style.method_styles([name])[name].colour
        assert min(contrast(colour, scheme["paper"]) for scheme in (light, dark)) >= 3  # graphics (WCAG 1.4.11)
