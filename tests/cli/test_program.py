"""The program as a whole, and ``info``."""

import importlib.metadata
import re
import shutil
import types
from pathlib import Path

import pytest
import torch
from cli_runs import program, run

import jumpstart_kernels
from jumpstart_kernels.building import cache
from jumpstart_kernels.ops import backends, native


def test_the_program_prints_its_version():
    result = program("--version")
    assert (result.returncode, result.stdout) == (0, f"jumpstart_kernels {jumpstart_kernels.__version__}\n")


def test_the_program_ends_with_status_2_and_one_line_on_a_mistake(tmp_path):
    result = program("usage", "--model", "missing.py:f", "--data", "wine")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --model: there is no file missing.py\n"


def test_no_command_is_a_mistake(capsys):
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    assert "the following arguments are required: command" in err


def test_info_says_what_is_here(capsys):
    status, out, err = run(capsys, "info")
    assert (status, err) == (0, "")
    assert f"jumpstart_kernels  {jumpstart_kernels.__version__}, " in out
    assert f"in {cache.PACKAGE}\n" in out
    assert f"cache              {cache.cache_folder()}\n" in out
    assert f"torch              {torch.__version__}, with" in out
    for backend in backends.BACKENDS:
        reason = backends.unavailable(backend, "cpu")
        state = f"unavailable: {reason}" if reason else "available"
        assert re.search(rf"^{backend} +cpu +{re.escape(state)}", out, re.MULTILINE)
        assert re.search(rf"^{backend} +cuda +(un)?available", out, re.MULTILINE)
    assert len(re.findall(r"^\w+ +cpu +available, in use$", out, re.MULTILINE)) == 1
    assert re.search(r"^torchmetrics +\d", out, re.MULTILINE)


def test_info_says_how_to_get_what_is_missing(capsys, monkeypatch):
    def nothing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    for name in ("version", "distribution"):
        monkeypatch.setattr(importlib.metadata, name, nothing)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(native, "_extension", None)
    monkeypatch.setattr(native, "_missing", "is not built")
    monkeypatch.setattr(backends, "_resolved", {})
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert f"jumpstart_kernels  {jumpstart_kernels.__version__}, not installed, in" in out
    assert "native extension   is not built\n" in out
    assert "ninja              not found" in out
    assert "C++ compiler       no C++ compiler is found: install g++ or clang++" in out
    assert re.search(r"^native +cpu +unavailable: .*install g\+\+ or clang\+\+", out, re.MULTILINE)
    assert re.search(r"^rich +not installed: pip install rich", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("cuda_version", "openmp", "expected"),
    [
        ("12.8", True, "threaded by OpenMP, with CUDA 12.8"),
        (None, False, "without OpenMP: one thread, without CUDA"),
    ],
)
def test_info_says_how_the_extension_is_built(capsys, monkeypatch, cuda_version, openmp, expected):
    extension = types.SimpleNamespace(
        __file__="/somewhere/else/_native.so",
        cuda_version=cuda_version,
        openmp=openmp,
        instruction_set=lambda: "avx2",
        instruction_sets=lambda: ["avx512", "avx2", "default"],
    )
    monkeypatch.setattr(native, "_extension", extension)
    out = run(capsys, "info")[1]
    expected += f", built at first use into {Path('/somewhere/else')}"
    assert f"native extension   {expected}\ninstruction set    avx2 of avx512, avx2, default\n" in out


def test_info_runs_where_the_backend_asked_for_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(native, "_extension", None)
    monkeypatch.setattr(backends, "_chosen", "native")
    monkeypatch.setattr(backends, "_resolved", {})
    monkeypatch.setenv("JUMPSTART_BACKEND", "native")
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "JUMPSTART_BACKEND  native\n" in out
    assert "in use" not in out
