"""What is compiled ahead is found: by another process, in another folder, in a launch."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.report.documents import ROOT

pytest.importorskip("triton", reason="its kernels are compiled")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")

from benchmarks.gpu_package.__main__ import pack, sums  # noqa: E402


def run(task, cache, folder):
    """Kernels found and kernels compiled by ``ahead_runs.py``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    program = [sys.executable, str(ROOT / "tests" / "ahead_runs.py"), task]
    done = subprocess.run(program, env=environment, cwd=folder, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stderr
    found, compiled = map(int, done.stdout.split())
    return found, compiled


def unpack(folder):
    """What ``gpu.sh`` says when it has unpacked the package that is in ``build/gpu`` of a folder."""
    (folder / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu.sh", folder / "benchmarks")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OUT": str(folder / "out"),
    }
    words = ["bash", folder / "benchmarks" / "gpu.sh", "--seconds", "21", "info"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture
def prepared(tmp_path):
    """A folder to be packed, without kernels."""
    folder = tmp_path / "prepared"
    for name in ("extension", "triton"):
        (folder / name).mkdir(parents=True)
    (folder / "extension" / "_native.json").write_text("{}")
    (folder / "sources.sha256").touch()
    (folder / "triton" / "empty").touch()
    return folder


def test_a_packed_cache_is_found_from_elsewhere(prepared, tmp_path):
    copy = tmp_path / "copy"
    found, compiled = run("compile", prepared / "triton", ROOT)
    assert compiled >= 6
    older = prepared / "triton" / "OLDER" / "kernel.cubin"
    older.parent.mkdir()
    older.touch()
    os.utime(older, (0, 0))
    assert pack(prepared, copy / "build" / "gpu" / "package.tar.xz", since=1) == compiled
    shutil.rmtree(prepared)
    said = unpack(copy)
    assert f"{compiled} kernels of Triton, extension: of other sources" in said
    assert f"Triton: {compiled} kernels were there, 0 compiled" in said
    assert run("launch", copy / "build" / "gpu" / "triton", tmp_path) == (found + compiled, 0)


@pytest.mark.parametrize("changed", [False, True])
def test_the_extension_is_used_only_with_its_sources(prepared, changed, tmp_path):
    copy = tmp_path / "copy"
    for name in ("csrc/relu.h", "jumpstart_kernels/building/recipe.py"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_text(name)
    (prepared / "sources.sha256").write_text(sums(copy))
    assert sums(copy).splitlines()[0] == f"{hashlib.sha256(b'csrc/relu.h').hexdigest()}  csrc/relu.h"
    pack(prepared, copy / "build" / "gpu" / "package.tar.xz")
    if changed:
        (copy / "csrc" / "relu.h").write_text("other")
    said = unpack(copy)
    assert ("extension: of other sources" if changed else "extension: prepared") in said
    assert (copy / "jumpstart_kernels" / "_native.json").exists() is not changed


def test_a_damaged_package_is_not_used(prepared, tmp_path):
    package = tmp_path / "copy" / "build" / "gpu" / "package.tar.xz"
    pack(prepared, package)
    package.write_bytes(package.read_bytes()[:100])
    said = unpack(tmp_path / "copy")
    assert "damaged: it is not used" in said and "kernels were there" not in said
    assert not (package.parent / "triton").exists()
