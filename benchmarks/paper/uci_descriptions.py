"""Descriptions of the files of the UCI Machine Learning Repository.

The reader, :mod:`benchmarks.paper.uci_files`, knows nothing else about the files.
"""

from dataclasses import dataclass
from string import ascii_uppercase


@dataclass(frozen=True)
class Description:
    """A data set of UCI. Columns are counted from 1, as in UCI's own descriptions.

    Attributes:
        title: the name of the data set at UCI.
        files: file names; the rows of several files are concatenated.
        columns: number of cells in a line.
        label: the column of the class.
        classes: the labels of each class. Any other label is an error.
        identifiers: columns that name a row and carry no information about its class; dropped.
        nominal: columns whose values have no order; not case-sensitive.
        missing: the marker of a missing value; None if none is missing.
        header: the name of the class column in the header line; None if there is no header.
        arff: the data follow a line ``@data``.
        separator: of cells. Spaces around a cell are ignored.
        note: preprocessing that the files leave open.
    """

    title: str
    files: tuple[str, ...]
    columns: int
    label: int
    classes: tuple[tuple[str, ...], ...]
    identifiers: tuple[int, ...] = ()
    nominal: tuple[int, ...] = ()
    missing: str | None = None
    header: str | None = None
    arff: bool = False
    separator: str = ","
    note: str = ""

    @property
    def features(self) -> tuple[int, ...]:
        """The input columns."""
        others = {self.label, *self.identifiers}
        return tuple(column for column in range(1, self.columns + 1) if column not in others)


def each(*labels: str) -> tuple[tuple[str, ...], ...]:
    """One class for each label."""
    return tuple((label,) for label in labels)


def integers(first: int, last: int) -> tuple[str, ...]:
    """The labels from ``first`` to ``last``, both included."""
    return tuple(map(str, range(first, last + 1)))


UCI = {
    "abalone": Description(
        title="Abalone",
        files=("abalone.data",),
        columns=9,
        label=9,
        classes=(integers(1, 8), integers(9, 10), integers(11, 29)),
        nominal=(1,),
        note="rings in the customary three classes, 1-8, 9-10 and 11 or more; the paper names no classes",
    ),
    "bands": Description(
        title="Cylinder Bands",
        files=("bands.data",),
        columns=40,
        label=40,
        classes=each("band", "noband"),
        identifiers=(1, 2, 3, 4),
        nominal=tuple(range(5, 21)),
        missing="?",
        note="date, cylinder, customer and job number are left out; press, unit and tank are nominal codes",
    ),
    "crx": Description(
        title="Credit Approval",
        files=("crx.data",),
        columns=16,
        label=16,
        classes=each("+", "-"),
        nominal=(1, 4, 5, 6, 7, 9, 10, 12, 13),
        missing="?",
    ),
    "dermatology": Description(
        title="Dermatology",
        files=("dermatology.data",),
        columns=35,
        label=35,
        classes=each(*integers(1, 6)),
        missing="?",
        note="degrees of 0 to 3 are numbers",
    ),
    "diabetes_data_upload": Description(
        title="Early Stage Diabetes Risk Prediction",
        files=("diabetes_data_upload.csv",),
        columns=17,
        label=17,
        classes=each("Negative", "Positive"),
        nominal=tuple(range(2, 17)),
        header="class",
        note="more than half of the rows are duplicates",
    ),
    "fertility": Description(
        title="Fertility",
        files=("fertility_Diagnosis.txt",),
        columns=10,
        label=10,
        classes=each("N", "O"),
        note="seasons and habits are numbers, as the file scales them",
    ),
    "haberman": Description(
        title="Haberman's Survival",
        files=("haberman.data",),
        columns=4,
        label=4,
        classes=each("1", "2"),
    ),
    "hayes-roth": Description(
        title="Hayes-Roth",
        files=("hayes-roth.data",),
        columns=6,
        label=6,
        classes=each("1", "2", "3"),
        identifiers=(1,),
        nominal=(2, 3, 4, 5),
        note="UCI's training split; the instance number is left out, without which many rows are duplicates",
    ),
    "hcv": Description(
        title="HCV data",
        files=("hcvdat0.csv",),
        columns=14,
        label=2,
        classes=each("0=Blood Donor", "0s=suspect Blood Donor", "1=Hepatitis", "2=Fibrosis", "3=Cirrhosis"),
        identifiers=(1,),
        nominal=(4,),
        missing="NA",
        header="Category",
        note="all five categories, the smallest of 7 rows; the row number is left out",
    ),
    "heart_cleveland": Description(
        title="Heart Disease (Cleveland)",
        files=("heart_cleveland.data",),
        columns=14,
        label=14,
        classes=(integers(0, 0), integers(1, 4)),
        nominal=(3, 7, 11, 13),
        missing="?",
        note="absent (0) against present (1-4); kind of pain, resting ECG, slope and thal are nominal",
    ),
    "letter-recognition": Description(
        title="Letter Recognition",
        files=("letter-recognition.data",),
        columns=17,
        label=1,
        classes=each(*ascii_uppercase),
        note="split like the others, not into UCI's first 16,000 rows and last 4,000",
    ),
    "messidor": Description(
        title="Diabetic Retinopathy Debrecen",
        files=("messidor_features.arff",),
        columns=20,
        label=20,
        classes=each("0", "1"),
        arff=True,
    ),
    "optdigits": Description(
        title="Optical Recognition of Handwritten Digits",
        files=("optdigits.tra", "optdigits.tes"),
        columns=65,
        label=65,
        classes=each(*integers(0, 9)),
        note="UCI's two splits joined, and split like the others",
    ),
    "pendigits": Description(
        title="Pen-Based Recognition of Handwritten Digits",
        files=("pendigits.tra", "pendigits.tes"),
        columns=17,
        label=17,
        classes=each(*integers(0, 9)),
        note="UCI's two splits joined, and split like the others",
    ),
}
