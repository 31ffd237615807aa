"""The printed tables, one per case."""

from typing import TYPE_CHECKING, Any

from jumpstart_kernels.bench.cases import BOTH, Case

if TYPE_CHECKING:
    from rich.table import Table


def make_table(record: dict[str, Any], passes: list[str]) -> "Table":
    """A case's record as a table: time ± half the interquartile range, and the ratio to the first peer."""
    from rich.table import Table

    shape, *options = (record[name] for name in Case._fields)
    case = Case(tuple(shape), *options)
    copy = record["copy"]
    moving = BOTH if BOTH in passes else passes[-1]
    table = Table(
        title=str(case),
        caption=f"{record['rounds']} rounds; ratio to {record['peers'][0]['name']}; GB/s of {moving}, "
        f"copy {copy['gigabytes_per_second']:.3g} GB/s in {seconds_text(copy['median'])}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("implementation", no_wrap=True)
    headers = [header for name in passes for header in (name, "ratio")]
    peaks = any(peer["peak_bytes"] is not None for peer in record["peers"])
    for header in [*headers, "GB/s", "of copy", "kept", *(["peak"] if peaks else [])]:
        table.add_column(header, justify="right", no_wrap=True)
    for peer in record["peers"]:
        cells = _cells(peer, passes, moving, copy["gigabytes_per_second"])
        table.add_row(peer["name"], *cells[: len(table.columns) - 1])
    return table


def _cells(peer: dict[str, Any], passes: list[str], moving: str, copy: float) -> list[str]:
    """The cells of a peer; ``moving`` is the pass whose bandwidth is given, beside that of ``copy``."""
    if peer["failure"] is not None:
        return ["no figure", *[""] * (2 * len(passes) + 3)]
    cells = []
    for name in passes:
        figures = peer["passes"].get(name)
        if figures is None:
            cells += ["", ""]
            continue
        lower, upper = figures["quartiles"]
        spread = (upper - lower) / 2 / figures["median"]
        ratio = figures["ratio"]
        cells += [
            f"{seconds_text(figures['median'])} ±{spread:3.0%}",
            "" if ratio is None else f"{ratio:.2f}",
        ]
    moved = peer["passes"].get(moving, {}).get("gigabytes_per_second")
    cells += ["", ""] if moved is None else [f"{moved:.3g}", f"{moved / copy:.0%}"]
    return [*cells, bytes_text(peer["saved_bytes"]), bytes_text(peer["peak_bytes"])]


def failures(record: dict[str, Any]) -> list[str]:
    """One line per peer of a case without figures."""
    return [f"{peer['name']}: {peer['failure']}" for peer in record["peers"] if peer["failure"] is not None]


def does_not_run(error: Exception) -> str:
    """A failure, in one line."""
    return f"does not run: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def seconds_text(seconds: float) -> str:
    """``"32.8 ms"``: three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.9995:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def bytes_text(count: int | None) -> str:
    """``"51.4 MB"``; empty for None."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{count} B"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"
