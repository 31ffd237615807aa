"""Reads files of the UCI Machine Learning Repository according to their descriptions."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.uci_descriptions import Description

Cell = float | str | None  # a number, a nominal value in lower case, a missing number


def find(description: Description, folder: Path) -> list[Path]:
    """The files of a data set. Raises FileNotFoundError naming the folder or file that does not exist."""
    check_folder(folder)
    paths = [folder / name for name in description.files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{description.title} needs the file {path}, which does not exist")
    return paths


def check_folder(folder: Path) -> None:
    """Raise FileNotFoundError if the folder does not exist."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be the folder of UCI's files, got {str(folder)!r}")


def read(description: Description, folder: Path) -> tuple[list[tuple[Cell, ...]], list[int]]:
    """The rows of all files in their order, and their classes.

    Returns:
        For each row, the cells of ``description.features`` and the index of its class. A missing nominal
        value stays the marker, as one more value; a missing number is None.

    Raises:
        FileNotFoundError: the folder, or a file in it, does not exist.
        ValueError: a line does not match the description; the message names the file and the line.
    """
    rows, labels = [], []
    classes = {label: number for number, names in enumerate(description.classes) for label in names}
    for path in find(description, folder):
        for line, cells in _read_lines(description, path):
            try:
                row, label = _parse(description, classes, cells)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            rows.append(row)
            labels.append(label)
    return rows, labels


def _read_lines(description: Description, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The data lines with their numbers from 1, split into cells; empty lines are skipped."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        before = _pass_arff_header(file, path) if description.arff else 0
        reader = csv.reader(file, delimiter=description.separator, skipinitialspace=True)
        header = description.header
        while True:
            line = before + reader.line_num + 1  # where the row begins: a quoted cell can span lines
            try:
                cells = [cell.strip() for cell in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
            if cells in ([], [""]) or (description.arff and cells[0].startswith("%")):
                continue
            if header is None:
                yield line, cells
            elif cells[description.label - 1 : description.label] != [header]:
                place = f"column {description.label} of the header"
                raise ValueError(f"{path}, line {line}: {place} must be {header!r}, got {cells}")
            header = None


def _pass_arff_header(file: Iterator[str], path: Path) -> int:
    """Read up to the line ``@data``; returns its number."""
    for number, line in enumerate(file, 1):
        if line.strip().lower() == "@data":
            return number
    raise ValueError(f"{path}: no line @data, which an ARFF file must have")


def _parse(
    description: Description, classes: dict[str, int], cells: list[str]
) -> tuple[tuple[Cell, ...], int]:
    if len(cells) != description.columns:
        raise ValueError(f"{description.columns} cells expected, got {len(cells)}")
    label = cells[description.label - 1]
    if label not in classes:
        raise ValueError(f"column {description.label} must be a class of {', '.join(classes)}, got {label!r}")
    return tuple(_parse_cell(description, column, cells) for column in description.features), classes[label]


def _parse_cell(description: Description, column: int, cells: list[str]) -> Cell:
    text = cells[column - 1]
    if not text:
        raise ValueError(f"column {column} is empty")
    if column in description.nominal:
        return text if text == description.missing else text.lower()
    if text == description.missing:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        marker = "" if description.missing is None else f" or {description.missing}"
        raise ValueError(f"column {column} must be a number{marker}, got {text!r}")
    return number
