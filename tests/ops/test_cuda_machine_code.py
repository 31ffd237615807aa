"""nvcc's machine code for the CUDA kernels, without a GPU: registers, accesses, barriers."""

import functools
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import cuda_machine_code
import pytest
from builds import build_all
from cuda_machine_code import ARCHITECTURES, CSRC, MachineCode, accesses_of, compile_for, shortest_loop

pytestmark = pytest.mark.skipif(
    cuda_machine_code.missing() is not None, reason=str(cuda_machine_code.missing())
)
DEPTH = 4  # vectors of a thread in flight
REGISTERS = 64 * 1024  # of a multiprocessor
THREADS = 256
# C++ type, as it is in a mangled name, elements in 16 bytes.
DTYPES = {"float32": ("float", "f", 4), "bfloat16": ("BFloat16", "NS0_8BFloat16E", 8)}
FORWARD_ROWS = "jumpstart_activation_forward_rows_kernel"
FORWARD_PLANES = "jumpstart_activation_forward_planes_kernel"
BACKWARD = "jumpstart_activation_backward_kernel"
# Template arguments between the elements and the activation, also as they are in a mangled name, the kernel's
# arguments, blocks on a multiprocessor at once.
ARGUMENTS = {
    FORWARD_ROWS: ("", "", "Forward", "Bias", {80: 2, 90: 3, 100: 3}),
    FORWARD_PLANES: ("", "", "Forward", "Bias", {80: 2, 90: 3, 100: 3}),
    BACKWARD: ("true, ", "Lb1E", "Backward", "BiasSums", dict.fromkeys(ARCHITECTURES, 3)),
}
UNITS_ARE = ("without_bias", "columns", "rows")  # as in cuda/bias.cuh
KERNELS = [
    (kernel, units)
    for kernel, units in itertools.product(ARGUMENTS, UNITS_ARE)
    if (kernel, units) != (FORWARD_PLANES, "columns")
]
# C++ types.
ACTIVATIONS = re.findall(r"\bapply\((\w+)\)", (CSRC / "activations.h").read_text())


