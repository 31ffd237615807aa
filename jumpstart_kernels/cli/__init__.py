"""The command line, ``python -m jumpstart_kernels``: one file per command."""

import argparse
import os
import sys
from collections.abc import Sequence

import jumpstart_kernels
from jumpstart_kernels.cli.bench import add_bench
from jumpstart_kernels.cli.build import add_build
from jumpstart_kernels.cli.demo import add_demo
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.info import add_info
from jumpstart_kernels.cli.prune import add_prune
from jumpstart_kernels.cli.usage import add_usage


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, from which the documentation lists the options."""
    parser = argparse.ArgumentParser(
        prog="python -m jumpstart_kernels",
        description="Jumpstart regularization for plain deep ReLU networks, at the cost of a ReLU.",
    )
    version = f"jumpstart_kernels {jumpstart_kernels.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="command", required=True)
    for add_command in (add_info, add_build, add_usage, add_prune, add_demo, add_bench):
        add_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments``, by default ``sys.argv``; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parsed = build_parser().parse_args(words, argparse.Namespace(words=words))
    try:
        status = parsed.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CommandError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
