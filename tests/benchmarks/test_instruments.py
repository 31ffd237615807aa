"""The pictures of docs/instruments.md and docs/pruning.md."""

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
    pages = "".join((docs / name).read_text(encoding="utf-8") for name in ("instruments.md", "pruning.md"))
    assert len(drawn) == 7 and all(f"(figures/{name})" in pages for name in drawn)
    assert sorted(path.name for path in instruments.FOLDER.glob("instruments_*.png")) == drawn
