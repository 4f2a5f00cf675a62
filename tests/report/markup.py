"""Checks of written pages: their text, their elements, and that they load nothing."""

import re
from collections.abc import Collection
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img"}
LOADING = {"src", "href", "xlink:href", "data", "action", "srcset", "poster"}


class Reader(HTMLParser):
    """Collects tags with attributes and the visible text, and checks that elements are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_loads_nothing(html: str, beside: Collection[str] = ()) -> None:
    """Check that a page needs no further file or network; it may link to the pages `beside` it."""
    for tag, attributes in Reader(html).tags:
        for name in LOADING & attributes.keys() - ({"href"} if attributes.get("href") in beside else set()):
            assert re.match(r"#|data:", attributes[name]), (tag, attributes[name])
        assert tag not in ("iframe", "object", "embed", "base")
    assert "http:" not in html and "https:" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def check_elements(html: str) -> None:
    """Check that all elements are closed, ids are unique, and every link inside the page has its target."""
    reader = Reader(html)
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [value for _, attributes in reader.tags for name, value in attributes.items() if name.endswith("href")]
    targets += [f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", html)]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


class Cells(HTMLParser):
    """Collects the texts of the cells of all tables: table -> row -> cell."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False
        self.feed(text)
        self.close()
        self.tables = [[[" ".join(cell.split()) for cell in row] for row in table] for table in self.tables]

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif self.inside:
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data
