"""The tabular data sets on which the paper is run again: four of scikit-learn, fourteen of UCI.

What is done to each of them alike:

| | |
|---|---|
| identifiers | left out |
| rows that repeat another one in all features and in the class | removed before the split |
| rows of the same features with different classes | stay, and may come into different parts |
| split | two thirds for training, a third for the test, stratified, shuffled by the seed |
| nominal values | one column for each value; a missing value is one more value |
| missing numbers | the median of the training part |
| scale | every column to mean 0 and variance 1 on the training part; a column constant there becomes 0 |
| values that the training part lacks | 0 in all columns of the training part's values, before scaling |

The choices for a single data set are the notes of :mod:`benchmarks.paper.descriptions`; :func:`describe`
gives them with the counts.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.paper import files
from benchmarks.paper.descriptions import UCI
from jumpstart_kernels.demo.data import Data

if TYPE_CHECKING:
    import numpy

TEST_PART = 1 / 3
SMALLEST_CLASS = 3  # rows: at least one for the test and one for the training
MOONS = {"n_samples": 500, "noise": 0.1, "random_state": 0}
SCIKIT_LEARN = {"wine": "Wine", "iris": "Iris", "breast_cancer": "Breast Cancer", "moons": "Two Moons"}
TITLES: dict[str, str] = SCIKIT_LEARN | {name: description.title for name, description in UCI.items()}


@dataclass(frozen=True)
class Table:
    """A data set without repeats, before it is split.

    Attributes:
        rows: ``[N, columns]``, an object array: floats (None for a missing one), strings in nominal columns.
        labels: ``[N]``, int64, from 0.
        nominal: which columns of ``rows`` are nominal, counted from 0.
        repeats: how many rows were removed because an earlier one has the same features and class.
    """

    rows: "numpy.ndarray"
    labels: "numpy.ndarray"
    nominal: tuple[int, ...]
    repeats: int


@dataclass(frozen=True)
class Summary:
    """What a data set consists of. Everything but ``rows`` is counted after the removal of repeats.

    Attributes:
        title: its name.
        rows: those of the files, repeats included.
        repeats: how many of them were removed.
        features: columns after the encoding, of all rows. A split whose training part lacks a nominal value
            has fewer.
        classes: number of classes.
        majority: the share of the most frequent class.
        missing: missing cells of the features, nominal ones included.
        note: choices that the files leave open.
    """

    title: str
    rows: int
    repeats: int
    features: int
    classes: int
    majority: float
    missing: int
    note: str


def names(folder: Path | None = None) -> list[str]:
    """The data sets that can be loaded: scikit-learn's, and UCI's if all their files are in ``folder``.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if folder is None:
        return list(SCIKIT_LEARN)
    files.check_folder(folder)
    there = [name for name, known in UCI.items() if all((folder / file).is_file() for file in known.files)]
    return [*SCIKIT_LEARN, *there]


def load_split(name: str, seed: int, folder: Path | None = None) -> Data:
    """A data set with a third of it for the test, encoded and standardized by its training part alone.

    Args:
        name: a key of ``TITLES``.
        seed: of the split, in ``[0, 2**32 - 1]``.
        folder: where UCI's files are, under UCI's names. scikit-learn's data sets need none.

    Raises:
        ValueError: an argument is out of range, a line of a file is wrong (the message names both), or a
            class has fewer than 3 rows.
        FileNotFoundError: there is no such folder, or a file is not in it.
        ImportError: scikit-learn is not installed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32 - 1], got {seed}")
    table = load_table(name, folder)
    from sklearn.model_selection import train_test_split

    train, test, y_train, y_test = train_test_split(
        table.rows, table.labels, test_size=TEST_PART, stratify=table.labels, random_state=seed
    )
    encoder = make_encoder(table).fit(train)
    x_train, x_test = encoder.transform(train), encoder.transform(test)
    constant = (x_train == x_train[0]).all(0)
    for part in (x_train, x_test):
        part[:, constant] = 0  # the scaler leaves it what it is, up to the mean
    return Data(
        TITLES[name],
        torch.from_numpy(x_train).float(),
        torch.from_numpy(y_train),
        torch.from_numpy(x_test).float(),
        torch.from_numpy(y_test),
    )


def describe(name: str, folder: Path | None = None) -> Summary:
    """The counts of a data set, for a table. Arguments and errors are those of :func:`load_split`."""
    table = load_table(name, folder)
    description = UCI.get(name)
    marker = description.missing if description else None
    numbers = [column for column in range(table.rows.shape[1]) if column not in table.nominal]
    missing = sum(cell is None for cell in table.rows[:, numbers].flat)
    missing += sum(cell == marker for cell in table.rows[:, table.nominal].flat)
    counts = Counter(table.labels.tolist())
    return Summary(
        title=TITLES[name],
        rows=len(table.rows) + table.repeats,
        repeats=table.repeats,
        features=make_encoder(table).fit_transform(table.rows).shape[1],
        classes=len(counts),
        majority=max(counts.values()) / len(table.labels),
        missing=missing,
        note=description.note if description else "",
    )


def load_table(name: str, folder: Path | None = None) -> Table:
    """All rows of a data set, as they are but for the repeats; errors as in :func:`load_split`."""
    if name not in TITLES:
        raise ValueError(f"name must be one of {', '.join(map(repr, TITLES))}, got {name!r}")
    nominal: tuple[int, ...] = ()
    if name in SCIKIT_LEARN:
        rows, labels = _load_scikit_learn(name)
    elif folder is None:
        raise ValueError(f"folder must be the folder of UCI's files for {name!r}, got None")
    else:
        rows, labels = files.read(UCI[name], folder)
        places = {column: place for place, column in enumerate(UCI[name].features)}
        nominal = tuple(places[column] for column in UCI[name].nominal)
    import numpy

    distinct = list(dict.fromkeys(zip(rows, labels, strict=True)))
    counts = Counter(label for _, label in distinct)
    for label in range(len(UCI[name].classes) if name in UCI else len(counts)):
        if counts[label] < SMALLEST_CLASS:
            which = "/".join(UCI[name].classes[label])
            raise ValueError(
                f"{TITLES[name]}: class {which} needs {SMALLEST_CLASS} distinct rows to be split, "
                f"{', '.join(UCI[name].files)} in {folder} have {counts[label]}"
            )
    return Table(
        rows=numpy.array([row for row, _ in distinct], dtype=object),
        labels=numpy.array([label for _, label in distinct], dtype=numpy.int64),
        nominal=nominal,
        repeats=len(rows) - len(distinct),
    )


def make_encoder(table: Table) -> Any:
    """An unfitted pipeline of scikit-learn from the rows of a table to float64 columns of one scale."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [column for column in range(table.rows.shape[1]) if column not in table.nominal]
    columns = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median", keep_empty_features=True), numbers),
            ("nominal", OneHotEncoder(handle_unknown="ignore", sparse_output=False), list(table.nominal)),
        ]
    )
    return make_pipeline(columns, StandardScaler())


def _load_scikit_learn(name: str) -> tuple[list[tuple[files.Cell, ...]], list[int]]:
    from sklearn import datasets

    if name == "moons":
        x, y = datasets.make_moons(**MOONS)
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return [tuple(row) for row in x.tolist()], y.tolist()
