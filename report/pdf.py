"""Write the page of a study as a PDF.

`python -m report.pdf --results results/mini` writes results/mini/report/report.pdf from results/mini/report/index.html,
with WeasyPrint (68 or later) if it is installed, and otherwise with a headless Chromium. Neither is in the lock file,
so this step is not part of a study. It needs no other file and no network.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ken.errors import UserError, run
from ken.files import replacing
from report.page import APPENDIX

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--no-pdf-header-footer"),
)
SECONDS = 300  # limit for the browser
_CLOSED = re.compile(r"<details(?=[\s>])(?!\s+open\b)")  # data cannot hold "<details": the page escapes "<"
_VARIABLES = re.compile(r"(--[\w-]+):\s*([^;}]+)")


def printable(page: str) -> str:
    """The page for printing: all sections are unfolded, and variables in pictures are replaced by colours.

    In a browser the script of the page unfolds the sections, but WeasyPrint does not run it. WeasyPrint does not know
    the variables of the page within pictures either, and would draw black. The last value of a variable in the styles
    of the page is the one for print.
    """
    page = _CLOSED.sub("<details open", page)
    values = dict(_VARIABLES.findall("".join(re.findall(r"<style>(.*?)</style>", page, re.S))))

    def coloured(picture: re.Match) -> str:
        return re.sub(r"var\((--[\w-]+)\)", lambda name: values.get(name[1], name[0]).strip(), picture[0])

    return re.sub(r"<svg.*?</svg>", coloured, page, flags=re.S)


def print_page(page: str, out: Path) -> None:
    """Write an HTML page to a PDF file, whole or not at all.

    Raises:
        UserError: no program can print it, or the program failed.
    """
    page = printable(page)
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError):  # not installed, or pango is not
        with replacing(out) as path:
            _with_browser(page, path)
    else:
        document = HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=["data"]))
        with replacing(out) as path:
            document.write_pdf(path)


def _with_browser(page: str, out: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(
            "There is no program to print the page with: install WeasyPrint (pip install weasyprint, and pango from "
            f"the system) or put Chromium on PATH (as {', '.join(BROWSERS[:-1])} or {BROWSERS[-1]})."
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = Path(folder, "page.html")
        source.write_text(page, encoding="utf-8")
        paths = [f"--user-data-dir={folder}/profile", f"--print-to-pdf={out.resolve()}", source.as_uri()]
        try:
            ended = subprocess.run([browser, *OPTIONS, *paths], capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise UserError(f"{browser} did not print the page within {SECONDS} s: try again.") from None
    if ended.returncode or not out.exists():
        message = (ended.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise UserError(f"{browser} did not print the page (status {ended.returncode}: {message}): try again.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the pages of a study to PDF, with WeasyPrint or Chromium.")
    parser.add_argument(
        "--results", required=True, type=Path, help="results folder of the study, with report/index.html"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: report/report.pdf in the results folder)")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results / "report" / "report.pdf"
    for name, path in {"index.html": out, APPENDIX: out.with_name("appendix.pdf")}.items():
        source = arguments.results / "report" / name
        try:
            page = source.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{source} does not exist: run the step that writes it (report.page) first.") from None
        print_page(page, path)
        print(path)


if __name__ == "__main__":
    run(main)
