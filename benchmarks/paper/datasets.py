"""The tabular data sets of the paper: four from scikit-learn, fourteen from UCI.

All are preprocessed alike:

| | |
|---|---|
| identifiers | dropped |
| rows that equal another one in all features and the class | removed before the split |
| rows with equal features but different classes | kept, possibly in different splits |
| split | two thirds for training, one third for the test; stratified, shuffled by the seed |
| nominal values | one-hot; a missing value is one more value |
| missing numbers | imputed by the median of the training split |
| scale | mean 0 and variance 1 on the training split; columns that are constant there become 0 |
| nominal values missing from the training split | 0 in all one-hot columns, before scaling |

What is particular to a data set is in the notes of :mod:`benchmarks.paper.uci_descriptions`; :func:`describe`
returns them with the counts.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.paper import uci_files
from benchmarks.paper.uci_descriptions import UCI
from jumpstart_kernels.demo.data import Data

if TYPE_CHECKING:
    import numpy

TEST_SHARE = 1 / 3
SMALLEST_CLASS = 3  # rows, for at least one in each split
MOONS = {"n_samples": 500, "noise": 0.1, "random_state": 0}
SCIKIT_LEARN = {"wine": "Wine", "iris": "Iris", "breast_cancer": "Breast Cancer", "moons": "Two Moons"}
TITLES: dict[str, str] = SCIKIT_LEARN | {name: description.title for name, description in UCI.items()}


@dataclass(frozen=True)
class Table:
    """A data set without duplicates, before the split.

    Attributes:
        rows: ``[N, columns]``, an object array: floats (None for a missing one), strings in nominal columns.
        labels: ``[N]``, int64, from 0.
        nominal: indices of the nominal columns of ``rows``.
        duplicates: number of rows removed because an earlier one has the same features and class.
    """

    rows: "numpy.ndarray"
    labels: "numpy.ndarray"
    nominal: tuple[int, ...]
    duplicates: int


@dataclass(frozen=True)
class Summary:
    """Counts of a data set. All but ``rows`` are taken after duplicates are removed.

    Attributes:
        title: its name.
        rows: rows of the files, duplicates included.
        duplicates: how many of them were removed.
        features: columns after the encoding of all rows. A training split that lacks a nominal value has
            fewer.
        classes: number of classes.
        majority: the share of the most frequent class.
        missing: missing cells in the features, nominal ones included.
        note: preprocessing that the files leave open.
    """

    title: str
    rows: int
    duplicates: int
    features: int
    classes: int
    majority: float
    missing: int
    note: str


def names(folder: Path | None = None) -> list[str]:
    """The available data sets: scikit-learn's, and those of UCI whose files are all in ``folder``.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if folder is None:
        return list(SCIKIT_LEARN)
    uci_files.check_folder(folder)
    available = [
        name for name, known in UCI.items() if all((folder / file).is_file() for file in known.files)
    ]
    return [*SCIKIT_LEARN, *available]


def load_split(name: str, seed: int, folder: Path | None = None) -> Data:
    """A data set split into training and test rows, encoded and standardized on the training rows alone.

    Args:
        name: a key of ``TITLES``.
        seed: of the split, in ``[0, 2**32 - 1]``.
        folder: folder of UCI's files, under UCI's names; not needed for scikit-learn's data sets.

    Raises:
        ValueError: an argument is out of range, a line of a file is malformed (the message names both), or a
            class has fewer than 3 rows.
        FileNotFoundError: the folder, or a file in it, does not exist.
        ImportError: scikit-learn is not installed.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32 - 1], got {seed}")
    table = load_table(name, folder)
    from sklearn.model_selection import train_test_split

    train, test, y_train, y_test = train_test_split(
        table.rows, table.labels, test_size=TEST_SHARE, stratify=table.labels, random_state=seed
    )
    encoder = make_encoder(table).fit(train)
    x_train, x_test = encoder.transform(train), encoder.transform(test)
    constant = (x_train == x_train[0]).all(0)
    for part in (x_train, x_test):
        part[:, constant] = 0  # the scaler only centers it
    return Data(
        TITLES[name],
        torch.from_numpy(x_train).float(),
        torch.from_numpy(y_train),
        torch.from_numpy(x_test).float(),
        torch.from_numpy(y_test),
    )


def describe(name: str, folder: Path | None = None) -> Summary:
    """The counts of a data set. Arguments and errors as in :func:`load_split`."""
    table = load_table(name, folder)
    description = UCI.get(name)
    marker = description.missing if description else None
    numbers = [column for column in range(table.rows.shape[1]) if column not in table.nominal]
    missing = sum(cell is None for cell in table.rows[:, numbers].flat)
    missing += sum(cell == marker for cell in table.rows[:, table.nominal].flat)
    counts = Counter(table.labels.tolist())
    return Summary(
        title=TITLES[name],
        rows=len(table.rows) + table.duplicates,
        duplicates=table.duplicates,
        features=make_encoder(table).fit_transform(table.rows).shape[1],
        classes=len(counts),
        majority=max(counts.values()) / len(table.labels),
        missing=missing,
        note=description.note if description else "",
    )


def load_table(name: str, folder: Path | None = None) -> Table:
    """All distinct rows of a data set, not encoded yet. Errors as in :func:`load_split`."""
    if name not in TITLES:
        raise ValueError(f"name must be one of {', '.join(map(repr, TITLES))}, got {name!r}")
    nominal: tuple[int, ...] = ()
    if name in SCIKIT_LEARN:
        rows, labels = _load_scikit_learn(name)
    elif folder is None:
        raise ValueError(f"folder must be the folder of UCI's files for {name!r}, got None")
    else:
        rows, labels = uci_files.read(UCI[name], folder)
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
        duplicates=len(rows) - len(distinct),
    )


def make_encoder(table: Table) -> Any:
    """An unfitted scikit-learn pipeline from the rows of a table to standardized float64 columns."""
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


def _load_scikit_learn(name: str) -> tuple[list[tuple[uci_files.Cell, ...]], list[int]]:
    from sklearn import datasets

    if name == "moons":
        x, y = datasets.make_moons(**MOONS)
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return [tuple(row) for row in x.tolist()], y.tolist()
