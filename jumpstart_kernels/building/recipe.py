"""How ``csrc/`` becomes the extension: for the CPU, and for CUDA where nvcc and a CUDA torch are.

``setup.py`` loads this file by its path, and a build at first use runs it as a program, so it imports nothing
of the package.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CSRC = Path("csrc")
NAME = "jumpstart_kernels._native"
RECORD = "_native.json"
# Contracted to fused multiply-adds, sums and gradients would depend on the instruction set.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off", "-Wall"]
# Off: what the compiler says of its own AVX-512 header, and of vectors wider than the target's.
KERNEL_WARNINGS = ["-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-psabi"]
# The CPU kernels, one file per instruction set. Functions that they share are always inlined, so that none
# compiled for a newer processor is linked into the kernels for an older one.
INSTRUCTION_SETS: dict[str, list[str]] = {"default": [], "avx2": [], "avx512": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["default"] = ["-O1"]  # half the time; for processors of before AVX2, from 2013
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = [
        *INSTRUCTION_SETS["avx2"],
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
    ]
# Without fused multiply-adds: gradients are the reference's to the bit.
CUDA_FLAGS = ["-O3", "-lineinfo", "-fmad=false"]
ARCHITECTURES = (80, 90, 100)  # and by PTX those that come after
BYTES_A_COMPILER = 2**30  # what g++ takes for a file with torch's headers


def extension_arguments(failed: Callable[[Exception], None] | None = None) -> dict[str, Any]:
    """What ``setuptools.setup`` needs to build the extension of the sources in the working directory.

    Args:
        failed: called with what went wrong if the extension cannot be built, and nothing is; by default the
            error is raised.

    Raises:
        ImportError: torch or setuptools cannot be imported.
    """
    import torch

    home = find_cuda_home()
    if home is not None:
        os.environ["CUDA_HOME"] = str(home)  # which PyTorch reads when this is imported:
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    kernels = [CSRC / "cpu" / f"kernels_{name}.cpp" for name in INSTRUCTION_SETS]
    cuda_sources = [*sorted((CSRC / "cuda").glob("*.cpp")), *sorted((CSRC / "cuda").glob("*.cu"))]
    sources = [path for path in sorted(CSRC.rglob("*.cpp")) if path not in kernels + cuda_sources]
    cuda = home is not None and fits_cuda(home / "bin" / "nvcc", torch.version.cuda)
    macros, cuda_flags = [], []
    if home is not None and cuda:
        sources += cuda_sources
        macros = [("JUMPSTART_CUDA_VERSION", f'"{torch.version.cuda}"')]
        cuda_flags = CUDA_FLAGS + architecture_flags(home / "bin" / "nvcc")

    class Build(BuildExtension):
        extensions: list[Any]

        def build_extensions(self) -> None:
            try:
                for extension in self.extensions:
                    extension.extra_objects += self.compile_kernels()
                    extension.sources = combine(extension.sources, Path(self.build_temp))
                super().build_extensions()
                for extension in self.extensions:
                    built = Path(self.get_ext_fullpath(extension.name))
                    record = {"torch": torch.__version__, "cuda": torch.version.cuda if cuda else None}
                    built.with_name(RECORD).write_text(json.dumps(record) + "\n")
            except Exception as error:
                if failed is None:
                    raise
                failed(error)
                self.extensions = []

        def compile_kernels(self) -> list[str]:
            def compile_one(source: Path, flags: list[str]) -> list[str]:
                return self.compiler.compile(
                    [str(source)],
                    output_dir=self.build_temp,
                    include_dirs=[str(CSRC)],
                    extra_postargs=["-std=c++17", "-fPIC", *FLAGS, *KERNEL_WARNINGS, *flags],
                )

            with ThreadPoolExecutor(worker_count()) as threads:  # each takes minutes
                compiled = list(threads.map(compile_one, kernels, INSTRUCTION_SETS.values()))
            return [each for objects in compiled for each in objects]

        def copy_extensions_to_source(self) -> None:
            """With --inplace."""
            super().copy_extensions_to_source()
            for extension in self.extensions:
                built = Path(self.build_lib, *extension.name.split(".")).with_name(RECORD)
                there = Path(self.get_ext_fullpath(extension.name)).with_name(RECORD)
                self.copy_file(str(built), str(there))

        def get_outputs(self) -> list[str]:
            outputs = super().get_outputs()
            return [*outputs, *{str(Path(path).with_name(RECORD)) for path in outputs}]

    os.environ.setdefault("MAX_JOBS", str(worker_count()))  # what BuildExtension gives to ninja
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    extension = (CUDAExtension if cuda else CppExtension)(
        NAME,
        [str(source) for source in sources],
        include_dirs=[str(CSRC.resolve())],
        define_macros=macros,
        depends=[str(header) for header in [*sorted(CSRC.rglob("*.h")), *sorted(CSRC.rglob("*.cuh"))]],
        extra_compile_args={"cxx": FLAGS + openmp, "nvcc": cuda_flags},
        extra_link_args=openmp,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


def combine(sources: list[str], temporary: Path) -> list[str]:
    """One file for the C++ of each folder: PyTorch's headers take longer to compile than the rest."""
    temporary.mkdir(parents=True, exist_ok=True)
    combined = [path for path in sources if not path.endswith(".cpp")]
    host = [Path(path) for path in sources if path.endswith(".cpp")]
    for folder in sorted({path.parent for path in host}):
        file = temporary / f"{'_'.join(folder.parts)}.cpp"
        file.write_text("".join(f'#include "{path.resolve()}"\n' for path in host if path.parent == folder))
        combined.append(str(file))
    return combined


def worker_count() -> int:
    """How many compilers run at once: one a core that this process may use, as far as memory goes."""
    if os.environ.get("MAX_JOBS", "").isdigit():
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not known here
        return cores
    return max(1, min(cores, memory // BYTES_A_COMPILER))


def find_cuda_home() -> Path | None:
    """The CUDA toolkit: ``CUDA_HOME``, that of the nvcc on the PATH, or the usual one.

    PyTorch takes the first of these that exists; where nvcc is a script or a package without headers, nothing
    would compile.
    """
    given, on_path = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"), shutil.which("nvcc")
    places = [given] if given else [on_path and Path(on_path).resolve().parents[1], "/usr/local/cuda"]
    for home in (Path(place) for place in places if place):
        if (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime.h").is_file():
            return home
    return None


def fits_cuda(nvcc: Path, torch_cuda: str | None) -> bool:
    """Whether this nvcc compiles for this build of torch: PyTorch refuses another major version."""
    if torch_cuda is None:
        return False
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.", text)
    return release is not None and release[1] == torch_cuda.partition(".")[0]


def architecture_flags(nvcc: Path) -> list[str]:
    """What nvcc compiles for, unless TORCH_CUDA_ARCH_LIST says it."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = {int(number) for number in re.findall(r"compute_(\d+)", listed)}
    chosen = [number for number in ARCHITECTURES if number in known]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen]
    return [*flags, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]


def end_with(parent: int) -> None:
    """End this process and its compilers once its parent has: one that was killed could not do so itself."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Build the sources in the working directory into the first folder, by way of the second."""
    output, temporary = sys.argv[1:]
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    from setuptools import Distribution

    distribution = Distribution({"name": "jumpstart_kernels", **extension_arguments()})
    command = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = output, temporary
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    main()
