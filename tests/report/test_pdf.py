"""Printing the page to a PDF with WeasyPrint or Chromium."""

import re
import shutil
import sys
import types
import unicodedata
import zlib

import pytest

from ken.errors import UserError
from report import pdf
from tests.steps import run_step

needs_browser = pytest.mark.skipif(not any(map(shutil.which, pdf.BROWSERS)), reason="no Chromium on PATH")


@pytest.fixture
def without_weasyprint(monkeypatch):
    """As on a machine where WeasyPrint is not installed."""
    monkeypatch.setitem(sys.modules, "weasyprint", None)


def pdf_objects(data: bytes) -> dict[int, bytes]:
    return {int(number): body for number, body in re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", data, re.S)}


def stream(body: bytes) -> str:
    return zlib.decompress(body.split(b"stream\n", 1)[1].rsplit(b"\nendstream", 1)[0]).decode("latin-1")


def letters(cmap: str) -> dict[int, str]:
    """Glyph -> text of a ToUnicode table (PDF 32000-1, section 9.10.3)."""
    text_of_glyph = {}
    for block in re.findall(r"beginbfchar(.*?)endbfchar", cmap, re.S):
        for glyph, text in re.findall(r"<(\w+)> <(\w+)>", block):
            text_of_glyph[int(glyph, 16)] = bytes.fromhex(text).decode("utf-16-be")
    for block in re.findall(r"beginbfrange(.*?)endbfrange", cmap, re.S):
        for first, last, text in re.findall(r"<(\w+)> <(\w+)> <(\w+)>", block):
            for step in range(int(last, 16) - int(first, 16) + 1):
                text_of_glyph[int(first, 16) + step] = chr(int(text, 16) + step)
    return text_of_glyph


def page_texts(data: bytes) -> list[str]:
    """Text of every page of a PDF that Chromium wrote, without spaces."""
    objects, texts = pdf_objects(data), []
    for page in [body for body in objects.values() if b"/Type /Page\n" in body]:
        fonts = {}
        for name, number in re.findall(rb"/(F\d+) (\d+) 0 R", page):
            unicode = re.search(rb"/ToUnicode (\d+) 0 R", objects[int(number)])
            fonts[name.decode()] = letters(stream(objects[int(unicode[1])])) if unicode else {}
        content = stream(objects[int(re.search(rb"/Contents (\d+) 0 R", page)[1])])
        text, font = "", {}
        for name, glyphs in re.findall(r"/(F\d+) [\d.]+ Tf|<(\w+)> Tj", content):
            font = fonts[name] if name else font
            codes = [int(glyphs[start : start + 4], 16) for start in range(0, len(glyphs), 4)]
            text += "".join(font.get(code, "") for code in codes)
        texts.append("".join(unicodedata.normalize("NFKC", text).split()))  # no ligatures
    return texts


@needs_browser
def test_the_pdf_has_the_title_and_the_folded_sections(without_weasyprint, built_study, tmp_path):
    out = tmp_path / "new" / "report.pdf"
    run_step(pdf, "--results", built_study, "--out", out)
    data = out.read_bytes()
    texts = page_texts(data)
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF") and len(texts) > 1
    assert "KEN benchmark · tiny".encode("utf-16-be").hex().upper().encode() in data  # title of the document
    assert "Howmuchofafine-tunedtransformercanberesettoitspre-trainedvalues" in texts[0]
    appendix = page_texts((out.parent / "appendix.pdf").read_bytes())
    assert any('"seeds":[0]' in text for text in appendix), "the folded configuration is printed"
    assert {path.name for path in out.parent.iterdir()} == {"report.pdf", "appendix.pdf"}


def test_without_weasyprint_and_chromium_an_error_says_what_to_install(
    without_weasyprint, built_study, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"install WeasyPrint .* or put Chromium on PATH"):
        run_step(pdf, "--results", built_study, "--out", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


@pytest.mark.parametrize("script", ['echo half > "$out"; echo no display >&2; exit 3', "exit 0"])
def test_a_failing_browser_leaves_the_old_file(without_weasyprint, built_study, tmp_path, monkeypatch, script):
    out = tmp_path / "report.pdf"
    out.write_bytes(b"old")
    browser = tmp_path / "chromium"
    read_out_option = 'for word; do case "$word" in --print-to-pdf=*) out="${word#*=}";; esac; done'
    browser.write_text(f"#!/bin/sh\n{read_out_option}\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"did not print the page \(status (3: no display|0: no message)\)"):
        run_step(pdf, "--results", built_study, "--out", out)
    assert out.read_bytes() == b"old" and {path.name for path in tmp_path.iterdir()} == {"chromium", "report.pdf"}


def test_weasyprint_is_preferred_and_may_not_fetch(built_study, tmp_path, monkeypatch):
    """Checks only the calls, since WeasyPrint is not installed for the tests."""
    calls = []

    class HTML:
        def __init__(self, string, url_fetcher):
            calls.append((string, url_fetcher))

        def write_pdf(self, path):
            path.write_bytes(b"%PDF-")

    module = types.ModuleType("weasyprint")
    module.HTML, module.urls = HTML, types.ModuleType("weasyprint.urls")
    module.urls.URLFetcher = lambda allowed_protocols: allowed_protocols
    monkeypatch.setitem(sys.modules, "weasyprint", module)
    monkeypatch.setitem(sys.modules, "weasyprint.urls", module.urls)
    monkeypatch.setenv("PATH", str(tmp_path))
    run_step(pdf, "--results", built_study, "--out", tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes() == (tmp_path / "appendix.pdf").read_bytes() == b"%PDF-"
    assert len(calls) == 2
    for page, fetcher in calls:
        assert fetcher == ["data"] and page.count("<details open>") == page.count("<details") > 1
        pictures = re.findall(r"<svg.*?</svg>", page, re.S)
        assert pictures and not any(re.search(r"var\(--(ink|muted|grid|paper)\)", picture) for picture in pictures)


def test_printable_opens_details_and_uses_print_colours():
    page = (
        "<style>:root { --ink: #111; --paper: #eee; }\n@media print { :root { --ink: #000; } }</style>"
        '<details class="a"><summary>s</summary></details><details open></details>&lt;details&gt;'
        '<p style="color: var(--ink)">p</p><svg style="width: var(--natural)"><path style="fill: var(--ink)"/></svg>'
    )
    printed = pdf.printable(page)
    assert '<details open class="a"><summary>s</summary></details><details open></details>&lt;details&gt;' in printed
    assert (
        '<p style="color: var(--ink)">p</p><svg style="width: var(--natural)"><path style="fill: #000"/></svg>'
        in printed
    )


def test_a_missing_page_is_an_error(tmp_path):
    with pytest.raises(UserError, match="does not exist: run the step that writes it"):
        run_step(pdf, "--results", tmp_path, "--out", tmp_path / "report.pdf")
