"""Reading a page as a browser would: its elements, whether they nest, and what it would fetch."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "image", "use", "path", "rect", "circle"}


class Page(HTMLParser):
    """Elements of a page, with a check that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"


def requests_of(page: Page) -> list[str]:
    """What a browser would fetch."""
    asked = [
        str(values[name])
        for tag, values in page.elements
        for name in ("src", "href", "xlink:href", "srcset", "data", "action")
        if name in values and tag != "a"
    ]
    return [address for address in asked if not address.startswith(("#", "data:"))]
