"""The Triton backend's machine code, compiled for GPUs that need not be present.

As a program this file compiles the kernels and prints its findings, or launches them on a stub driver and
prints their arguments.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last

# Data types and architectures that kernels are compiled for, which takes a second or two each.
TARGETS = (("float32", 90), ("bfloat16", 90), ("float16", 90), ("bfloat16", 80), ("float32", 100))
THREADS = 128
# The kernels that all activations pass through, with the most instructions that their loops may take for an
# element of 4 bytes and of 2. An H200's bandwidth allows about 50 and 25 (132 multiprocessors of 128 lanes at
# 1.75 GHz; 8 1/8 and 4 1/8 bytes an element at 4.8 TB/s), and half as many minima, comparisons and shifts.
STREAMING = {
    "jumpstart_activation_forward_rows_kernel.2d": (22, 17),
    "jumpstart_activation_forward_rows_kernel.channels_last": (14, 13),
    "jumpstart_activation_forward_rows_kernel.position_points": (22, 17),
    "jumpstart_activation_forward_planes_kernel.contiguous": (13, 12),
    "jumpstart_activation_backward_kernel.2d": (8, 6),
    "jumpstart_activation_backward_kernel.channels_last": (8, 6),
    "jumpstart_activation_backward_kernel.contiguous": (8, 6),
    "jumpstart_activation_backward_kernel.position_points": (8, 6),
}
OTHERS = (
    "jumpstart_activation_statistics_forward_kernel.2d",
    "jumpstart_activation_statistics_forward_kernel.channels_last",
    "jumpstart_activation_statistics_forward_kernel.contiguous",
    "jumpstart_activation_statistics_forward_kernel.position_points",
    "jumpstart_activation_forward_small_kernel.small",
    "jumpstart_activation_backward_kernel.small",
    "jumpstart_activation_forward_rows_kernel.unaligned",
    "jumpstart_activation_statistics_forward_kernel.unaligned",
    "jumpstart_activation_backward_kernel.unaligned",
)
LARGE = (  # sizes have 64 bits, and so have offsets within a tile
    "jumpstart_activation_forward_rows_kernel.one_long_row",
    "jumpstart_activation_forward_planes_kernel.one_long_plane",
    "jumpstart_activation_statistics_forward_kernel.one_long_row",
    "jumpstart_activation_statistics_forward_kernel.one_long_plane",
    "jumpstart_activation_backward_kernel.one_long_row",
    "jumpstart_activation_backward_kernel.one_long_plane",
)


@dataclasses.dataclass
class MachineCode:
    """The properties of a kernel's code for one architecture."""

    elements: int  # of activations, that a thread holds at once
    depth: int  # loads of activations that a thread has under way at once
    registers: int
    stack: int
    local: int
    instructions: int  # of the loop over tiles, as the following
    barriers: int
    accesses: dict[str, int]  # loads and stores of global memory, by their width in bits
    pointer_offsets: list[str]  # types of the offsets that bfloat16 activations' tiles start from


@pytest.fixture(scope="module")
def machine_code():
    """For every kernel, dtype and architecture; compiled in a subprocess, since here they are interpreted."""
    return {name: MachineCode(**found) for name, found in _run_compiled("compile").items()}


def _run_compiled(task: str):
    """The output of this file run as a subprocess."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TRITON_INTERPRET": "0",
    }
    command = [sys.executable, __file__, task]
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=230, check=False
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype, architecture):
    """16 bytes of activations at once in and out and their bits of the mask, with no barrier between."""
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert code.depth * 16 == code.elements * getattr(torch, dtype).itemsize
    expected = {"LDG 128": code.depth, "STG 128": code.depth}
    expected["LDG 8" if "backward" in kernel else "STG 8"] = code.depth
    if kernel.startswith("jumpstart_activation_forward_rows") and not kernel.endswith("channels_last"):
        expected["STG 32"] = 2 * code.depth  # the extrema of a row, by one thread of each warp
    assert code.accesses == expected
    assert code.barriers == 0


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_are_bound_by_memory(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    wide, narrow = STREAMING[kernel]
    assert code.instructions <= code.elements * (wide if dtype == "float32" else narrow)
    # Loads under way on a multiprocessor, where latency times bandwidth is about 16 KiB.
    programs = min(65536 // (code.registers * THREADS), 2048 // THREADS)
    assert programs * THREADS * 16 * code.depth >= 40 * 1024


@pytest.mark.parametrize(
    ("kernel", "dtype", "architecture"),
    [(kernel, *target) for kernel in STREAMING for target in TARGETS]
    + [(kernel, *target) for kernel in OTHERS for target in TARGETS[:2]]
    + [(kernel, *TARGETS[1]) for kernel in LARGE],
)
def test_no_spills_and_no_local_memory(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert (code.stack, code.local) == (0, 0)


@pytest.mark.parametrize("kernel", STREAMING)
def test_offsets_of_activations_have_64_bits(machine_code, kernel):
    """Those of tiles; within a tile 32 bits do, or plan.py says otherwise."""
    code = machine_code[f"{kernel}.bfloat16.90"]
    assert code.pointer_offsets
    assert set(code.pointer_offsets) == {"i64"}


def test_later_launches_give_the_kernel_what_the_first_gave():
    """The first launch of a kind goes through Triton's dispatch, later ones directly to the kernel."""
    first, second = _run_compiled("launch")
    assert len(first) == 2  # the forward and the backward of a small matrix
    assert first == second


