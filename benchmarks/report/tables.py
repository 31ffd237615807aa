"""The stored results as Markdown tables."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import goals
from benchmarks.result_files import (
    DEVICE_NAMES,
    Record,
    Results,
    has_bias,
    is_healthy,
    load,
    optimizer_of,
)
from jumpstart_kernels.bench.cases import BOTH, PASSES, shape_name
from jumpstart_kernels.bench.peers import BIAS_RELU, RELU
from jumpstart_kernels.bench.report import bytes_text, seconds_text

PEERS = {  # name in the results: heading
    "JumpstartReLU native": "Jumpstart native",
    "JumpstartReLU triton": "Jumpstart triton",
    "plain PyTorch, compiled": "plain PyTorch, compiled",
    "plain PyTorch": "plain PyTorch",
    f"{BIAS_RELU}, compiled": "bias + ReLU, compiled",
    "BatchNorm + nn.ReLU": "BatchNorm + ReLU",
    "authors' code": "authors' code",
}


def make_tables(folder: Path) -> dict[str, str]:
    """Markdown by the name of its markers: the goals, and whatever was measured."""
    found = {"goals": goal_table(folder)}
    for device_type in DEVICE_NAMES:
        results = load(device_type, folder)
        makers: dict[str, Callable[[Results], str]] = {
            "machine": machine_line,
            "ratios": ratio_table,
            "operator": operator_table,
            "bias": bias_table,
            "linked": linked_table,
            "memory": memory_table,
            "steps": step_table,
            "kernels": kernel_table,
        }
        for name, make in makers.items():
            measured = {
                "machine": results.machine(),
                "steps": results.steps,
                "kernels": results.kernels,
                "bias": results.cases(bias=True) or None,
                "linked": results.linked,
            }.get(name, results.operator)
            if measured is not None:
                found[f"{name}-{device_type}"] = make(results)
    return found


def machine_line(results: Results) -> str:
    """The machine, the versions and the commit of the results."""
    machine = results.machine()
    assert machine is not None  # only called with results
    return _described(machine)


def _described(machine: Record) -> str:
    commit = (machine["git"] or "unknown commit")[:10] + (" with changes" if machine["git_dirty"] else "")
    parts = [machine["device"]]
    if machine["device_type"] == "cpu":
        parts.append(f"{machine['cpu_capability']}, {machine['threads']} threads")
    else:
        parts.append(f"CUDA {machine['cuda']}, triton {machine['triton']}")
    return f"{', '.join(parts)}, torch {machine['torch']}, Python {machine['python']}; {commit}."


def ratio_table(results: Results) -> str:
    """Forward + backward relative to ``nn.ReLU``, contiguous; float32 on the CPU, bfloat16 on a GPU.

    The last row is the first case with a bias, relative to bias + ``nn.ReLU``.
    """
    dtype = "float32" if _device_type(results) == "cpu" else "bfloat16"
    cases, with_bias = (
        [
            case
            for case in results.cases(bias=bias)
            if case["layout"] == "contiguous" and is_healthy(case) and case["dtype"] == dtype
        ]
        for bias in (False, True)
    )
    names = _present(cases)
    rows = []
    for case in [*cases, *with_bias[:1]]:
        reference = f" ({BIAS_RELU})" if has_bias(case) else ""
        time = _time(case, _reference(case), BOTH) + reference
        rows.append([_input(case), time, *(_ratio(case, name, BOTH) for name in names)])
    return _markdown(["input", "`nn.ReLU`", *(PEERS[name] for name in names)], rows)


def operator_table(results: Results) -> str:
    """Every case with the times of ``nn.ReLU`` and the ratios of each peer, by pass."""
    return _table_of(results.cases())


def bias_table(results: Results) -> str:
    """The same of every case with a bias, relative to bias + ``nn.ReLU``.

    Below the machine and the commit, where these are not those of the other results.
    """
    table = _table_of(results.cases(bias=True))
    if results.bias is None:
        return table
    described = _described(results.bias["machine"])
    return table if described == machine_line(results) else f"{described}\n\n{table}"


def linked_table(results: Results) -> str:
    """Linked activations, relative to ``cat(g(x), g(−x))`` in PyTorch: of every activation and case."""
    assert results.linked is not None  # only called with results
    kinds = {"Linked": "linked", "JumpstartLinked": "linked, with penalty", "compiled": "compiled"}

    def kind_of(name: str) -> str | None:
        if name.endswith(", compiled"):
            return "compiled"
        word = name.partition(" ")[0]
        return next((kind for kind in ("JumpstartLinked", "Linked") if word.startswith(kind)), None)

    def row(case: Record) -> list[str]:
        plain = case["peers"][0]["name"]
        cells = [f"`{plain}`", _input(case), case["dtype"], case["layout"], _time(case, plain, BOTH)]
        for kind in kinds:
            found = [peer["name"] for peer in case["peers"] if kind_of(peer["name"]) == kind]
            cells.append(", ".join(_ratio(case, name, BOTH) for name in found))
        return cells

    header = ["in PyTorch", "input", "dtype", "layout", "time", *kinds.values()]
    table = _markdown(header, map(row, results.linked["cases"]))
    return f"{_described(results.linked['machine'])}\n\n{table}"


def _table_of(cases: list[Record]) -> str:
    """Cases that are all without, or all with a bias."""
    names, reference = _present(cases), _reference(cases[0]) if cases else RELU
    header = ["input", "dtype", "layout", "copy", f"`{reference}`", *(PEERS[name] for name in names)]
    passes = [name for name in PASSES if any(_time(case, reference, name) for case in cases)]

    def row(case: Record) -> list[str]:
        cells = [_input(case, with_bias=False), case["dtype"], case["layout"]]
        cells.append(seconds_text(case["copy"]["median"]))
        cells.append(" / ".join(_time(case, reference, each) or "-" for each in passes))
        for name in names:
            ratios = [_ratio(case, name, each) for each in passes]
            cells.append(" / ".join(ratio or "-" for ratio in ratios) if any(ratios) else "")
        return cells

    return _markdown(header, map(row, cases))


def memory_table(results: Results) -> str:
    """Bytes that the forward keeps for the backward, for the first dtype of every shape."""
    names = [RELU, *_present(results.cases())]
    seen: set[tuple[int, ...]] = set()
    rows = []
    for case in results.cases():
        if tuple(case["shape"]) not in seen and not case["graphs"]:
            seen.add(tuple(case["shape"]))
            kept = {peer["name"]: bytes_text(peer["saved_bytes"]) for peer in case["peers"]}
            rows.append([f"{_input(case)} {case['dtype']}", *(kept.get(name, "") for name in names)])
    return _markdown(["input", *(PEERS.get(name, f"`{name}`") for name in names)], rows)


def step_table(results: Results) -> str:
    """Training steps: the time of the plain network, and the ratios of the others to it."""
    rows = []
    for record in results.networks():
        plain, *others = record["variants"]
        figures = [
            f"{other['name']} {'wrong' if other['step'] is None else format(other['step']['ratio'], '.2f')}"
            for other in others
        ]
        rows.append(
            [
                record["network"],
                record["mode"]
                if optimizer_of(record) == "sgd"
                else f"{record['mode']}, {optimizer_of(record)}",
                f"{shape_name(record['input'])} {record['dtype']}",
                "" if plain["step"] is None else seconds_text(plain["step"]["median"]),
                "; ".join(figures),
                "; ".join(
                    f"{each['name']} {bytes_text(each['peak_bytes'])}"
                    for each in record["variants"]
                    if each["peak_bytes"] is not None
                ),
            ]
        )
    return _markdown(["network", "mode", "batch", "plain", "ratio to plain", "peak memory"], rows)


# Part of a kernel's name: its name in the table. The first match counts.
KERNEL_PARTS = {
    "bias_backward": "bias gradient",  # CUDA's name, and Triton's
    "backward_bias": "bias gradient",
    # jumpstart_relu in result files from before the operator took an activation
    "statistics": "merge",
    "penalty_backward": "penalty's backward",
    "penalty": "penalty",
    "jumpstart_activation_backward": "backward",
    "jumpstart_activation_forward": "forward",
    "jumpstart_relu_backward": "backward",
    "jumpstart_relu_forward": "forward",
}


def kernel_part(kernel: str) -> str:
    """A kernel's name in the table."""
    return next((name for key, name in KERNEL_PARTS.items() if key in kernel), "PyTorch's")


