"""nvcc's machine code for the CUDA kernels of linked activations, without a GPU: registers, accesses."""

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cuda_machine_code
import pytest
from builds import build_all
from cuda_machine_code import ARCHITECTURES, MachineCode, accesses_of, compile_for, shortest_loop

_reason = cuda_machine_code.missing()
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

REGISTERS = 64 * 1024  # of a multiprocessor
THREADS = 256
# C++ type, as it is in a mangled name, elements in 16 bytes.
DTYPES = {"float32": ("float", "f", 4), "bfloat16": ("BFloat16", "NS0_8BFloat16E", 8)}


class Kernel(NamedTuple):
    name: str
    more: tuple[str, str]  # template arguments behind the elements, also as they are in a mangled name
    arguments: str
    loads: int  # 16 bytes of a thread, in a step of the loop over tiles
    stores: int
    others: Counter = Counter()  # accesses, by kind and bits: of masks, slopes of planes, sums of their rows
    blocks: int = 3  # on a multiprocessor at once


def _forward(activation: str, **more) -> Kernel:
    mangled = f"NS_{len(activation)}{activation}E"
    name = "linked_activation_forward_kernel"
    return Kernel(name, (activation, mangled), "const LinkedForward<{0}>", 4, 8, **more)


def _backward(activation: str, units: str, loads: int, **more) -> Kernel:
    are = ("without_bias", "columns", "rows").index(units)  # as in cuda/bias.cuh
    sums = f"BiasSums<float, UnitsAre::{units}>"
    mangled = rf"NS_{len(activation)}{activation}ENS0_8BiasSumsIfLNS0_8UnitsAreE{are}E"
    arguments = f"const Backward<{{0}}>, const LinkedBackward<{{0}}>, const {sums}"
    name = "linked_activation_backward_kernel"
    return Kernel(name, (f"{activation}, {sums}", mangled), arguments, loads, 2, **more)


def _with_statistics(pattern: str) -> Kernel:
    """Of any kind: a vector is stored by one of four branches in a loop, each of which stores two halves."""
    more = "Linked<float>, Bias<{0}, UnitsAre::without_bias>"
    name = f"jumpstart_activation_forward_{pattern}_kernel"
    arguments = "const Forward<{0}>, const Linked<float>, const Bias<{0}, UnitsAre::without_bias>"
    return Kernel(name, (more, "NS0_6LinkedIfE"), arguments, 4, 8, blocks=2)


OF_PLANES = Counter({("LDG", 32): 4})  # the slopes of two rows
KERNELS = {
    "forward of linked_relu": _forward("LinkedReLU", others=Counter({("STG", 8): 8})),
    "forward of linked_prelu": _forward("LinkedPReLU", others=OF_PLANES + OF_PLANES),
    "forward of linked_selu": _forward("LinkedSELU"),
    "forward of linked_silu": _forward("LinkedSiLU"),
    "backward of linked_relu": _backward("LinkedReLU", "without_bias", 4, others=Counter({("LDG", 8): 4})),
    "backward of linked_prelu": _backward("LinkedPReLU", "without_bias", 6, others=OF_PLANES, blocks=2),
    "backward of linked_prelu, columns": _backward("LinkedPReLU", "columns", 6, blocks=2),
    "backward of linked_prelu, rows": _backward(
        "LinkedPReLU", "rows", 6, others=OF_PLANES + Counter({("STG", 32): 4}), blocks=2
    ),
    "backward of linked_selu": _backward("LinkedSELU", "without_bias", 6),
    "backward of linked_silu": _backward("LinkedSiLU", "without_bias", 6),
    "statistics of rows": _with_statistics("rows"),
    "statistics of planes": _with_statistics("planes"),
}


@functools.cache
def compile_kernels(architecture: int) -> dict[tuple[str, str], MachineCode]:
    """By kernel and dtype."""
    (path,) = build_all([f"linked_sm_{architecture}.json"], functools.partial(_compile, architecture))
    usage, code = json.loads(path.read_text())
    parts = {part.split("\n")[0]: part for part in code.split("Function : ")[1:]}
    found = {}
    for title, kernel in KERNELS.items():
        for dtype, (_, mangled, elements) in DTYPES.items():
            name = f"{kernel.name}I{mangled}Li{elements}E{kernel.more[1]}"
            resources = re.search(rf"{name}\S*:\s+REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
            (text,) = (part for own, part in parts.items() if re.search(name, own))
            loop = shortest_loop(text, kernel.loads, kernel.stores)
            found[title, dtype] = MachineCode(*map(int, resources.groups()), loop)
    return found


def _compile(architecture: int, _: str, path: Path) -> None:
    """Resource usage and machine code, as cuobjdump prints them."""
    headers = ("linked_forward", "linked_backward", "planes", "rows")
    lines = [f'#include "cuda/{name}.cuh"' for name in headers] + ["namespace jumpstart { namespace cuda {"]
    for kernel in KERNELS.values():
        for cpp, _, elements in DTYPES.values():
            arguments = kernel.arguments.replace("const ", "const __grid_constant__ ").format(cpp)
            more = kernel.more[0].format(cpp)
            lines.append(f"template __global__ void {kernel.name}<{cpp}, {elements}, {more}>({arguments});")
    path.write_text(json.dumps(compile_for(architecture, [*lines, "}}"])))


@pytest.fixture(params=ARCHITECTURES, ids="sm_{}".format)
def architecture(request):
    return request.param


def test_all_stays_in_registers(architecture):
    for (title, _), code in compile_kernels(architecture).items():
        spilled = 16 if "statistics" in title else 0  # as of the other activations' statistics
        assert code.stack <= spilled and code.local == 0, title
        assert not [text for text in code.loop if re.search(r"\b(LDL|STL|BAR)\b", text)], title
        assert code.registers * THREADS * KERNELS[title].blocks <= REGISTERS, title


def test_all_moves_once_and_16_bytes_at_once(architecture):
    """Forward: x in, two halves out, two bits for linked_relu. Backward: two halves and x or the bits in."""
    for (title, dtype), code in compile_kernels(architecture).items():
        kernel, accesses = KERNELS[title], accesses_of(code.loop)
        if "statistics" in title:  # of a loop in which all kinds are
            kinds = {("LDG", 128), ("STG", 128), ("LDG", 32), ("STG", 8), ("LDG", 64), ("STG", 64)}
            assert set(accesses) <= kinds, title
            continue
        expected = Counter({("LDG", 128): kernel.loads, ("STG", 128): kernel.stores}) + kernel.others
        # Loads may be there twice, of planes and of rows.
        twice = Counter({kind: count for kind, count in expected.items() if kind[0] == "LDG"})
        assert accesses in (expected, expected + twice), (title, dtype)


def test_few_instructions(architecture):
    """Memory leaves room for about 38 an element of bfloat16, 75 of float32; exponentials take more."""
    for (title, dtype), code in compile_kernels(architecture).items():
        kernel, elements = KERNELS[title], DTYPES[dtype][2]
        if "relu" not in title:
            continue
        vectors = kernel.stores // 2 if "forward" in title else kernel.stores
        assert len(code.loop) <= (75 if dtype == "float32" else 46) * vectors * elements, (title, dtype)
