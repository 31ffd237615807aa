"""Bandwidth, latency and memory of the layer, drawn from the stored results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report.documents import DPI, FIGURES
from benchmarks.result_files import DEVICE_NAMES, Record, Results, has_bias, is_healthy, load
from jumpstart_kernels.bench.cases import BOTH, shape_name
from jumpstart_kernels.bench.peers import RELU

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito colors, distinguishable with all kinds of color vision; markers distinguish them without color.
STYLES: dict[str, dict[str, Any]] = {
    RELU: {"color": "#000000", "marker": "o"},
    "JumpstartReLU native": {"color": "#0072B2", "marker": "s", "linewidth": 2.4},
    "JumpstartReLU triton": {"color": "#56B4E9", "marker": "^", "linewidth": 2.4},
    "plain PyTorch, compiled": {"color": "#E69F00", "marker": "D"},
    "plain PyTorch": {"color": "#D55E00", "marker": "v"},
    "BatchNorm + nn.ReLU": {"color": "#009E73", "marker": "P"},
    "authors' code": {"color": "#CC79A7", "marker": "X"},
}
COPY: dict[str, Any] = {"color": "#777777", "linestyle": "--", "linewidth": 1.4}
CAPTIONS = {
    "speed_of_light": "Bandwidth of forward and backward over the size of the input, below that of a copy",
    "launch_latency": "Latency of forward and backward for small inputs",
    "memory": "Bytes that each implementation keeps for the backward",
}
MEMORY_SHAPE = (64, 64, 56, 56)
LATENCY_ELEMENTS = 2**18


def draw_speed_of_light(sweeps: Mapping[str, Record]) -> "Figure":
    """Bandwidth in model bytes over the size of the input, forward and backward, with that of a copy."""
    from matplotlib.ticker import EngFormatter

    figure, axes = _panels(len(sweeps), 2)
    for row, (device_type, sweep) in zip(axes, sweeps.items(), strict=True):
        cases = sorted(
            (case for case in sweep["cases"] if not case["graphs"]), key=lambda case: case["bytes"]
        )
        for axis, pass_ in zip(row, ("forward", "backward"), strict=True):
            for name, style in STYLES.items():
                points = _points(cases, name, pass_, "gigabytes_per_second")
                if points:
                    axis.plot(*zip(*points, strict=True), **style)
            ceiling = [(case["bytes"], case["copy"]["gigabytes_per_second"]) for case in cases]
            axis.plot(*zip(*ceiling, strict=True), **COPY)
            axis.set(title=f"{DEVICE_NAMES[device_type]}, {pass_}", xlabel=f"input, {cases[0]['dtype']}")
            _log_scales(axis)
            axis.xaxis.set_major_formatter(EngFormatter("B"))
        row[0].set_ylabel("GB/s on model bytes")
    names = [
        name for name in STYLES if any(_has(sweep, name, "gigabytes_per_second") for sweep in sweeps.values())
    ]
    _legend(figure, {name: STYLES[name] for name in names} | {"copy": COPY})
    return figure


def draw_latency(sweeps: Mapping[str, Record]) -> "Figure":
    """Microseconds of forward + backward for launch-bound sizes."""
    figure, axes = _panels(1, len(sweeps))
    for axis, (device_type, sweep) in zip(axes[0], sweeps.items(), strict=True):
        small = [
            case
            for case in sweep["cases"]
            if case["bytes"] <= 4 * LATENCY_ELEMENTS and case["shape"][0] == 256
        ]
        for graphs, line in ((False, "-"), (True, ":")):
            cases = sorted(
                (case for case in small if case["graphs"] == graphs), key=lambda case: case["bytes"]
            )
            for name, style in STYLES.items():
                points = _points(cases, name, BOTH, "median")
                if points:
                    sizes, seconds = zip(*points, strict=True)
                    axis.plot(sizes, [1e6 * value for value in seconds], **style | {"linestyle": line})
        eager = sorted({(case["bytes"], shape_name(case["shape"])) for case in small})
        axis.set(title=f"{DEVICE_NAMES[device_type]}, forward + backward")
        _log_scales(axis)
        axis.set_xticks([size for size, _ in eager], [shape.replace("x", "×") for _, shape in eager])
        axis.set_xlabel(
            "input; dotted: in a CUDA graph" if any(case["graphs"] for case in small) else "input"
        )
    axes[0][0].set_ylabel("µs")
    names = [name for name in STYLES if any(_has(sweep, name, "median") for sweep in sweeps.values())]
    _legend(figure, {name: STYLES[name] for name in names})
    return figure


def draw_memory(case: Record) -> "Figure":
    """Bytes per element that the forward of each peer keeps for its backward."""
    from matplotlib.figure import Figure

    size = case["bytes"] // _elements(case)
    kept = {
        peer["name"]: peer["saved_bytes"] / _elements(case)
        for peer in case["peers"]
        if peer["saved_bytes"] is not None and peer["name"] in STYLES
    }
    names = [name for name in reversed(STYLES) if name in kept]
    figure = Figure(figsize=(6.4, 0.42 * len(names) + 1.1), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(names, [kept[name] for name in names], color=[STYLES[name]["color"] for name in names])
    axis.bar_label(bars, [f"{kept[name]:.2f}" for name in names], padding=3)
    axis.margins(x=0.12)
    shape = shape_name(case["shape"]).replace("x", "×")
    axis.set_xlabel(f"bytes kept an element of {size} bytes ({shape} {case['dtype']})")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _panels(rows: int, columns: int) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.1 * columns, 5.6), 3.1 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(color="#DDDDDD", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log_scales(axis: "Axes") -> None:
    """Logarithmic axes, with ticks at 1, 2 and 5 in each decade of y if there are few decades."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set(xscale="log", yscale="log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for each in (axis.xaxis, axis.yaxis):
        each.set_minor_locator(NullLocator())


def _legend(figure: "Figure", styles: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    columns = 4 if figure.get_figwidth() > 7 else 2  # what fits the width
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False)


def _points(cases: Sequence[Record], name: str, pass_: str, field: str) -> list[tuple[int, float]]:
    """(bytes, figure) of the cases in which a peer has that figure."""
    found = []
    for case in cases:
        for peer in case["peers"]:
            value = peer["passes"].get(pass_, {}).get(field) if peer["name"] == name else None
            if value is not None:
                found.append((case["bytes"], value))
    return found


def _has(sweep: Record, name: str, field: str) -> bool:
    return any(_points(sweep["cases"], name, pass_, field) for pass_ in ("forward", "backward", BOTH))


def _elements(case: Record) -> int:
    count = 1
    for size in case["shape"]:
        count *= size
    return count


def draw(folder: Path, root: Path) -> list[Path]:
    """Draw the figures for which there are results; returns their paths."""
    results: dict[str, Results] = {device_type: load(device_type, folder) for device_type in DEVICE_NAMES}
    sweeps = {
        name: found.sweep
        | {"cases": [case for case in found.sweep["cases"] if is_healthy(case) and not has_bias(case)]}
        for name, found in results.items()
        if found.sweep is not None
    }
    figures: dict[str, Figure] = {}
    if sweeps:
        figures["speed_of_light"] = draw_speed_of_light(sweeps)
        figures["launch_latency"] = draw_latency(sweeps)
    for found in results.values():
        for case in found.cases():
            if tuple(case["shape"]) == MEMORY_SHAPE and "memory" not in figures:
                figures["memory"] = draw_memory(case)
    paths = []
    for name, figure in figures.items():
        paths.append(root / FIGURES / f"{name}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[-1], dpi=DPI, metadata={"Software": None})  # the same bytes for the same results
    return paths
