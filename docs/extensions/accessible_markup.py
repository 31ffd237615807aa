"""What Sphinx writes, corrected where WCAG asks for something else: ``make docs-accessibility``."""

import re
from typing import Any

from sphinx.application import Sphinx

# A signature of several lines is a <dl> without terms, which is no list: lines are spans in site.css.
_SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
_TAGS = {"<dl>": '<span class="lines">', "<dd>": '<span class="line">'}


def correct(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if "body" in context:
        context["body"] = _SIGNATURE.sub(_with_lines, context["body"])
    # Captions of the navigation have the role of headings, for which a level is required.
    tree = context["furo_navigation_tree"]
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def _with_lines(signature: re.Match[str]) -> str:
    return re.sub("</?d[ld]>", lambda tag: _TAGS.get(tag[0], "</span>"), signature[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", correct, priority=900)  # after Furo
    return {"parallel_read_safe": True, "parallel_write_safe": True}
