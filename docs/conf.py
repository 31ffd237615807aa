"""The documentation site: ``make docs`` builds it into build/docs/html."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "extensions"))

from jumpstart_kernels.version import __version__

project = "jumpstart_kernels"
author = "The jumpstart_kernels authors"
project_copyright = author
version = release = __version__

# Where the sources are shown, such as https://host/owner/name. Without it, links to sources are plain text.
repository = os.environ.get("JUMPSTART_REPOSITORY", "").rstrip("/")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxarg.ext",
    "accessible_markup",
    "repository_links",
]
exclude_patterns = ["extensions", "tools", "figures", "_static"]
nitpicky = True
nitpick_ignore_regex = [
    # Of other libraries: there is no network here in which intersphinx could ask where they are documented.
    ("py:.*", r"(argparse|collections|contextlib|datasets|lightning|matplotlib|numpy)\..*"),
    ("py:.*", r"(os|pathlib|pytorch_lightning|torch|torchmetrics|transformers|types|typing)(\..*)?"),
    # The same, in annotations whose import is for type checkers only.
    ("py:class", r"Axes|Figure|Dataset|DeviceMesh|IterableDataset|ProcessGroup"),
    # A type variable: what goes in comes out.
    ("py:class", r"jumpstart_kernels\.surgery\.replace\.Model"),
    # Named for readers of the source.
    ("py:.*", r"jumpstart_kernels\.usage\.(activations\.SMOOTH|watching\.Watch)"),
]
smartquotes = False  # two dashes are an option's

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that code hosting sites give to headings
repository_pages = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "examples/README.md": "examples",
}

nb_execution_mode = "cache"  # run again when its code changes; make clean forgets
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80  # one parameter a line in longer ones
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes that a class lists are not documented a second time
add_module_names = False
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

language = "en"
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("scrolling.js", {"defer": "defer"})]
html_show_sphinx = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-code-background": "#f4f6f8"},  # apart from the page, which is white
}


def without_aliases(app, what, name, obj, options, lines):
    """Fields of a named tuple say no more than their names, where nothing else was written of them."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app):
    app.connect("autodoc-process-docstring", without_aliases)


if repository:
    html_theme_options["source_view_link"] = f"{repository}/blob/main/docs/{{filename}}"
