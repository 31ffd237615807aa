"""One command redraws every figure and every generated table of README.md and docs/, from stored results."""

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the demo's data sets come with scikit-learn")
pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")
pytest.importorskip("rich", reason="the demo prints with rich")

import numpy as np
from PIL import Image
from torch import nn

from benchmarks import figures
from benchmarks.report.documents import FIGURES, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\bsrc=\"([^\"]+)\"|```\{(?:image|figure)\} (\S+)")
PART = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
DIFFERENT = 40  # of 255


def pictures_of(page: Path) -> set[Path]:
    """The files that a page shows, but for those of the web."""
    found = {"".join(match) for match in PICTURE.findall(page.read_text(encoding="utf-8"))}
    return {(page.parent / name).resolve() for name in found if "://" not in name}


def drawn_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / FIGURES).iterdir())


def test_every_picture_of_the_pages_exists():
    shown = set().union(*map(pictures_of, PAGES))
    assert len(shown) > 20
    assert [path for path in shown if not path.is_file()] == []


def test_the_command_redraws_all_figures_and_parts_and_nothing_else(tmp_path, monkeypatch):
    """In one test, since the command takes long: into a folder of the pages with their parts emptied."""
    for page in PAGES:
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(PART.sub(r"\1\3", page.read_text(encoding="utf-8")), encoding="utf-8")

    def run(*_, **__):
        raise AssertionError("a figure needs a network to be run")

    monkeypatch.setattr(nn.Module, "__call__", run)
    assert figures.main(["--root", str(tmp_path)]) == 0

    shown = set().union(*map(pictures_of, PAGES))
    folder = (ROOT / FIGURES).resolve()
    assert drawn_in(tmp_path) == sorted(path.name for path in shown if path.parent == folder)
    assert drawn_in(tmp_path) == drawn_in(ROOT)
    parts = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert (tmp_path / page.relative_to(ROOT)).read_text(encoding="utf-8") == text, page.name
        parts += len(PART.findall(text))
        assert text.count("<!-- begin ") == len(PART.findall(text)), page.name
    assert parts > 80
    check_pictures(tmp_path)


def check_pictures(root: Path) -> None:
    """They have the size of those of the docs; and the pixels, if drawn by the same matplotlib."""
    versions = set()
    for name in drawn_in(root):
        with Image.open(ROOT / FIGURES / name) as kept, Image.open(root / FIGURES / name) as new:
            assert kept.size == new.size, name
            if "Software" in kept.info:
                versions.add((kept.info["Software"], new.info["Software"]))
            if all(old == now for old, now in versions):
                pixels = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (kept, new)]
                assert (np.abs(pixels[0] - pixels[1]) > DIFFERENT).mean() < 1e-3, name
    assert versions


def test_the_stored_networks_are_small():
    sizes = [(figures.command.FOLDER / name).stat().st_size for name in ("demo.json", "instruments.json")]
    assert sum(sizes) < 300_000


def test_without_results_everything_stays(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert figures.main(["--results", str(tmp_path / "results"), "--root", str(tmp_path)]) == 0
    assert "demo.json does not exist: its tables and figures stay as they are" in capsys.readouterr().out
    for name in ("paper.md", "demo.md", "figures/demo.png"):
        assert (tmp_path / "docs" / name).read_bytes() == (ROOT / "docs" / name).read_bytes()
