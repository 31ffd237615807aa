"""Relative links of the pages lead to a file that is there, and to a heading of it."""

from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("markdown_it", reason="markdown-it-py reads the pages")

from pages import PAGES, anchors, name_of, tokens


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = [token.attrGet("href") or token.attrGet("src") for token in tokens(page)]
    dead = []
    for target in filter(None, targets):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not file.exists() or (parts.fragment and unquote(parts.fragment) not in anchors(file)):
            dead.append(target)
    assert not dead
