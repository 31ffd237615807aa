"""Links of Markdown pages to files of the repository, as they also work where the repository is shown.

A relative link to a page of the site, or to a file that is one (``repository_pages``), leads to that page.
One to any other file or folder leads to where ``repository`` shows it, or is plain text without it. A path
that does not exist is left to MyST, which warns. Paths are relative to the file that has the link, also if a
page includes that file.
"""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def resolve_links(app: Sphinx, document: nodes.document) -> None:
    """Replace the links that MyST takes for downloads or does not know."""
    root = Path(app.srcdir).parent
    for link in list(document.findall(_is_path)):
        path, _, anchor = link["reftarget"].partition("#")
        if link.get("refdomain") == "doc":  # a Markdown file, without its suffix
            path, anchor = f"{path}.md", link["reftargetid"]
        source = Path(link.source or document["source"]).parent
        target = Path(os.path.normpath(source / path))
        if not path or not target.is_relative_to(root) or not target.exists():
            continue
        shown = target.relative_to(root).as_posix()
        page = app.config.repository_pages.get(shown)
        if page is None and target.is_relative_to(app.srcdir):
            page = app.env.path2doc(target)
        if page is not None:
            reference = addnodes.pending_xref(
                refdomain="doc",
                reftype="myst",
                reftarget=page,
                reftargetid=anchor or None,
                refdoc=app.env.docname,
                refexplicit=True,
            )
            reference.source, reference.line = link.source, link.line
            link.replace_self(reference.extend(link.children) or reference)
        elif app.config.repository:
            kind = "tree" if target.is_dir() else "blob"
            address = f"{app.config.repository}/{kind}/main/{shown}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))
        else:
            link.replace_self(link.children)


def _is_path(node: nodes.Node) -> bool:
    if not isinstance(node, (addnodes.download_reference, addnodes.pending_xref)):
        return False
    return node.get("reftype") == "myst" and (node.get("refdomain") is None or node["reftarget"][0] == "/")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("repository", "", "env", str)
    app.add_config_value("repository_pages", {}, "env", dict)
    app.connect("doctree-read", resolve_links, priority=400)  # before Sphinx collects downloads
    return {"parallel_read_safe": True, "parallel_write_safe": True}
