"""nvcc's machine code for the CUDA kernels, without a GPU: registers, accesses, barriers."""

import functools
import itertools
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ARCHITECTURES = (80, 90, 100)
DEPTH = 4  # vectors of a thread in flight
REGISTERS = 64 * 1024  # of a multiprocessor
THREADS = 256
# C++ type, as it is in a mangled name, elements in 16 bytes.
DTYPES = {"float32": ("float", "f", 4), "bfloat16": ("BFloat16", "NS0_8BFloat16E", 8)}
# Template arguments between the elements and the activation, also as they are in a mangled name, the kernel's
# argument, blocks on a multiprocessor at once.
KERNELS = {
    "jumpstart_activation_forward_rows_kernel": ("", "", "Forward", {80: 2, 90: 3, 100: 3}),
    "jumpstart_activation_forward_planes_kernel": ("", "", "Forward", {80: 2, 90: 3, 100: 3}),
    "jumpstart_activation_backward_kernel": ("true, ", "Lb1E", "Backward", dict.fromkeys(ARCHITECTURES, 3)),
}
# C++ types.
ACTIVATIONS = re.findall(r"\bapply\((\w+)\)", (CSRC / "activations.h").read_text())
NVCC = shutil.which("nvcc")


def _find_cuobjdump() -> str | None:
    """The CUDA toolkit's, or the one bundled with Triton."""
    try:
        from triton import knobs

        return knobs.nvidia.cuobjdump.path
    except (ImportError, AttributeError, RuntimeError):
        return shutil.which("cuobjdump")


CUOBJDUMP = _find_cuobjdump()
pytestmark = [
    pytest.mark.skipif(NVCC is None, reason="nvcc is not installed"),
    pytest.mark.skipif(CUOBJDUMP is None, reason="neither the CUDA toolkit's nor Triton's cuobjdump is here"),
]


class MachineCode(NamedTuple):
    registers: int
    stack: int
    local: int
    loop: list[str]  # instructions of the loop over tiles


@functools.cache
def compile_kernels(architecture: int) -> dict[tuple[str, str, str], MachineCode]:
    """By kernel, dtype and activation."""
    headers = ("activations.h", "cuda/backward.cuh", "cuda/planes.cuh", "cuda/rows.cuh")
    lines = [f'#include "{name}"' for name in headers] + ["namespace jumpstart { namespace cuda {"]
    constant = "const __grid_constant__"
    for kernel, (more, _, argument, _) in KERNELS.items():
        for (cpp, _, elements), activation in itertools.product(DTYPES.values(), ACTIVATIONS):
            lines.append(
                f"template __global__ void {kernel}<{cpp}, {elements}, {more}{activation}>"
                f"({constant} {argument}<{cpp}>, {constant} {activation});"
            )
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text("\n".join([*lines, "}}"]))
        flags = ["-std=c++17", "-O3", "-fmad=false", f"-arch=sm_{architecture}", f"-I{CSRC}"]
        _run([NVCC, *flags, "-cubin", str(source), "-o", str(cubin)])
        usage = _run([CUOBJDUMP, "--dump-resource-usage", str(cubin)])
        code = _run([CUOBJDUMP, "-sass", str(cubin)])
    found = {}
    for kernel, (_, more, *_) in KERNELS.items():
        for (dtype, (_, mangled, elements)), activation in itertools.product(DTYPES.items(), ACTIVATIONS):
            name = f"{kernel}I{mangled}Li{elements}E{more}NS_{len(activation)}{activation}E"
            resources = re.search(rf"{name}\S*:\s+REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
            (text,) = (part for part in code.split("Function : ")[1:] if name in part.split("\n")[0])
            found[kernel, dtype, activation] = MachineCode(*map(int, resources.groups()), _loop(text))
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _loop(text: str) -> list[str]:
    """The shortest loop that moves all the vectors of a step."""
    code = [(int(place, 16), text) for place, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", text)]
    # Behind the end lies what is seldom run, and branches back.
    code = code[: next(i for i, (_, text) in enumerate(code) if text.strip() == "EXIT")]
    loops = []
    for end, instruction in code:
        target = re.search(r"\bBRA\b.* 0x([0-9a-f]+)", instruction)
        if target and int(target.group(1), 16) < end:
            body = [text for place, text in code if int(target.group(1), 16) <= place <= end]
            accesses = _accesses(body)
            if min(accesses["LDG", 128], accesses["STG", 128]) >= DEPTH:
                loops.append(body)
    return min(loops, key=len)


def _accesses(instructions: list[str]) -> Counter:
    """Number of accesses of global memory, by kind and bits."""
    counts: Counter = Counter()
    for instruction in instructions:
        access = re.search(r"\b(LDG|STG)\.E([.\w]*)", instruction)
        if access:
            bits = re.search(r"\.(128|64|U8|U16)\b", access.group(2))
            counts[access.group(1), int(bits.group(1).removeprefix("U")) if bits else 32] += 1
    return counts


@pytest.fixture(params=ARCHITECTURES, ids="sm_{}".format)
def architecture(request):
    return request.param


@pytest.fixture
def machine_code(architecture):
    return compile_kernels(architecture)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_stays_in_registers(architecture, machine_code, kernel, dtype, activation):
    code = machine_code[kernel, dtype, activation]
    assert not [text for text in code.loop if re.search(r"\b(LDL|STL)\b", text)]
    # Before sm_90 pairs of bfloat16 are compared one by one, which takes registers: a few spill, elsewhere.
    spilled = 16 if architecture == 80 and dtype == "bfloat16" else 0
    assert code.stack <= spilled and code.local == 0
    blocks = KERNELS[kernel][-1][architecture]
    assert code.registers * THREADS * blocks <= REGISTERS


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_activations_move_once_and_16_bytes_at_once(machine_code, kernel, dtype, activation):
    """2s bytes an element of s bytes, and for every vector one access of the mask."""
    accesses = _accesses(machine_code[kernel, dtype, activation].loop)
    partials = Counter()  # of a row: what is stored but for output and mask
    if kernel == "jumpstart_activation_forward_rows_kernel":
        partials["STG", 64 if dtype == "bfloat16" else 128] = DEPTH
    mask = "LDG" if kernel == "jumpstart_activation_backward_kernel" else "STG"
    steps = accesses["LDG", 128] // DEPTH  # one, or one for tiles that are full and one for others
    assert steps in (1, 2)
    expected = Counter({("LDG", 128): DEPTH * steps, ("STG", 128): DEPTH * steps, (mask, 8): DEPTH * steps})
    assert accesses == expected + partials


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_barrier_between_tiles(machine_code, kernel, dtype, activation):
    assert not [text for text in machine_code[kernel, dtype, activation].loop if "BAR." in text]
