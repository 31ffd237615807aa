"""Runs the command line, in this process or as a subprocess."""

import os
import subprocess
import sys
from pathlib import Path

import jumpstart_kernels
from jumpstart_kernels import cli


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command line."""
    try:
        status = cli.main(arguments)
    except SystemExit as exit:
        status = exit.code
    return status, *capsys.readouterr()


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    root = str(Path(jumpstart_kernels.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "jumpstart_kernels", *arguments],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
