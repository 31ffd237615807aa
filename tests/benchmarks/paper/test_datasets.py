"""The paper's data sets: duplicates go first, and nothing of the test split is in what is trained on."""

import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the data sets are split and encoded by scikit-learn")

from sklearn.model_selection import train_test_split

from benchmarks.paper import datasets
from benchmarks.paper.datasets import SCIKIT_LEARN, TITLES, describe, load_split, load_table, names
from benchmarks.paper.uci_descriptions import UCI, Description
from jumpstart_kernels.demo.data import Data

ROOT = Path(datasets.__file__).parents[2]
SHAPES = {  # rows, duplicates, features, classes
    "wine": (178, 0, 13, 3),
    "iris": (150, 1, 4, 3),
    "breast_cancer": (569, 0, 30, 2),
    "moons": (500, 0, 2, 2),
}
MADE_UP = Description(
    title="Made up",
    files=("made_up.data",),
    columns=5,
    label=5,
    classes=(("no",), ("yes", "maybe")),
    nominal=(2,),
    missing="?",
    note="a note",
)  # a number, a nominal column, a number, a constant, the class
COLORS = ["red", "Green", "?", "RED", "green"]


@pytest.fixture
def made_up(monkeypatch, write):
    """``made_up(rows)`` writes them as the data set ``"made_up"``; returns its folder."""
    monkeypatch.setitem(UCI, "made_up", MADE_UP)
    monkeypatch.setitem(TITLES, "made_up", MADE_UP.title)
    return lambda rows: write("made_up.data", [",".join(map(str, row)) for row in rows])


def make_rows(count=30):
    """Distinct rows; the first column and the third have missing values."""
    rows = [[i, COLORS[i % 5], i * i % 17, 0.1, ["no", "yes", "maybe"][i % 3]] for i in range(count)]
    rows[4][0] = rows[9][2] = rows[11][2] = "?"
    return rows


