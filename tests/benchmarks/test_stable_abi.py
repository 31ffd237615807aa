"""``benchmarks/stable_abi``: the kernels build on the stable ABI, and give the bits of the extension."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.stable_abi import __main__ as experiment
from benchmarks.stable_abi.build import ROOT, build_kernels, build_stable, missing
from benchmarks.stable_abi.check import make_cases
from jumpstart_kernels.ops import native


def test_the_library_has_the_bits_of_the_extension(tmp_path):
    reason = native.unavailable() or missing()
    if reason is not None:
        pytest.skip(f"the kernels on the stable ABI are compared with the extension's: {reason}")
    kernels = tmp_path / "kernels"
    build_kernels(
        kernels, ["default"], "-O0"
    )  # the one set that every processor has; optimized, it takes minutes
    built = build_stable(tmp_path, kernels, "-O0")
    symbols = experiment.describe_build(built)["symbols"]
    assert symbols["stable ABI"] > 0 and symbols["Python"] == symbols["other libtorch"] == 0
    # In a process of its own, which keeps what it registers.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stable_abi.check", str(built.path)],
        cwd=ROOT,
        env={**os.environ, "JUMPSTART_CPU": "default"},
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["cases"] == len(make_cases()) and found["differences"] == []


def test_the_page_has_the_stored_figures():
    results = json.loads((ROOT / "benchmarks" / "results" / "stable_abi.json").read_text())
    assert experiment.make_table(results) in (ROOT / "docs" / "stable_abi.md").read_text()
