"""Links in the built site: those that lead nowhere are errors, those to sources lead to the repository."""

from pathlib import Path

import pytest

build = pytest.importorskip("sphinx.cmd.build")
pytest.importorskip("myst_parser")

EXTENSIONS = Path(__file__).parents[2] / "docs" / "extensions"
CONF = f"""
import sys
sys.path.append({str(EXTENSIONS)!r})
extensions = ["myst_parser", "repository_links"]
myst_heading_anchors = 4
exclude_patterns = []
repository_pages = {{"CONTRIBUTING.md": "contributing"}}
"""
DEAD = ["nowhere.md", "#nowhere", "contributing.md#nowhere", "../CONTRIBUTING.md#nowhere", "../csrc/none.h"]
# MyST's own, of what Sphinx 11 will no longer have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "kernel.h").touch()
    (tmp_path / "CONTRIBUTING.md").write_text(
        "# Contributing\n\n## Recipes\n\n[index](docs/index.md#parts)\n"
    )
    docs = tmp_path / "docs"
    (docs / "conf.py").write_text(CONF)
    (docs / "contributing.md").write_text("---\norphan: true\n---\n```{include} ../CONTRIBUTING.md\n```\n")

    def build_with(link: str, *options: str) -> tuple[int, Path]:
        (docs / "index.md").write_text(f"# Index\n\n## Parts\n\n{link}\n")
        return build.build_main(["-qEWn", *options, str(docs), str(tmp_path / "html")]), tmp_path / "html"

    return build_with


def read(site, link: str, *options: str) -> str:
    status, html = site(link, *options)
    assert status == 0
    return (html / "index.html").read_text()


@pytest.mark.parametrize(
    "link",
    ["nowhere.md", "#nowhere", "contributing.md#nowhere", "../CONTRIBUTING.md#nowhere", "../csrc/none.h"],
)
def test_dead_link_is_an_error(site, link):
    assert site(f"[text]({link})")[0] != 0


def test_file_that_is_a_page(site):
    html = read(site, "[text](../CONTRIBUTING.md#recipes)")
    assert 'href="contributing.html#recipes"' in html


def test_link_in_an_included_file(site):
    status, html = site("text")
    assert status == 0
    assert 'href="index.html#parts"' in (html / "contributing.html").read_text()


def test_source_without_a_repository(site):
    html = read(site, "[`kernel.h`](../csrc/kernel.h)")
    assert ">kernel.h<" in html.replace('<span class="pre">', ">").replace(">>", ">")
    assert "csrc" not in html


def test_source_in_a_repository(site):
    links = "[file](../csrc/kernel.h) [folder](../csrc)"
    html = read(site, links, "-D", "repository=https://host/name")
    assert 'href="https://host/name/blob/main/csrc/kernel.h"' in html
    assert 'href="https://host/name/tree/main/csrc"' in html