def as_set(x, y):
    return {(*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True)}


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("name", SHAPES)
def test_splits_of_scikit_learn(name, seed):
    data = load_split(name, seed)
    rows, duplicates, features, classes = SHAPES[name]
    distinct = rows - duplicates
    assert isinstance(data, Data) and data.title == TITLES[name]
    assert (data.features, data.classes) == (features, classes)
    assert len(data.x_test) == len(data.y_test) == -(-distinct // 3)
    assert len(data.x_train) == len(data.y_train) == distinct - len(data.x_test)
    assert data.x_train.dtype == data.x_test.dtype == torch.float32
    assert data.y_train.dtype == data.y_test.dtype == torch.int64
    train, test = as_set(data.x_train, data.y_train), as_set(data.x_test, data.y_test)
    assert len(train | test) == distinct  # no row twice, neither in a part nor across them
    shares = [labels.bincount() / len(labels) for labels in (data.y_train, data.y_test)]
    torch.testing.assert_close(*shares, atol=0.02, rtol=0)
    torch.testing.assert_close(data.x_train.mean(0), torch.zeros(features), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.x_train.std(0, correction=0), torch.ones(features), atol=1e-4, rtol=0)
    assert data.x_test.mean(0).abs().max() > 0.01  # the test split was not looked at


def test_seed_decides_the_split_but_not_the_moons():
    first, again, other = (load_split("moons", seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert not torch.equal(first.x_train, other.x_train)
    assert (load_table("moons").rows == load_table("moons").rows).all()


@pytest.mark.parametrize("name", SHAPES)
def test_describe_scikit_learn(name):
    summary = describe(name)
    shape = summary.rows, summary.duplicates, summary.features, summary.classes
    assert shape == SHAPES[name]
    assert summary.title == TITLES[name] and summary.missing == 0


@pytest.mark.parametrize("seed", range(3))
def test_encoding_value_by_value(made_up, seed):
    rows = make_rows()
    folder = made_up(rows)
    labels = [int(row[-1] != "no") for row in rows]
    parts = train_test_split(range(30), test_size=1 / 3, stratify=labels, random_state=seed)
    columns = []
    for place in (0, 2):
        known = [rows[i][place] for i in parts[0] if rows[i][place] != "?"]
        columns.append([statistics.median(known) if row[place] == "?" else row[place] for row in rows])
    columns.append([0.1] * 30)
    columns += [[float(row[1].lower() == color) for row in rows] for color in ("?", "green", "red")]
    data = load_split("made_up", seed, folder)
    assert data.features == len(columns)
    for place, column in enumerate(columns):
        train = [column[i] for i in parts[0]]
        mean, deviation = statistics.fmean(train), statistics.pstdev(train) or 1.0
        for x, part in zip((data.x_train, data.x_test), parts, strict=True):
            expected = torch.tensor([(column[i] - mean) / deviation for i in part])
            torch.testing.assert_close(x[:, place], expected, atol=1e-6, rtol=1e-5)
    assert data.y_train.tolist() == [labels[i] for i in parts[0]]
    assert data.y_test.tolist() == [labels[i] for i in parts[1]]


def test_nothing_of_a_test_row_leaks(made_up):
    """A row that turns strange in every cell changes the training split only if it is in there."""
    rows = make_rows()
    before = load_split("made_up", 0, made_up(rows))
    unseen = 0
    for i, row in enumerate(rows):
        strange = [*rows[:i], [1e6, "purple", "?", 7, row[-1]], *rows[i + 1 :]]
        after = load_split("made_up", 0, made_up(strange))
        assert torch.isfinite(after.x_test).all()
        if torch.equal(after.x_train, before.x_train):
            unseen += 1
            changed = (after.x_test != before.x_test).any(1)
            assert changed.sum() == 1  # the other rows of the test split are what they were
            zeros = before.x_train[:, 3:].min(0).values  # what 0 is in columns of zeros and ones
            assert torch.equal(after.x_test[changed, 3:][0], zeros)
            assert after.x_test[changed, 2] == 0  # constant where it is trained on
    assert unseen == len(before.x_test)


def test_a_column_without_any_number_is_zero(made_up):
    rows = [[i, "red", "?", 1, "no" if i % 2 else "yes"] for i in range(12)]
    data = load_split("made_up", 0, made_up(rows))
    assert data.features == 4  # red is one column
    assert not data.x_train[:, 1:].any() and not data.x_test[:, 1:].any()


def test_duplicates_are_removed_before_the_split(made_up):
    rows = make_rows()
    assert rows[3] == [3, "RED", 9, 0.1, "no"] and rows[4] == ["?", "green", 16, 0.1, "yes"]
    duplicates = [*rows[::2], ["3.0", "red", "9.00", ".1", "no"], ["?", "GREEN", 16, 0.1, "maybe"]]
    folder = made_up([*rows, *duplicates, [3, "red", 9, 0.1, "yes"]])  # the last one contradicts, and stays
    table = load_table("made_up", folder)
    assert table.duplicates == len(duplicates)
    assert len(table.rows) == len(table.labels) == len(rows) + 1
    for seed in range(5):
        data = load_split("made_up", seed, folder)
        train, test = as_set(data.x_train, data.y_train), as_set(data.x_test, data.y_test)
        assert len(train) == len(data.x_train) and len(test) == len(data.x_test)
        assert not train & test


def test_rows_repeat_if_only_identifiers_differ(write):
    lines = [f"{i},{i % 4 + 1},1,2,3,{i % 4 % 3 + 1}" for i in range(40)]
    more = [f"{i},1,{i % 4 + 1},4,{i % 3},{i % 3 + 1}" for i in range(40, 52)]
    table = load_table("hayes-roth", write("hayes-roth.data", lines + more))
    assert table.duplicates == 36 and len(table.rows) == 4 + 12
    assert sorted(table.rows[:4].tolist()) == [[str(i), "1", "2", "3"] for i in range(1, 5)]


def test_describe_made_up(made_up):
    rows = make_rows()
    folder = made_up([*rows, rows[4], rows[0]])
    summary = describe("made_up", folder)
    assert summary == datasets.Summary(
        title="Made up",
        rows=32,
        duplicates=2,
        features=3 + 3,
        classes=2,
        majority=20 / 30,
        missing=3 + sum(row[1] == "?" for row in rows),
        note="a note",
    )


def test_descriptions_of_uci_reach_the_encoding(write):
    """In bands the spelling of nominal text and the identifiers do not count."""
    presses = ["WoodHoe70", "woodhoe70", "MOTTER94", "?"]
    grain = ["KEY", "KeY", "key"]
    lines = [
        f"1991,X{i},KMART,{i},YES,{grain[i % 3]},YES,BENTON,GALLATIN,COATED,COATED,NO,LINE,YES,"
        f"{presses[i % 4]},82{i % 2},2,TABLOID,CANADIAN,1911,{i},{'46,' * 18}{('band', 'noband')[i % 2]}"
        for i in range(12)
    ]
    summary = describe("bands", write("bands.data", lines))
    nominal = 16 + 2 + 1  # three presses, two units, one value of each other
    assert (summary.rows, summary.duplicates, summary.features) == (12, 0, 19 + nominal)
    assert summary.missing == 3


def test_classes_of_few_rows(made_up):
    rows = [row for row in make_rows() if row[-1] == "yes"]
    no = [[i, "red", 1, 0.1, "no"] for i in (100, 101, 101, 102)]
    message = "Made up: class no needs 3 distinct rows to be split, made_up.data in .* have "
    for few, count in ((no[:0], 0), (no[:3], 2)):
        with pytest.raises(ValueError, match=message + str(count)):
            load_split("made_up", 0, made_up(rows + few))
    for seed in range(10):
        data = load_split("made_up", seed, made_up(rows + no))
        assert set(data.y_train.tolist()) == set(data.y_test.tolist()) == {0, 1}


def test_classes_are_numbered_as_described_and_kept_in_both_parts(made_up):
    data = load_split("made_up", 0, made_up(make_rows()))
    assert Counter(data.y_train.tolist() + data.y_test.tolist()) == {0: 10, 1: 20}
    assert data.chance == pytest.approx((data.y_test == 1).float().mean().item())


def test_names(write):
    assert names() == list(SCIKIT_LEARN) == list(SHAPES)
    folder = write("haberman.data", [])
    write("pendigits.tra", [])
    assert names(folder) == [*SHAPES, "haberman"]
    write("pendigits.tes", [])
    assert names(folder) == [*SHAPES, "haberman", "pendigits"]
    assert set(names(folder)) < set(TITLES) and list(TITLES) == [*SHAPES, *UCI]


@pytest.mark.parametrize("load", (lambda *args: load_split(args[0], 0, *args[1:]), describe))
def test_bad_arguments(load, tmp_path):
    with pytest.raises(ValueError, match="name must be one of 'wine', .*'pendigits', got 'Wine'"):
        load("Wine")
    with pytest.raises(ValueError, match="folder must be the folder of UCI's files for 'crx', got None"):
        load("crx")
    with pytest.raises(FileNotFoundError, match="folder must be .*nowhere"):
        load("crx", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Credit Approval needs the file .*crx.data"):
        load("crx", tmp_path)


def test_bad_folder_and_seed(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder must be .*nowhere"):
        names(tmp_path / "nowhere")
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\*\*32 - 1\], got {seed}"):
            load_split("iris", seed)


def test_scikit_learn_is_imported_only_when_used():
    code = "import sys, benchmarks.paper.datasets as d; d.names(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=100)
