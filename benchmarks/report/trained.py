"""Commands whose figures show networks that they can train anew: ``--store`` replaces the stored results."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.report import command
from benchmarks.result_files import Record
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.cli.inputs import positive
from jumpstart_kernels.demo.training import one_thread

SCHEMA = 1
DIGITS = 6  # significant ones, more than a picture shows


def main(
    module: str,
    text: str,
    stored: str,
    measure: Callable[[int | None], Record],
    redraw: command.Redraw,
    words: Sequence[str],
) -> int:
    """Parse the words; train and store if they say so; redraw."""
    parser = command.make_parser(module, text)
    parser.add_argument("--store", action="store_true", help=f"train anew, and replace {stored}")
    parser.add_argument("--epochs", type=positive, metavar="N", help="of --store; default: as documented")
    arguments = parser.parse_args(words)
    if arguments.store:
        with one_thread():  # a second one is idle in thin layers
            machine = describe(torch.device("cpu"), ["python", "-m", module, *words])
            record = {"schema": SCHEMA, "machine": machine, **measure(arguments.epochs)}
        arguments.results.mkdir(parents=True, exist_ok=True)
        text = json.dumps(rounded(record), separators=(",", ":"))
        (arguments.results / stored).write_text(text + "\n")
    command.run(arguments, parser, redraw)
    return 0


def rounded(value: Any) -> Any:
    """The same with all floats rounded, so that files are small."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
