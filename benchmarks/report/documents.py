"""The documents that the reports write to, and how they replace a generated part of them."""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIGURES = Path("docs/figures")
DPI = 200


def insert(document: Path, parts: Mapping[str, str]) -> list[str]:
    """Replace what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; returns the names."""
    text, names = document.read_text(), []
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, marker, after = text.partition(begin)
        if marker:
            _, marker, after = after.partition(end)
            if not marker:
                raise ValueError(f"{document} has no {end!r} after its {begin.strip()!r}")
            text = f"{before}{begin}{part}\n{end}{after}"
            names.append(name)
    document.write_text(text)
    return names
