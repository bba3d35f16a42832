"""A study file's texts as a page, or a file to keep, shows them."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def _markdown() -> MarkdownIt:
    """Markdown, in which HTML is only text and no picture is fetched from elsewhere."""
    return MarkdownIt("commonmark", {"html": False}).disable("image")


def as_html(text: str) -> str:
    return str(_markdown().render(text))


def as_plain(text: str) -> str:
    """Markdown without its marks, for a file that is opened with whatever there is."""
    return "\n\n".join(_paragraphs(_markdown().parse(text)))


def with_addresses(text: str) -> Markup:
    """The text, in which each e-mail address opens a letter."""
    return Markup(_ADDRESS.sub(r'<a href="mailto:\g<0>">\g<0></a>', str(escape(text))))


def _paragraphs(tokens: list[Token]) -> Iterator[str]:
    bullets: list[str] = []
    for token in tokens:
        if token.type == "list_item_open":
            bullets.append(f"{token.info}{token.markup}" if token.info else "-")
        elif token.type in ("fence", "code_block"):
            yield token.content.rstrip()
        elif token.type == "inline":
            words = "".join(_words(token.children or []))
            yield " ".join([*bullets, words])
            bullets.clear()


def _words(tokens: list[Token]) -> Iterator[str]:
    """What stands in a line; a link's target behind it."""
    target = ""
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            yield "\n"
        elif token.type == "link_open":
            target = "" if token.markup == "autolink" else str(token.attrs["href"])
        elif token.type == "link_close":
            yield f" ({target})" if target else ""
        else:
            yield token.content