def _compiled(architecture: int) -> list[tuple[tuple[str, str], str, str]]:
    """Kernel and what units are, dtype and activation: all for sm_90, one activation for the others."""
    activations = {}
    for (i, kernel), (j, dtype) in itertools.product(enumerate(ARGUMENTS), enumerate(DTYPES)):
        place = (i + j + ARCHITECTURES.index(architecture) // 2) % len(ACTIVATIONS)
        activations[kernel, dtype] = ACTIVATIONS if architecture == 90 else [ACTIVATIONS[place]]
    return [
        (kernel, dtype, activation)
        for kernel, dtype in itertools.product(KERNELS, DTYPES)
        for activation in activations[kernel[0], dtype]
    ]


@functools.cache
def compile_kernels() -> dict[int, dict[tuple[tuple[str, str], str, str], MachineCode]]:
    """By architecture, then by kernel and what units are, dtype and activation."""
    names = [f"sm_{architecture}.json" for architecture in ARCHITECTURES]
    texts = (json.loads(path.read_text()) for path in build_all(names, _compile))
    return {
        architecture: {of: _find(of, usage, code) for of in _compiled(architecture)}
        for architecture, (usage, code) in zip(ARCHITECTURES, texts, strict=True)
    }


def _compile(name: str, path: Path) -> None:
    """Resource usage and machine code, as cuobjdump prints them."""
    architecture = int(name.removeprefix("sm_").removesuffix(".json"))
    headers = ("activations.h", "cuda/backward.cuh", "cuda/planes.cuh", "cuda/rows.cuh")
    lines = [f'#include "{name}"' for name in headers] + ["namespace jumpstart { namespace cuda {"]
    constant = "const __grid_constant__"
    for (kernel, units), dtype, activation in _compiled(architecture):
        more, _, argument, bias, _ = ARGUMENTS[kernel]
        cpp, _, elements = DTYPES[dtype]
        last = f"{bias}<{'float' if bias == 'BiasSums' else cpp}, UnitsAre::{units}>"
        lines.append(
            f"template __global__ void {kernel}<{cpp}, {elements}, {more}{activation}, {last}>"
            f"({constant} {argument}<{cpp}>, {constant} {activation}, {constant} {last});"
        )
    path.write_text(json.dumps(compile_for(architecture, [*lines, "}}"])))


def _find(of: tuple[tuple[str, str], str, str], usage: str, code: str) -> MachineCode:
    (kernel, units), dtype, activation = of
    _, more, _, bias, _ = ARGUMENTS[kernel]
    _, mangled, elements = DTYPES[dtype]
    name = f"{kernel}I{mangled}Li{elements}E{more}NS_{len(activation)}{activation}E"
    name += rf"NS0_{len(bias)}{bias}I\w+8UnitsAreE{UNITS_ARE.index(units)}E"
    resources = re.search(rf"{name}\S*:\s+REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    (text,) = (part for part in code.split("Function : ")[1:] if re.search(name, part.split("\n")[0]))
    return MachineCode(*map(int, resources.groups()), shortest_loop(text, DEPTH, DEPTH))


@pytest.fixture(scope="module")
def machine_code():
    return compile_kernels()


COMPILED = [(architecture, *of) for architecture in ARCHITECTURES for of in _compiled(architecture)]
NAMES = ("architecture", "kernel", "dtype", "activation")
OF_COMPILED = pytest.mark.parametrize(NAMES, COMPILED, ids=str)
OF_COMPILED_WITH_BIAS = pytest.mark.parametrize(
    NAMES, [of for of in COMPILED if of[1][1] != "without_bias"], ids=str
)


@OF_COMPILED
def test_all_stays_in_registers(machine_code, architecture, kernel, dtype, activation):
    code = machine_code[architecture][kernel, dtype, activation]
    rare = kernel == (FORWARD_ROWS, "rows")  # position points of planes: a pointer to the bias may spill
    assert rare or not [text for text in code.loop if re.search(r"\b(LDL|STL)\b", text)]
    spilled = 0 if kernel[0] == BACKWARD else 24  # what a region has but once
    if rare:
        spilled += 24
    assert code.stack <= spilled and code.local == 0
    blocks = ARGUMENTS[kernel[0]][-1][architecture]
    assert code.registers * THREADS * blocks <= REGISTERS


@OF_COMPILED
def test_activations_move_once_and_16_bytes_at_once(machine_code, architecture, kernel, dtype, activation):
    """2s bytes an element of s bytes, and for every vector one access of the mask."""
    accesses = accesses_of(machine_code[architecture][kernel, dtype, activation].loop)
    kernel, units = kernel
    partials = Counter()  # of a row: what is stored but for output and mask
    if kernel == FORWARD_ROWS:
        # One for each row, or at once where all have reached the margin.
        partials["STG", 64] = (DEPTH + 1) * (1 if dtype == "bfloat16" else 2)
    mask = "LDG" if kernel == BACKWARD else "STG"
    steps = accesses["LDG", 128] // DEPTH  # one, or one for tiles that are full and one for others
    assert steps in (1, 2)
    expected = Counter({("LDG", 128): DEPTH * steps, ("STG", 128): DEPTH * steps, (mask, 8): DEPTH * steps})
    if units == "rows":  # of a row its bias, which a plane has but once, or the sum of its gradients
        if kernel == FORWARD_ROWS:
            partials["LDG", 16 if dtype == "bfloat16" else 32] = DEPTH
        if kernel == BACKWARD:
            partials["STG", 32] = DEPTH * steps
    assert accesses == expected + partials


@OF_COMPILED
def test_no_barrier_between_tiles(machine_code, architecture, kernel, dtype, activation):
    assert not [text for text in machine_code[architecture][kernel, dtype, activation].loop if "BAR." in text]


@OF_COMPILED_WITH_BIAS
def test_a_bias_takes_few_instructions(machine_code, architecture, kernel, dtype, activation):
    """Memory leaves room for about 25 an element of bfloat16 and 50 of float32."""
    counts = []
    for units in (kernel[1], "without_bias"):
        loop = machine_code[architecture][(kernel[0], units), dtype, activation].loop
        counts.append(len(loop) / (accesses_of(loop)["LDG", 128] * DTYPES[dtype][2]))
    assert counts[0] - counts[1] <= 8, counts
