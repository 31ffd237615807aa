"""The pages of the documentation, and their parts as Markdown has them."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted(ROOT.glob("docs/**/*.md")),
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def tokens(page: Path) -> Iterator[Token]:
    """Every token of the page, those within lines too."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield token
        yield from token.children or ()


@cache
def anchors(page: Path) -> set[str]:
    """What a link can name of the page: its headings, as code hosting sites and MyST make them addresses."""
    seen: Counter[str] = Counter()
    found = set()
    heading = False
    for token in tokens(page):
        if token.type == "inline" and heading:
            words = "".join(part.content for part in token.children if part.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        heading = token.type == "heading_open"
    return found
