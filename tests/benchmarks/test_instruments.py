"""Figures of networks that can be trained anew: the demo's, and those of the instruments."""

import json
import sys
from functools import partial

import pytest

pytest.importorskip("sklearn", reason="the data sets come with scikit-learn")
pytest.importorskip("matplotlib", reason="the pictures are drawn with matplotlib")
pytest.importorskip("rich", reason="the demo prints with rich")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import demo, instruments, instruments_training
from benchmarks.report import trained
from benchmarks.result_files import FOLDER

FLOAT32 = 9  # significant digits of all of its bits


def store_and_draw(command, folder):
    """Train for two epochs; returns what is stored and the pictures, after checking that they stay."""
    stored = json.loads((FOLDER / command.STORED).read_text())
    (folder / "docs").mkdir()
    (folder / "docs" / "demo.md").write_text("<!-- begin demo-seeds -->\nold\n<!-- end demo-seeds -->\n")
    words = ["--results", str(folder), "--root", str(folder)]
    assert command.main(["--store", "--epochs", "2", *words]) == 0
    record = json.loads((folder / command.STORED).read_text())
    assert record.keys() == stored.keys() and record["machine"].keys() == stored["machine"].keys()
    pictures = sorted((folder / "docs" / "figures").iterdir())
    first = [path.read_bytes() for path in pictures]
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in first)
    for path in pictures:
        path.unlink()
    assert command.main(words) == 0  # without training
    assert [path.read_bytes() for path in pictures] == first
    return record


def test_the_demo_is_stored_with_its_table(tmp_path, monkeypatch):
    seeds = {"wine": range(2), "breast_cancer": range(2)}
    monkeypatch.setattr(demo, "measure", partial(demo.measure, seeds=seeds))
    record = store_and_draw(demo, tmp_path)
    networks = record["data"]["wine"]["1"]["networks"]
    assert [network["name"] for network in networks] == ["plain", "BatchNorm", "Jumpstart"]
    plain, batch_norm, jumpstart = (f"{network['curve'][-1][1]:.2f}" for network in networks)
    status = [unit for layer in networks[2]["unit_status"] for unit in layer]
    shares = [f"{status.count(value) / 2:.1f} %" for value in (-1, 0)]  # of 200 units
    cells = ["1", plain, batch_norm, f"**{jumpstart}**", *shares]
    assert f"| {' | '.join(cells)} | " in (tmp_path / "docs" / "demo.md").read_text()


def test_a_plot_of_stored_results_is_that_of_the_network_itself(tmp_path, monkeypatch):
    """Nothing that a plot shows is lost in the file."""
    live = {}

    def keep(owner, name):
        function = getattr(owner, name)

        def run(*arguments, **options):
            result = function(*arguments, **options)
            live.setdefault(name, []).append(result)
            return result

        monkeypatch.setattr(owner, name, run)

    monkeypatch.setattr(trained, "DIGITS", FLOAT32)  # six may move a mark by a pixel
    keep(instruments_training, "prune")
    for name in ("unit_usage", "layer_extrema", "penalty_by_layer"):
        keep(instruments_training.jk, name)
    shallow = partial(instruments_training.build_network, depth=6)
    monkeypatch.setattr(instruments_training, "build_network", shallow)
    networks = store_and_draw(instruments, tmp_path)["networks"].values()
    shown = {"unit_status": "unit_usage", "point_status": "unit_usage", "extrema": "layer_extrema"}
    shown |= {"penalty": "penalty_by_layer", "pruned": "prune"}
    for name, function in shown.items():
        source, draw = instruments.PAIRS[name]
        for network, expected in zip(networks, live[function], strict=True):
            pixels = []
            for each in (source(network), expected):
                canvas = FigureCanvasAgg(Figure(figsize=(4, 3), dpi=60))
                draw(each, ax=canvas.figure.subplots())
                canvas.draw()
                pixels.append(bytes(canvas.buffer_rgba()))
            assert pixels[0] == pixels[1], name


def test_without_results_nothing_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["instruments", "--results", str(tmp_path), "--root", str(tmp_path)])
    assert instruments.main() == 0
    assert "instruments.json does not exist" in capsys.readouterr().out and not list(tmp_path.iterdir())
