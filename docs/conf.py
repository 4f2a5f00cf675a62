"""Configuration of the documentation site: `make docs` builds it in build/docs with Sphinx.

The source folder is the root of the repository, so that a link between README.md, docs/ and any other file leads to the
same place on the site and in a checkout. A link or a heading that does not exist ends the build. The API reference is
made from the docstrings of `ken` and `baselines`, the page of config keys from the models of the config.
"""

import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import config_keys  # noqa: E402

from baselines import METHODS  # noqa: E402
from study.definition.config import schema  # noqa: E402

project = "KEN benchmark"
project_copyright = "The KEN benchmark authors"
extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]

root_doc = "README"
CONTENTS = {
    "Guides": ["docs/adding", "docs/sharing", "docs/running", "docs/cluster", "docs/power", "docs/faq"],
    "Findings": ["docs/findings", "docs/surgeon", "docs/claims", "docs/benchmarks", "docs/scaling", "docs/limits"],
    "Reference": [
        "docs/methods",
        "docs/steps",
        "docs/results",
        "docs/format",
        "docs/dag",
        "docs/api/config",
        "docs/api/ken/ken",
        "docs/api/baselines/baselines",
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}  # caption -> pages, beside the root document
include_patterns = ["*.md", "docs/*.md", "docs/api/**"]
exclude_patterns = ["docs/api/*/modules.rst"]

html_theme = "furo"
html_title = project
html_copy_source = False

myst_heading_anchors = 3  # levels of headings that links may name
myst_fence_as_directive = ["mermaid"]  # drawn in the browser, which loads mermaid.js from the network

apidoc_modules = [
    {"path": f"../{package}", "destination": f"docs/api/{package}", "separate_modules": True, "module_first": True}
    for package in ("ken", "baselines")
]
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes as a list, because a class that a package exports is described on two pages
napoleon_use_rtype = False
default_role = "code"  # `name` in a docstring
suppress_warnings = ["ref.python"]  # a word of a docstring's section may be the name of several attributes


def write_config_keys(app: Sphinx) -> None:
    """Write the page of config keys, next to the pages of `sphinx.ext.apidoc`."""
    path = ROOT / "docs" / "api" / "config.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(config_keys.page(schema(METHODS)), encoding="utf-8")


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the table of contents to the root document: in README.md itself it would show on other sites."""
    if page == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def escape_marks(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape | and * in the prose of a docstring, as in |W| or *.safetensors: they are marks of reStructuredText."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = re.sub(r"(`[^`]*`)|([|*])", lambda match: match[1] or f"\\{match[2]}", line)


def add_index(app: Sphinx, exception: Exception | None) -> None:
    """Make the root document the index of the site."""
    if exception is None:
        shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_config_keys)
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", escape_marks, priority=400)  # before napoleon writes marks of its own
    app.connect("build-finished", add_index)
