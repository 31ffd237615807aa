"""Builds csrc/ into ``jumpstart_kernels._native``: for the CPU, and for CUDA where nvcc and a CUDA torch are.

Where no extension can be built, the package installs without it: its other backends need no compiler, and
``python -m jumpstart_kernels info`` says what is missing. Metadata is in pyproject.toml.
"""

import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools

OLDEST_SETUPTOOLS = 77  # as in pyproject.toml, which says the license by its SPDX name
CSRC = Path("csrc")
# Contracted to fused multiply-adds, sums and gradients would depend on the instruction set.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off", "-Wall"]
# Off: what the compiler says of its own AVX-512 header, and of vectors wider than the target's.
KERNEL_WARNINGS = ["-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-psabi"]
# The CPU kernels, one file per instruction set. Functions that they share are always inlined, so that none
# compiled for a newer processor is linked into the kernels for an older one.
INSTRUCTION_SETS = {"default": [], "avx2": [], "avx512": []}
if platform.machine() in ("x86_64", "AMD64"):
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


def extension_arguments() -> dict:
    """What setup() needs to build the extension; nothing where torch is not there to build against."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        return without_extension(f"torch cannot be imported ({error})")

    kernels = [CSRC / "cpu" / f"kernels_{name}.cpp" for name in INSTRUCTION_SETS]
    cuda_sources = [*sorted((CSRC / "cuda").glob("*.cpp")), *sorted((CSRC / "cuda").glob("*.cu"))]
    sources = [path for path in sorted(CSRC.rglob("*.cpp")) if path not in kernels + cuda_sources]
    nvcc = Path(CUDA_HOME or "") / "bin" / "nvcc"
    cuda = torch.version.cuda is not None and nvcc.exists()
    macros, cuda_flags = [], []
    if cuda:
        sources += cuda_sources
        macros = [("JUMPSTART_CUDA_VERSION", f'"{torch.version.cuda}"')]
        cuda_flags = CUDA_FLAGS + architecture_flags(nvcc)

    class Build(BuildExtension):
        def build_extensions(self) -> None:
            try:
                for extension in self.extensions:
                    extension.extra_objects += self.compile_kernels()
                super().build_extensions()
            except Exception as error:
                if os.environ.get("JUMPSTART_REQUIRE_NATIVE") == "1":
                    raise
                without_extension(str(error))
                for older in Path("jumpstart_kernels").glob("_native*.so"):
                    older.unlink()  # an editable install would load it
                self.extensions = []

        def compile_kernels(self) -> list[str]:
            def compile_one(source: Path, flags: list[str]) -> list[str]:
                return self.compiler.compile(
                    [str(source)],
                    output_dir=self.build_temp,
                    include_dirs=[str(CSRC)],
                    extra_postargs=["-std=c++17", "-fPIC", *FLAGS, *KERNEL_WARNINGS, *flags],
                )

            with ThreadPoolExecutor() as threads:  # each takes minutes
                compiled = list(threads.map(compile_one, kernels, INSTRUCTION_SETS.values()))
            return [each for objects in compiled for each in objects]

    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    extension = (CUDAExtension if cuda else CppExtension)(
        "jumpstart_kernels._native",
        [str(source) for source in sources],
        include_dirs=[str(CSRC.resolve())],
        define_macros=macros,
        depends=[str(header) for header in [*sorted(CSRC.rglob("*.h")), *sorted(CSRC.rglob("*.cuh"))]],
        extra_compile_args={"cxx": FLAGS + openmp, "nvcc": cuda_flags},
        extra_link_args=openmp,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


def architecture_flags(nvcc: Path) -> list[str]:
    """What nvcc compiles for, unless TORCH_CUDA_ARCH_LIST says it."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = {int(number) for number in re.findall(r"compute_(\d+)", listed)}
    chosen = [number for number in ARCHITECTURES if number in known]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in chosen]
    return [*flags, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}"]


def without_extension(reason: str) -> dict:
    print(
        f"jumpstart_kernels: the C++ extension is not built: {reason}\n"
        "jumpstart_kernels: the package works without it, only slower. For it, have torch, ninja, pybind11, "
        "and a C++ compiler, then run: pip install --no-build-isolation --force-reinstall --no-deps <source>",
        file=sys.stderr,
    )
    return {}


def check_setuptools() -> None:
    """End with one line where setuptools is too old to read pyproject.toml: without isolation it may be."""
    major = setuptools.__version__.partition(".")[0]
    if int(major) < OLDEST_SETUPTOOLS:
        raise SystemExit(
            f"jumpstart_kernels needs setuptools {OLDEST_SETUPTOOLS} or later to be built, found "
            f"{setuptools.__version__}: run pip install --upgrade setuptools wheel"
        )


check_setuptools()
setuptools.setup(**extension_arguments())
