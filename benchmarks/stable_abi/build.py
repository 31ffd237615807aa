"""Builds the kernels of ``csrc/cpu`` into a library on the stable ABI, and into an extension like today's."""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from jumpstart_kernels.building import recipe

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
TARGET = (2, 11)  # the oldest torch of pyproject.toml
FLAGS = ["-std=c++17", "-fPIC", *recipe.FLAGS, "-w"]
KERNELS = {name: CSRC / "cpu" / f"kernels_{name}.cpp" for name in recipe.INSTRUCTION_SETS}
# The host code that is compiled as it is for the stable ABI.
HOST = (
    "jumpstart_activation.cpp",
    "layout.cpp",
    "cpu/jumpstart_activation.cpp",
    "cpu/run_forward.cpp",
    "cpu/extrema_gradients.cpp",
    "cpu/instruction_sets.cpp",
)
# The headers of libtorch that it includes: libtorch.h stands in for each.
REPLACED = (
    "ATen/ATen.h",
    "ATen/Dispatch.h",
    "ATen/Parallel.h",
    "ATen/Version.h",
    "ATen/core/Tensor.h",
    "c10/core/ScalarType.h",
    "c10/util/DimVector.h",
    "c10/util/Exception.h",
    "c10/util/SmallVector.h",
)


class Built(NamedTuple):
    """A library, and what it took."""

    path: Path
    seconds: float
    """CPU time of compiler and linker, without the kernels, whose object files all libraries share."""
    bytes: int
    torch_symbols: list[str]
    """What it needs of libtorch and Python."""


def missing() -> str | None:
    """Why nothing can be built here; None if it can."""
    if shutil.which("g++") is None or shutil.which("nm") is None:
        return "it is built with g++ and examined with nm"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "it is built for x86-64"
    header = Path(include_paths()[0]) / "torch" / "csrc" / "stable" / "c" / "shim.h"
    return None if header.is_file() else f"torch {torch.__version__} has no headers of the stable ABI"


def build_kernels(folder: Path, names: Sequence[str] = tuple(KERNELS), level: str = "-O3") -> float:
    """Compile the kernels of these instruction sets; return the CPU time."""
    options = {KERNELS[name]: [f"-I{CSRC}", *recipe.INSTRUCTION_SETS[name], level] for name in names}
    return _compile(options, folder)


def build_stable(folder: Path, kernels: Path, level: str = "-O3") -> Built:
    """The library on the stable ABI, with the kernels in the folder ``kernels``."""
    replaced = folder / "include"
    for name in REPLACED:
        (replaced / name).parent.mkdir(parents=True, exist_ok=True)
        (replaced / name).write_text('#include "libtorch.h"\n')
    # Of torch's folder, which comes last, only headers of the stable ABI are read.
    options = [level, *(f"-I{path}" for path in (replaced, HERE, CSRC, include_paths()[0]))]
    options.append(f"-DTORCH_TARGET_VERSION={TARGET[0] << 56 | TARGET[1] << 48}ULL")
    if len(_objects(kernels)) == 1:
        options.append("-DJUMPSTART_ONLY_DEFAULT")
    sources = [HERE / "kernels.cpp", *(CSRC / name for name in HOST)]
    return _build(folder / "jumpstart_stable.so", sources, options, kernels, ["-ltorch_cpu"])


def build_native(folder: Path, kernels: Path) -> Built:
    """What setup.py builds, file by file, with the same kernels."""
    sources = [path for path in sorted(CSRC.rglob("*.cpp")) if path.parent.name != "cuda"]
    sources = [path for path in sources if path not in KERNELS.values()]
    paths = (CSRC, *include_paths(), sysconfig.get_path("include"))
    options = ["-O3", "-fopenmp", *(f"-I{path}" for path in paths), "-DTORCH_EXTENSION_NAME=_native"]
    libraries = ["-fopenmp", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    return _build(folder / "_native.so", sources, options, kernels, libraries)


def torch_symbols(library: Path) -> list[str]:
    """The undefined symbols of a library without those of the C and C++ runtimes."""
    listed = _output(["nm", "-D", "--undefined-only", "--format=posix", library])
    names = [line.split()[0] for line in listed.splitlines()]
    # Symbols of the runtimes have versions; the others that no library of ours needs are weak.
    return sorted(name for name in names if "@" not in name and not re.match(r"_ITM_|__gmon_start__", name))


def _build(path: Path, sources: list[Path], options: list[str], kernels: Path, libraries: list[str]) -> Built:
    objects = path.with_suffix("")
    seconds = _compile(dict.fromkeys(sources, options), objects)
    folders = [f"-L{folder}" for folder in library_paths()]
    files = [*_objects(objects), *_objects(kernels)]
    seconds += _run(["g++", "-shared", "-s", "-o", path, *files, *folders, *libraries])
    return Built(path, seconds, path.stat().st_size, torch_symbols(path))


def _objects(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.o"))


def _compile(sources: dict[Path, list[str]], folder: Path) -> float:
    """Compile each source with its options; return the CPU time."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> float:
        name = "_".join(source.relative_to(ROOT).with_suffix(".o").parts)
        return _run(["g++", "-c", source, *FLAGS, *sources[source], "-o", folder / name])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return sum(threads.map(compile_one, sources))


def _run(command: Sequence[str | Path]) -> float:
    """Run a command; return its CPU time."""
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def _output(command: Sequence[str | Path]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
