"""Extract the prose of the docstrings of an installed, pinned package.

Source files are parsed with `ast` and never imported, so extraction is safe and gives the same text on every machine.
The hash of its path assigns each file to one split (`split_of`). So no docstring is in two splits of any task, and
pre-training never uses the text of a validation or test file.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ken.errors import UserError
from study.definition.step import parse_step
from study.running import files
from study.running.workflow import run

SKIPPED_FOLDERS = {"tests", "test", "testing", "_vendor", "vendor", "externals", "extern", "__pycache__"}
SPLIT_SHARES = {"test": 0.2, "validation": 0.15}  # the rest is train

_MARKUP = [
    (re.compile(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`]*>)?`"), r"\1"),  # :func:`name`, :ref:`text <target>`
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"https?://\S+"), " "),
    (re.compile(r"\[(?:\d+|[A-Z]\w*\d{2,4})\]_?"), " "),  # literature references
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # markdown links
    (re.compile(r"\*\*?([^*\n]+)\*\*?"), r"\1"),
    (re.compile(r"\s+"), " "),
]
_UNDERLINE = re.compile(r"^([=\-~^\"'*#+.`])\1{2,}$")
_NOT_PROSE = re.compile(r"^(>>>|\.\.\.|\.\. |\$ |\||\+-|[-*]{3,}|#|@|:\w+)")
_HEADING = re.compile(r"^[*`\w\[][\w*`.,\[\] ]{0,60}(\s*:|\s*\([^)]*\)\s*:)")  # "name : type", "name (type):"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


def split_of(file: str) -> str:
    """Split ("train", "validation" or "test") of a source file, from the hash of its path."""
    share = int.from_bytes(hashlib.sha256(file.encode()).digest()[:8], "big") / 2**64
    if share < SPLIT_SHARES["test"]:
        return "test"
    return "validation" if share < sum(SPLIT_SHARES.values()) else "train"


def docstrings(source: str) -> Iterator[str]:
    """Cleaned docstrings of the module, its classes and functions, in source order."""
    stack: list[ast.AST] = [ast.parse(source)]
    while stack:
        node = stack.pop()
        if text := ast.get_docstring(node):
            yield text
        # Only bodies of modules and classes: functions inside functions are not part of the documentation.
        if isinstance(node, ast.Module | ast.ClassDef):
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            stack.extend(child for child in reversed(node.body) if isinstance(child, kinds))


def paragraphs(docstring: str) -> Iterator[str]:
    """Prose paragraphs of a docstring, without code, tables, headings, directives and literal blocks."""
    block: list[str] = []
    indent = literal_indent = -1
    for line in [*docstring.expandtabs().splitlines(), ""]:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if stripped and literal_indent >= 0:
            if depth > literal_indent:
                continue
            literal_indent = -1
        if _UNDERLINE.match(stripped):
            block = []  # the line above was a heading
            continue
        heading = _HEADING.match(stripped)
        not_prose = not stripped or _NOT_PROSE.match(stripped)
        if block and (not_prose or heading or depth != indent):
            yield " ".join(block)
            block = []
        if stripped.endswith("::") or stripped.startswith(".. "):
            literal_indent = depth
        if not_prose:
            continue
        indent = depth
        if text := stripped[heading.end() :].strip() if heading else stripped:
            block.append(text)


def sentences(paragraph: str) -> Iterator[str]:
    """English sentences of 4 to 60 words: mostly letters, with a capital at the start and a stop at the end."""
    for pattern, replacement in _MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    for sentence in _SENTENCE_END.split(paragraph.strip()):
        letters = sum(character.isalpha() or character == " " for character in sentence)
        if (
            4 <= len(_WORD.findall(sentence)) <= 60
            and letters >= 0.85 * len(sentence)
            and sentence[0].isupper()
            and sentence[-1] in ".!?"
        ):
            yield sentence


def source_files(package: str) -> list[tuple[str, Path]]:
    """(path relative to the package's parent, path) of the package's .py files, without tests and vendored code.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'corpus package "{package}" is not installed here: install it or remove it from the config.')
    root = Path(next(iter(spec.submodule_search_locations)))
    sources = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root.parent)
        if not SKIPPED_FOLDERS.intersection(relative.parts) and not path.name.startswith(("test_", "conftest")):
            sources.append((relative.as_posix(), path))
    return sorted(sources)


def extract(package: str) -> pd.DataFrame:
    """Unique prose sentences of a package.

    Returns:
        One row per sentence, in order: file, split, docstring (its number in the file), paragraph (its number in the
        docstring), sentence. Repeated sentences, ignoring case, digits and punctuation, are kept once.
    """
    rows, known_sentences = [], set()
    for name, path in source_files(package):
        source = path.read_text(encoding="utf-8", errors="ignore")
        if '"""' not in source and "'''" not in source:
            continue
        try:
            texts = list(docstrings(source))
        except (SyntaxError, ValueError):
            continue  # a template, or for another version of Python
        for d, text in enumerate(texts):
            for p, paragraph in enumerate(paragraphs(text)):
                for sentence in sentences(paragraph):
                    key = " ".join(_WORD.findall(sentence.lower()))
                    if key not in known_sentences:
                        known_sentences.add(key)
                        rows.append((name, split_of(name), d, p, sentence))
    return pd.DataFrame(rows, columns=["file", "split", "docstring", "paragraph", "sentence"])


def read(path: Path) -> pd.DataFrame:
    """Read a corpus that `main` has written, after comparing it with the hash in its manifest.

    Raises:
        UserError: the file is missing or has changed.
    """
    files.check(path.parent, {path.name: files.read_json(path.with_suffix(".json"))["sha256"]}, remove=path)
    return files.read_parquet(path)


def version(package: str) -> str:
    """Installed version of the distribution that provides an import package."""
    distributions = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(distributions[0]).partition("+")[0]  # without the build, as in "2.13.0+cpu"


def main() -> None:
    a, _, paths = parse_step("Extract the docstring prose of one installed package.", "package")
    out = paths.corpus(a.package)
    corpus = extract(a.package)
    files.write_parquet(out, corpus)
    manifest = {
        "package": a.package,
        "version": version(a.package),
        "files": int(corpus["file"].nunique()),
        "sentences": len(corpus),
        "words": int(corpus["sentence"].str.split().str.len().sum()),
        "sha256": files.sha256(out),
    }
    files.write_json(out.with_suffix(".json"), manifest)
    print(f"{a.package} {manifest['version']}: {manifest['sentences']:,} sentences, {manifest['words']:,} words")


if __name__ == "__main__":
    run(main)
