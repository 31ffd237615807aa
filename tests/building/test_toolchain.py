"""What an extension is built with, and which torch it fits."""

import json

import pytest
import torch

from jumpstart_kernels.building import recipe, toolchain


@pytest.fixture
def extension(tmp_path):
    """``extension(torch, cuda)``: a file recorded as built for these."""

    def write(torch_version: str, cuda: str | None):
        (tmp_path / recipe.RECORD).write_text(json.dumps({"torch": torch_version, "cuda": cuda}))
        return tmp_path / "_native.so"

    return write


@pytest.mark.parametrize("cuda", [None, "13.0"])
@pytest.mark.parametrize("here", ["2.13.0+cpu", "2.13.0+cu130", "2.13.0"])
def test_an_extension_fits_every_build_of_its_torch(extension, monkeypatch, here, cuda):
    monkeypatch.setattr(torch, "__version__", here)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert toolchain.find_misfit(extension("2.13.0+cpu", cuda)) is None


@pytest.mark.parametrize("here", ["2.13.1", "2.14.0+cpu", "2.1.0", "2.13.0a0+git1"])
def test_an_extension_fits_no_other_torch(extension, monkeypatch, here):
    monkeypatch.setattr(torch, "__version__", here)
    misfit = toolchain.find_misfit(extension("2.13.0+cpu", None))
    assert misfit == f"is built for torch 2.13.0+cpu, and here is {here}"


@pytest.mark.parametrize("here", [None, "12.8"])
def test_an_extension_with_cuda_fits_no_other_cuda(extension, monkeypatch, here):
    monkeypatch.setattr(torch.version, "cuda", here)
    misfit = toolchain.find_misfit(extension(torch.__version__, "13.0"))
    assert misfit == f"is built for CUDA 13.0, and torch here for {here}"


def test_an_extension_of_which_nothing_is_recorded_is_tried(tmp_path):
    assert toolchain.find_misfit(tmp_path / "_native.so") is None
    assert not toolchain.lacks_cuda(tmp_path / "_native.so")


@pytest.mark.parametrize(
    ("built", "here", "lacks"), [(None, True, True), ("13.0", True, False), (None, False, False)]
)
def test_an_extension_lacks_cuda_where_it_could_have_it(extension, monkeypatch, built, here, lacks):
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: "/cuda/bin/nvcc" if here else None)
    assert toolchain.lacks_cuda(extension(torch.__version__, built)) == lacks


def make_program(path, text="exit 0"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_compiler_is_the_one_that_is_named(tmp_path, monkeypatch):
    default, named = make_program(tmp_path / "c++"), make_program(tmp_path / "clang++-19")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.find_compiler() == default
    monkeypatch.setenv("CXX", "clang++-19 -pipe")
    assert toolchain.find_compiler() == named
    monkeypatch.setenv("CXX", "g++-4")
    assert toolchain.find_compiler() is None
    assert toolchain.find_obstacle() == "the C++ compiler 'g++-4', which CXX names, is not found"


def test_without_a_compiler_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.find_obstacle() == "no C++ compiler is found: install g++ or clang++"


def test_nvcc_is_looked_for_where_torch_is_built_for_cuda(tmp_path, monkeypatch):
    nvcc = make_program(tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert toolchain.find_nvcc() is None  # without headers
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert toolchain.find_nvcc() == nvcc
    monkeypatch.setattr(torch.version, "cuda", None)
    assert toolchain.find_nvcc() is None


def test_nvcc_may_be_a_link_into_the_toolkit(tmp_path, monkeypatch):
    toolkit, on_path = tmp_path / "cuda-13.0", tmp_path / "bin"
    nvcc = make_program(toolkit / "bin" / "nvcc")
    (toolkit / "include").mkdir()
    (toolkit / "include" / "cuda_runtime.h").touch()
    on_path.mkdir()
    (on_path / "nvcc").symlink_to(nvcc)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert toolchain.find_nvcc() == nvcc


@pytest.mark.parametrize(
    ("release", "cuda", "fits"),
    [("13.0", "13.2", True), ("13.0", "12.8", False), ("1.3", "13.0", False), ("13.0", None, False)],
)
def test_nvcc_must_be_of_the_major_version_of_torch(tmp_path, release, cuda, fits):
    nvcc = tmp_path / "nvcc"
    make_program(nvcc, f"echo 'Cuda compilation tools, release {release}, V{release}.88'")
    assert recipe.fits_cuda(nvcc, cuda) == fits


def test_no_more_compilers_run_than_fit_into_memory(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(recipe.os, "sched_getaffinity", lambda _: range(64), raising=False)
    pages = {"SC_AVPHYS_PAGES": 3 * recipe.BYTES_A_COMPILER // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(recipe.os, "sysconf", pages.__getitem__)
    assert recipe.worker_count() == 3
    pages["SC_AVPHYS_PAGES"] = 1
    assert recipe.worker_count() == 1
    monkeypatch.setenv("MAX_JOBS", "7")
    assert recipe.worker_count() == 7


def test_an_unknown_setting_is_an_error(monkeypatch):
    monkeypatch.setenv("JUMPSTART_BUILD", "no")
    with pytest.raises(
        ValueError, match="JUMPSTART_BUILD must be one of 'auto', 'never', 'require', got 'no'"
    ):
        toolchain.build_setting()
