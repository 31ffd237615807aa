"""The pictures of docs/instruments.md, watching.md and pruning.md."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the data set comes with scikit-learn")
pytest.importorskip("matplotlib", reason="the pictures are drawn with matplotlib")

from benchmarks import instruments


def test_the_pictures_of_the_page_are_those_it_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["instruments", "--epochs", "2", "--folder", str(tmp_path)])
    instruments.main()
    drawn = sorted(path.name for path in tmp_path.iterdir())
    docs = Path(instruments.__file__).parents[1] / "docs"
    names = ("instruments.md", "watching.md", "pruning.md")
    pages = "".join((docs / name).read_text(encoding="utf-8") for name in names)
    assert len(drawn) == 8 and all(f"(figures/{name})" in pages for name in drawn)
    assert sorted(path.name for path in instruments.FOLDER.glob("instruments_*.png")) == drawn
