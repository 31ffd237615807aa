"""The sweeps and the report as commands, on runs of a few steps."""

import json
import shutil
from dataclasses import asdict

import pytest

from benchmarks.paper import ablation, grid, uci
from benchmarks.paper.networks import TECHNIQUES
from benchmarks.paper.report import __main__ as report
from benchmarks.paper.report import grid as grid_report
from benchmarks.paper.sweep import runs_of
from benchmarks.report.documents import insert

UCI = ["--only", "iris", "--only", "wine", "--depth", "3", "--steps", "20", "--seeds", "2", "--jobs", "1"]
GRID = ["--epochs", "20", "--seeds", "2", "--jobs", "1"]
MOONS = ["moons", *["--depth", "1", "--depth", "30", "--width", "2", "--width", "3"], *GRID]
DIGITS = ["digits", *["--depth", "31", "--width", "2"], *GRID, "--epochs", "1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert uci.main([*UCI, "--output", str(folder / "paper_uci.json")]) == 0
    stabilized = ["--recipe", "stabilized", "--output", str(folder / "paper_uci_stabilized.json")]
    assert uci.main([*UCI, *stabilized]) == 0
    assert ablation.main([*UCI, "--output", str(folder / "paper_ablation.json")]) == 0
    assert grid.main([*MOONS, "--output", str(folder / "paper_moons.json")]) == 0
    assert grid.main([*DIGITS, "--output", str(folder / "paper_digits.json")]) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def test_a_sweep_has_every_run_once(results):
    record = read(results / "paper_uci.json")
    runs = [(r["data_set"], r["technique"], r["seed"], r["learning_rate"], r["lam"]) for r in runs_of(record)]
    networks = 2 * 2 * (len(TECHNIQUES) - 1) + 2 * 2 * 4  # of a data set: seeds, rates, λ
    assert len(runs) == len(set(runs)) == 2 * networks
    assert all(r["accuracy"] == pytest.approx(r["curve"][-1], abs=1e-4) for r in runs_of(record))
    assert record["settings"]["data_sets"]["iris"]["duplicates"] == 1
    assert record["machine"]["command"].endswith("paper_uci.json")

    record = read(results / "paper_uci_stabilized.json")
    assert len(runs_of(record)) == 2 * networks and list(record["settings"]["recipe"]) == ["stabilized"]
    assert all(run["weight_decay"] > 0 and run["initialization"] == "he" for run in runs_of(record))

    record = read(results / "paper_ablation.json")
    runs = [tuple(run[key] for key in ("data_set", *asdict(ablation.BASE))) for run in runs_of(record)]
    changes = sum(map(len, ablation.FACTORS.values()))
    changes -= len(ablation.FACTORS) - 1 + 3  # the base is in every factor, three other runs in two
    networks = changes + len(ablation.BASELINES) * len(ablation.BASELINE_CHANGES)
    assert len(runs) == len(set(runs)) == 2 * 2 * networks

    record = read(results / "paper_moons.json")
    keys = ("depth", "width", *asdict(ablation.BASE))
    runs = [tuple(run[key] for key in keys) for run in runs_of(record)]
    assert (
        len(runs) == len(set(runs)) == 2 * 2 * 2 * len(grid.PROBLEMS["moons"].recipes) * (2 + 2)
    )  # techniques, of Jumpstart two λ


def test_a_sweep_that_was_stopped_goes_on(results, tmp_path, capsys):
    """With what was not done yet alone, and to the same results."""
    path = tmp_path / "paper_moons.json"
    (tmp_path / "docs").mkdir()
    for document in report.DOCUMENTS:
        (tmp_path / document).touch()
    whole = read(results / "paper_moons.json")
    part = json.loads(json.dumps(whole))
    assert whole["remaining"] == 0
    part["remaining"] = 1
    del part["tasks"]["plain/1/2"]
    part["tasks"]["plain/1/3"]["runs"][0]["accuracy"] = -1.0  # to see that it is not done again
    path.write_text(json.dumps(part))
    assert report.main(["--results", str(tmp_path), "--root", str(tmp_path)]) == 0
    assert "paper_moons.json is not complete" in capsys.readouterr().out
    assert grid.main([*MOONS, "--output", str(path)]) == 0
    again = read(path)
    assert again["remaining"] == 0
    assert again["tasks"]["plain/1/2"]["runs"] == whole["tasks"]["plain/1/2"]["runs"]
    assert again["tasks"]["plain/1/3"]["runs"][0]["accuracy"] == -1.0


def test_a_factor_that_was_changed_is_not_taken_from_old_results(results, tmp_path, capsys, monkeypatch):
    path = tmp_path / "paper_ablation.json"
    shutil.copy(results / "paper_ablation.json", path)
    monkeypatch.setitem(ablation.FACTORS, "λ", ablation.combine(lam=(0.5,)))
    assert ablation.main([*UCI, "--output", str(path)]) == 2
    assert "has results for other settings" in capsys.readouterr().err


def test_shallow_grids_have_no_deep_networks_to_sum_up(tmp_path):
    path = tmp_path / "paper_moons.json"
    words = ["moons", "--depth", "2", "--width", "2", *GRID, "--epochs", "1", "--output", str(path)]
    assert grid.main(words) == 0
    table = grid_report.summary_table(read(path))
    assert table.count("| none | ") == 2 * (2 + 2)  # recipes; techniques, of Jumpstart two λ
    assert "depths of 2, widths of 2" in grid_report.conditions(read(path))
    axes = grid_report.draw_grid(read(path)).axes[: 2 * (2 + 2)]
    assert [axis.get_title() for axis in axes[:4]] == [
        title for title, *_ in grid_report.variants(read(path))
    ]
    assert {axis.get_xlabel() for axis in axes[4:]} == {"width"}


def test_results_of_other_settings_are_kept(results, tmp_path, capsys):
    path = tmp_path / "paper_moons.json"
    shutil.copy(results / "paper_moons.json", path)
    assert grid.main([*MOONS, "--epochs", "10", "--output", str(path)]) == 2
    assert "has results for other settings" in capsys.readouterr().err
    assert read(path) == read(results / "paper_moons.json")


def test_the_report_writes_tables_and_pictures(results, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    names = [name for tables in report.TABLES.values() for name in tables]
    names += [f"figure-{name}" for drawings in report.DRAWINGS.values() for name in drawings]
    page, other = (tmp_path / document for document in report.DOCUMENTS)
    page.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    other.write_text("<!-- begin ablation-lam -->\n<!-- end ablation-lam -->\n")
    assert report.main(["--results", str(results), "--root", str(tmp_path)]) == 0
    text = page.read_text()
    assert "| Jumpstart | " in text and "| published, Jumpstart | 0.07 | 0.12 | 1.00 | −0.03 | | | |" in text
    assert (
        "| shared hyperparameters | BatchNorm | " in text
        and "| published, ReLU | | | 0.00 | 0.42 | |" in text.replace("  ", " ")
    )
    assert "| Iris | 149 | 3 | 0.34 |" in text and "| Jumpstart, λ = 0.3 | stabilized | 4 |" in text
    assert "| 0.1 | " in other.read_text()
    assert "| norm | 0.01 | " in text and "| BatchNorm | he | none | " in text
    for stem in ("paper_uci", "paper_moons", "paper_digits", "paper_ablation"):
        for name in report.DRAWINGS[stem]:
            picture = tmp_path / "docs" / "figures" / f"{name}.png"
            assert picture.read_bytes().startswith(b"\x89PNG") and f"figures/{name}.png" in text
    # What is not measured again stays.
    assert insert(page, {}) == []
    (results / "paper_moons.json").rename(tmp_path / "elsewhere.json")
    try:
        assert report.main(["--results", str(results), "--root", str(tmp_path)]) == 0
    finally:
        (tmp_path / "elsewhere.json").rename(results / "paper_moons.json")
    assert "paper_moons.json does not exist" in capsys.readouterr().out and page.read_text() == text


@pytest.mark.parametrize(
    ("main", "words", "text"),
    [
        (uci.main, ["--only", "letters"], "--only letters: must be one of wine, iris, breast_cancer, moons"),
        (uci.main, ["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(main, words, text, tmp_path, capsys):
    assert main([*words, "--output", str(tmp_path / "results.json")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("main", "words"), [(uci.main, []), (ablation.main, []), (grid.main, ["moons"])])
def test_numbers_are_positive(main, words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--seeds", "0", "--output", "x.json"])
    assert "must be a positive integer, got '0'" in capsys.readouterr().err
