"""What csrc/cpu's vectors offer to activations, against PyTorch, and that builds share no function."""

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from jumpstart_kernels.ops import native

CSRC = Path(__file__).resolve().parents[2] / "csrc"
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="takes g++, which is not here"),
    pytest.mark.skipif(native.extension() is None, reason=str(native.unavailable("cpu"))),
]

SOURCE = """
#include "cpu/exact.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

using namespace jumpstart;
using namespace jumpstart::JUMPSTART_ISA;

template <typename scalar_t>
void run_vectors(const scalar_t* a, const scalar_t* b, const uint8_t* bits, double factor, int64_t count,
                 scalar_t* kept, scalar_t* chosen, scalar_t* scaled) {
  using V = VectorOf<scalar_t>;
  for (int64_t i = 0; i < count; i += V::lanes) {
    const auto sign = V::lanes_of(load_bits<V::lanes>(bits + i / 8));
    V::store(kept + i, V::keep(V::load(a + i), sign));
    V::store(chosen + i, V::choose(sign, V::load(a + i), V::load(b + i)));
    V::store(scaled + i, V::scale(V::load(a + i), static_cast<typename V::stat_t>(factor)));
  }
}

template <typename scalar_t>
void run_lanes(const scalar_t* a, const scalar_t* b, const uint8_t* bits, double factor, int64_t count,
               scalar_t* kept, scalar_t* chosen, scalar_t* scaled) {
  using V = OneLane<scalar_t>;
  for (int64_t i = 0; i < count; ++i) {
    const bool sign = bits[i / 8] >> i % 8 & 1;
    kept[i] = V::keep(a[i], sign);
    chosen[i] = V::choose(sign, a[i], b[i]);
    scaled[i] = V::scale(a[i], static_cast<typename V::stat_t>(factor));
  }
}

#define JUMPSTART_RUN(scalar_t)                                                                     \\
  extern "C" void vectors_##scalar_t(const scalar_t* a, const scalar_t* b, const uint8_t* bits,     \\
                                     double factor, int64_t count, scalar_t* kept,                  \\
                                     scalar_t* chosen, scalar_t* scaled) {                          \\
    run_vectors<scalar_t>(a, b, bits, factor, count, kept, chosen, scaled);                         \\
  }                                                                                                 \\
  extern "C" void lanes_##scalar_t(const scalar_t* a, const scalar_t* b, const uint8_t* bits,       \\
                                   double factor, int64_t count, scalar_t* kept, scalar_t* chosen,  \\
                                   scalar_t* scaled) {                                              \\
    run_lanes<scalar_t>(a, b, bits, factor, count, kept, chosen, scaled);                           \\
  }
JUMPSTART_RUN(float)
JUMPSTART_RUN(double)
JUMPSTART_RUN(Half)
JUMPSTART_RUN(BFloat16)
"""
AVX2 = ("-mavx2", "-mfma", "-mf16c")
FLAGS = {  # as setup.py has them
    "avx512": (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    "avx2": AVX2,
    "default": (),
}
SCALARS = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def compile_kernels(name, source, output, *flags):
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-uninitialized"]
    command += ["-Wno-maybe-uninitialized", "-Wno-psabi", f"-I{CSRC}", *FLAGS[name], *flags]
    done = subprocess.run(
        [*command, str(source), "-o", str(output)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


@functools.cache
def library(name):
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder) / "vectors.cpp", Path(folder) / "vectors.so"
        source.write_text(SOURCE)
        compile_kernels(name, source, compiled, "-shared", "-DJUMPSTART_ISA=test")
        return ctypes.CDLL(str(compiled))


def values(dtype):
    """All there are of a 16-bit type; of the others those that are special, and many more."""
    if dtype.itemsize == 2:
        return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    info = torch.finfo(dtype)
    special = [0.0, -0.0, 1.0, torch.inf, torch.nan, info.max, info.tiny, info.smallest_normal / 8]
    special = torch.tensor(special, dtype=dtype)
    random = torch.randn(1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = torch.cat([special, -special, random, random * info.max / 8, random * info.tiny])
    return x[: x.numel() // 16 * 16]


@pytest.mark.parametrize("factor", (0.01, 0.3, 1.0, -1.7, 1e-30, 1e6, torch.inf), ids=str)
@pytest.mark.parametrize("dtype", SCALARS, ids=str)
@pytest.mark.parametrize("name", FLAGS)
def test_vectors_equal_pytorch(name, dtype, factor):
    if name not in native.instruction_sets():
        pytest.skip(f"this processor has no {name}")
    generator = torch.Generator().manual_seed(1)
    a = values(dtype)
    b = a[torch.randperm(a.numel(), generator=generator)]
    mask = torch.randint(256, (a.numel() // 8,), generator=generator).to(torch.uint8)
    chosen = (mask[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten().bool()
    expected = (torch.where(chosen, a, 0.0), torch.where(chosen, a, b), a * factor)
    for kind in ("vectors", "lanes"):
        found = [torch.full_like(a, torch.nan) for _ in expected]
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, mask, *found)]
        run = getattr(library(name), f"{kind}_{SCALARS[dtype]}")
        run(*pointers[:3], ctypes.c_double(factor), ctypes.c_int64(a.numel()), *pointers[3:])
        for tensor, other in zip(found, expected, strict=True):
            assert torch.equal(tensor.isnan(), other.isnan())
            number, others = (torch.where(t.isnan(), 0.0, t) for t in (tensor, other))
            bits = BITS[dtype.itemsize]  # in which 0 and -0 differ
            assert torch.equal(number.view(bits), others.view(bits))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiles for x86-64")
@pytest.mark.skipif(shutil.which("nm") is None, reason="takes nm, which is not here")
@pytest.mark.parametrize("name", ("avx512", "avx2"))
def test_builds_share_no_function(name, tmp_path):
    # The linker keeps one copy of a function that several files define: that of a newer processor, perhaps.
    compiled = tmp_path / "kernels.o"
    compile_kernels(name, CSRC / "cpu" / f"kernels_{name}.cpp", compiled, "-c")
    listed = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(compiled)], capture_output=True, text=True, check=True
    )
    symbols = [line.split(maxsplit=2)[1:] for line in listed.stdout.splitlines()]
    visible = [symbol for kind, symbol in symbols if kind not in "bdrt"]
    shared = [symbol for symbol in visible if f"jumpstart::{name}::" not in symbol]
    assert shared == [f"jumpstart::kernels_{name}()"]