def _compile_all() -> dict[str, dict]:
    """Machine code of the launches that a forward and backward of each layout make, by name."""
    from jumpstart_kernels.ops.triton.launch import Launch

    launches = []
    Launch.__call__ = lambda launch, device, *arguments: launches.append((launch, arguments))
    found = {}
    for dtype, architecture in TARGETS:
        for layout, (x, position_points) in _activations(getattr(torch, dtype)).items():
            launches.clear()
            _forward_and_backward(x, position_points, with_grad_extrema=True)
            for launch, arguments in launches:
                name = f"{launch.kernel.__name__}.{layout}"
                targets = TARGETS[: len(TARGETS) if name in STREAMING else 2 if name in OTHERS else 0]
                targets += TARGETS[1:2] if name in LARGE else ()
                if (dtype, architecture) in targets:
                    code = _compile(launch, arguments, architecture)
                    found[f"{name}.{dtype}.{architecture}"] = dataclasses.asdict(code)
    return found


def _forward_and_backward(x: torch.Tensor, position_points: bool, with_grad_extrema: bool) -> None:
    options = Options("relu", 0.0, 1, position_points, 1.0, extrema_kind="exact")
    result = triton_backend.jumpstart_activation_forward(x, options)
    gradients = Gradients(
        torch.empty_like(x), result.slack_sums, result.extrema if with_grad_extrema else None
    )
    channels_last = is_channels_last(x, 1)
    saved = Saved(result.mask, result.extrema, result.indices, list(x.shape), channels_last, x.dtype)
    triton_backend.jumpstart_activation_backward(gradients, saved, options)


def _activations(dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, bool]]:
    """With whether their points are positions."""
    images = torch.empty(8, 64, 56, 56, dtype=dtype)
    channels_last = torch.empty(8, 256, 28, 28, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return {
        "2d": (torch.empty(4096, 1024, dtype=dtype), False),
        "channels_last": (channels_last, False),
        "contiguous": (images, False),
        "position_points": (images, True),
        "unaligned": (torch.empty(1000, 301, dtype=dtype), False),
        "small": (torch.empty(256, 16, dtype=dtype), False),
        "one_long_row": (torch.empty(1, 2**31 + 9, dtype=dtype, device="meta"), False),
        "one_long_plane": (torch.empty(1, 1, 2**32, dtype=dtype, device="meta"), False),
    }


def _compile(launch, arguments, architecture: int) -> MachineCode:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = (*arguments, *launch.settled)
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(launch.kernel.params, values, strict=True)):
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + triton.runtime.jit.mangle_type(value).removeprefix("*")
            if not parameter.do_not_specialize_on_alignment:
                attributes[(i,)] = [["tt.divisibility", 16]]  # as PyTorch allocates
        else:
            signature[parameter.name] = parameter.annotation_type or triton.runtime.jit.mangle_type(value)
    compiled = triton.compile(
        ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options=launch.options,
    )
    registers, stack, local = _resources(compiled.asm["cubin"])
    loop = _loop_over_tiles(compiled.asm["cubin"])
    widths = [re.match(r"(LDG|STG)\.E(?:\.[A-TV-Z]\w+)*(?:\.[US]?(\d+))?", name) for name in loop]
    accesses = [f"{width[1]} {width[2] or 32}" for width in widths if width]
    tile = constants.get("TILE")
    depth = tile.depth if tile else 1
    offsets = r"tt\.addptr [^:]* : !tt\.ptr<bf16>, (i\d+)"
    return MachineCode(
        elements=depth * tile.vector if tile else 1,
        depth=depth,
        registers=registers,
        stack=stack,
        local=local,
        instructions=len(loop),
        barriers=sum(name.startswith("BAR") for name in loop),
        accesses={access: accesses.count(access) for access in accesses},
        pointer_offsets=re.findall(offsets, compiled.asm["ttir"]),
    )


def _loop_over_tiles(cubin: bytes) -> list[str]:
    """Names of the instructions of the first loop that loads from global memory; none without such a loop."""
    instructions, addresses = [], {}
    for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", _cuobjdump(cubin, "-sass")):
        addresses[int(address, 16)] = len(instructions)
        instructions.append(re.sub(r"^@!?U?P\w+\s+", "", text))
    for end, text in enumerate(instructions):
        target = re.match(r"BRA\S*.*?(0x[0-9a-f]+)", text)
        start = addresses.get(int(target[1], 16), end) if target else end
        if start < end:
            loop = [instruction.split()[0] for instruction in instructions[start : end + 1]]
            if any(name.startswith("LDG") for name in loop):
                return loop
    return []


def _resources(cubin: bytes) -> tuple[int, ...]:
    """Registers of a thread, and bytes of stack and of local memory that it takes."""
    usage = _cuobjdump(cubin, "--dump-resource-usage")
    return tuple(int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK", "LOCAL"))


def _cuobjdump(cubin: bytes, option: str) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _launch_twice() -> list[list]:
    """The arguments of the kernels of a forward and backward, first and second call; shapes for tensors."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    launches: list = []

    class Utilities:
        def load_binary(self, *arguments):
            return None, None, 0, 0, 1024  # module, function, registers, spills, most threads

        def get_device_properties(self, device):
            return {"max_shared_mem": 2**17}

    class Launcher:
        def __init__(self, source, metadata):
            pass

        def __call__(self, *arguments):
            grid, values = arguments[:3], arguments[9:]  # stream, function, metadata and hooks between
            launches.append(
                (grid, [list(v.shape) if isinstance(v, torch.Tensor) else str(v) for v in values])
            )

    class Driver:
        utils, launcher_cls = Utilities(), Launcher

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    driver.set_active(Driver())
    x = torch.ones(16, 8)
    for _ in range(2):
        _forward_and_backward(x, False, with_grad_extrema=False)
    return [launches[:2], launches[2:]]


if __name__ == "__main__":
    print(json.dumps(_compile_all() if sys.argv[1] == "compile" else _launch_twice()))