def kernel_table(results: Results) -> str:
    """Microseconds of a forward and backward by kernel; PyTorch's own kernels are summed."""
    assert results.kernels is not None  # only called with results
    cases = results.kernels["cases"]
    names = [peer["name"] for peer in cases[0]["peers"]]

    def cell(peer: Record) -> str:
        parts: dict[str, float] = {}
        for kernel in peer["kernels"]:
            part = kernel_part(kernel["kernel"])
            parts[part] = parts.get(part, 0.0) + 1e6 * kernel["launches"] * kernel["median"]
        named = peer["name"] not in (RELU, BIAS_RELU)
        return " + ".join(f"{part} {time:.3g}" if named else f"{time:.3g}" for part, time in parts.items())

    return _markdown(
        ["input", "dtype", "layout", *(PEERS.get(name, f"`{name}`") for name in names)],
        (
            [
                _input(case),
                case["dtype"],
                case["layout"],
                *(cell(peer) for peer in case["peers"]),
            ]
            for case in cases
        ),
    )


def goal_table(folder: Path) -> str:
    return _markdown(
        ["device", "ratio to `nn.ReLU`, or as stated", "goal", "measured", "result"], goals.rows(folder)
    )


def _markdown(header: list[str], rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(_lines(header, rows))


def _lines(header: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _present(cases: list[Record]) -> list[str]:
    there = {peer["name"] for case in cases for peer in case["peers"]}
    return [name for name in PEERS if name in there]


def _reference(case: Record) -> str:
    """What the ratios of a case refer to."""
    return BIAS_RELU if has_bias(case) else RELU


def _input(case: Record, with_bias: bool = True) -> str:
    options = ["with a bias"] if with_bias and has_bias(case) else []
    options += [] if is_healthy(case) else [case["health"]]
    options += ["CUDA graph"] if case.get("graphs") else []
    return ", ".join([shape_name(case["shape"]).replace("x", "×"), *options])


def _time(case: Record, name: str, pass_: str) -> str:
    figures = _figures(case, name, pass_)
    return "" if figures is None else seconds_text(figures["median"])


def _ratio(case: Record, name: str, pass_: str) -> str:
    figures = _figures(case, name, pass_)
    return "" if figures is None or figures["ratio"] is None else f"{figures['ratio']:.2f}"


def _figures(case: Record, name: str, pass_: str) -> Record | None:
    return next((peer["passes"].get(pass_) for peer in case["peers"] if peer["name"] == name), None)


def _device_type(results: Results) -> str:
    machine = results.machine()
    return "cpu" if machine is None else machine["device_type"]
