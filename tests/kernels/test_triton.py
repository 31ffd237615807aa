"""What is special to the Triton backend: its machine code, its launch plans, and when it cannot run.

Run as a program, this file compiles the kernels for GPUs that need not be there, and prints what it finds.
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

from jumpstart_kernels import backends
from jumpstart_kernels.kernels import reference
from jumpstart_kernels.kernels import triton as triton_backend
from jumpstart_kernels.kernels.layout import is_channels_last

# Data types and architectures that kernels are compiled for, which takes a second or two each.
TARGETS = (("float32", 90), ("bfloat16", 90), ("float16", 90), ("bfloat16", 80), ("float32", 100))
THREADS = 128
# The kernels that all activations pass through, with the most instructions that their loops may take for an
# element of 4 bytes and of 2. An H200's bandwidth allows about 50 and 25 (132 multiprocessors of 128 lanes at
# 1.75 GHz; 8 1/8 and 4 1/8 bytes an element at 4.8 TB/s), and half as many minima, comparisons and shifts.
STREAMING = {
    "jumpstart_relu_forward_rows_kernel.2d": (22, 17),
    "jumpstart_relu_forward_rows_kernel.channels_last": (14, 13),
    "jumpstart_relu_forward_rows_kernel.position_points": (22, 17),
    "jumpstart_relu_forward_planes_kernel.contiguous": (12, 12),
    "jumpstart_relu_backward_kernel.2d": (8, 6),
    "jumpstart_relu_backward_kernel.channels_last": (8, 6),
    "jumpstart_relu_backward_kernel.contiguous": (8, 6),
    "jumpstart_relu_backward_kernel.position_points": (8, 6),
}
OTHERS = (
    "jumpstart_relu_statistics_forward_kernel.2d",
    "jumpstart_relu_statistics_forward_kernel.channels_last",
    "jumpstart_relu_statistics_forward_kernel.contiguous",
    "jumpstart_relu_statistics_forward_kernel.position_points",
    "jumpstart_relu_forward_small_kernel.small",
    "jumpstart_relu_backward_kernel.small",
    "jumpstart_relu_forward_rows_kernel.unaligned",
    "jumpstart_relu_statistics_forward_kernel.unaligned",
    "jumpstart_relu_backward_kernel.unaligned",
)


@dataclasses.dataclass
class MachineCode:
    """What a test asks of a kernel for one architecture."""

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
    """Of every kernel, dtype and architecture; compiled apart, since here the kernels are interpreted."""
    output = _run_python([__file__], TRITON_INTERPRET="0")
    return {name: MachineCode(**found) for name, found in json.loads(output).items()}


def _run_python(arguments: list[str], **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, *arguments]
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert output.returncode == 0, output.stderr
    return output.stdout


@pytest.mark.parametrize(("dtype", "architecture"), TARGETS)
@pytest.mark.parametrize("kernel", STREAMING)
def test_loops_move_no_byte_in_vain(machine_code, kernel, dtype, architecture):
    """16 bytes of activations at once in and out and their bits of the mask, with no barrier between."""
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert code.depth * 16 == code.elements * getattr(torch, dtype).itemsize
    expected = {"LDG 128": code.depth, "STG 128": code.depth}
    expected["LDG 8" if "backward" in kernel else "STG 8"] = code.depth
    if kernel.startswith("jumpstart_relu_forward_rows") and not kernel.endswith("channels_last"):
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
    + [(kernel, *target) for kernel in OTHERS for target in TARGETS[:2]],
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


@pytest.mark.parametrize(("columns", "expected"), [(2**20, "int32"), (2**30, "int64")])
def test_offsets_within_a_tile_have_the_bits_they_need(columns, expected):
    from jumpstart_kernels.kernels.triton import launch

    forward = launch._forward((16, columns), 1, False, False, torch.float16, True, True, False)
    assert expected in [str(constant) for constant in forward.launches[0].constants]


LAYOUTS = [
    pytest.param((70, 40), 1, None, False, id="2d"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, False, id="channels_last"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, True, id="channels_last-position"),
    pytest.param((3, 5, 300), 1, None, False, id="planes"),
    pytest.param((3, 20, 52), 1, None, True, id="planes-position"),
    pytest.param((2, 37, 12), 2, None, False, id="units-last"),
]
OF_LAYOUTS = pytest.mark.parametrize(("size", "unit_dim", "memory_format", "position_points"), LAYOUTS)


@pytest.fixture
def interpreted():
    reason = triton_backend.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


def _assert_like_reference(size, unit_dim, memory_format, position_points, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).mul(2).round().div(2).to(dtype)  # with ties
    if memory_format is not None:
        x = x.contiguous(memory_format=memory_format)
    options = (unit_dim, position_points, 3.0, True, False)
    expected = reference.jumpstart_relu_forward(x, *options)
    actual = triton_backend.jumpstart_relu_forward(x, *options)
    for i in (0, 1, 3, 4):  # output, mask, extrema, indices
        assert torch.equal(actual[i], expected[i])
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-6, atol=0)

    grad_output = torch.empty_like(x).copy_(torch.randn(size, generator=generator))
    # Whole numbers, and slacks that are multiples of a half: no rounding, in whatever order they are added.
    grad_slack_sums = torch.arange(10, dtype=expected[2].dtype).view(2, 5)
    saved = (
        *(expected[i] for i in (1, 3, 4)),
        list(size),
        is_channels_last(x, unit_dim),
        dtype,
        unit_dim,
        3.0,
    )
    assert torch.equal(
        triton_backend.jumpstart_relu_backward(grad_output, grad_slack_sums, None, *saved),
        reference.jumpstart_relu_backward(grad_output, grad_slack_sums, None, *saved),
    )


@OF_LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_programs_of_several_tiles(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points, dtype
):
    """As large tensors run, which the interpreter is too slow for."""
    from jumpstart_kernels.kernels.triton import launch, plan

    _forget_plans()
    monkeypatch.setattr(plan, "_PROGRAMS", 1)
    monkeypatch.setattr(plan, "_LANES", 4)
    monkeypatch.setattr(plan, "_SMALL", 1)
    monkeypatch.setattr(plan, "STATISTICS_ELEMENTS", 64)
    monkeypatch.setattr(launch, "BLOCK", 16)
    monkeypatch.setattr(launch, "CHUNK", 8)
    _assert_like_reference(size, unit_dim, memory_format, position_points, dtype)
    _forget_plans()


@OF_LAYOUTS
def test_64_bit_offsets(interpreted, monkeypatch, size, unit_dim, memory_format, position_points):
    """As tensors with rows of 2²⁷ elements and more run."""
    from jumpstart_kernels.kernels.triton import plan

    _forget_plans()
    monkeypatch.setattr(plan, "fits_int32", lambda elements: False)
    _assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32)
    _forget_plans()


@OF_LAYOUTS
def test_misaligned(interpreted, size, unit_dim, memory_format, position_points):
    from jumpstart_kernels.kernels.triton import launch

    x = torch.randn(size).contiguous(memory_format=memory_format or torch.contiguous_format)
    apart = torch.empty(x.numel() + 1)[1:].as_strided(x.size(), x.stride()).copy_(x)
    assert not launch._is_aligned(apart)
    options = (unit_dim, position_points, 1.0, True, True)
    for actual, expected in zip(
        triton_backend.jumpstart_relu_forward(apart, *options),
        triton_backend.jumpstart_relu_forward(x, *options),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@OF_LAYOUTS
def test_reads_nothing_that_it_has_not_written(
    interpreted, monkeypatch, size, unit_dim, memory_format, position_points
):
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    _assert_like_reference(size, unit_dim, memory_format, position_points, torch.float32)


def _forget_plans():
    from jumpstart_kernels.kernels.triton import launch

    launch._forward.cache_clear()
    launch._backward.cache_clear()


def test_every_tile_of_a_plan_is_taken_once():
    from jumpstart_kernels.kernels.layout import Layout
    from jumpstart_kernels.kernels.triton.plan import make_grid, make_planes

    grid = make_grid(Layout(2**20, 1, 2**13, 1, False), False, 2, True)
    assert grid.steps > 1
    assert grid.programs == (2**20 // grid.region_rows) * (2**13 // grid.tile.columns)
    planes = make_planes(Layout(2**10, 1, 2**8, 2**12, False), 2, True)
    assert planes.steps > 1
    assert planes.programs == (2**18 // planes.tile.rows) * (2**12 // planes.chunk_columns)


@pytest.mark.parametrize("inner", [49, 196, 784, 3136, 12544])
def test_few_elements_of_images_come_again(inner):
    from jumpstart_kernels.kernels.layout import Layout
    from jumpstart_kernels.kernels.triton.plan import make_planes

    planes = make_planes(Layout(64, 1, 256, inner, False), 2, True)
    tile = planes.tile.depth * planes.tile.columns
    assert -(-inner // tile) * tile <= 1.35 * inner


def test_a_launch_is_settled_once_for_each_device():
    from jumpstart_kernels.kernels.triton.launch import Launch

    calls = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments: calls.append(("compiled", grid, arguments))

    class Kernel:
        arg_names = ("x_ptr", "rows", "BLOCK")

        def __getitem__(self, grid):
            return lambda *arguments, **options: calls.append(("kernel", grid, arguments)) or Compiled()

    launch = Launch(Kernel(), 3, (7,), {"BLOCK": 64})
    for device in (0, 0, 1, 0):
        launch(device, "x")
    assert [call[0] for call in calls] == ["kernel", "compiled", "kernel", "compiled"]
    assert {call[1:] for call in calls} == {((3, 1, 1), ("x", 7, 64))}


def test_unavailable_names_the_device():
    assert "not for mps" in triton_backend.unavailable("mps")


def test_unavailable_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_backend._import_error.cache_clear()
    try:
        assert "pip install 'triton" in triton_backend.unavailable("cuda")
        assert "pip install 'triton" in triton_backend.unavailable("cpu")
    finally:
        triton_backend._import_error.cache_clear()


def test_unavailable_on_the_cpu_without_the_interpreter(monkeypatch):
    from jumpstart_kernels.kernels.triton import launch

    monkeypatch.setattr(launch, "INTERPRETED", False)
    assert "TRITON_INTERPRET=1" in triton_backend.unavailable("cpu")
    assert triton_backend.unavailable("cuda") is None
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), backends.use_backend("triton"):
            pass


def test_import_needs_no_triton_and_no_cuda():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, jumpstart_kernels as jk\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(jk.functional.jumpstart_relu(torch.ones(2, 2)).output.sum().item())"
    )
    assert _run_python(["-c", code], JUMPSTART_BACKEND="").strip() == "4.0"


def _compile_all() -> dict[str, dict]:
    """Machine code of the launches that a forward and backward of each layout make, by name."""
    from jumpstart_kernels.kernels.triton.launch import Launch

    launches = []
    Launch.__call__ = lambda launch, device, *arguments: launches.append((launch, arguments))
    found = {}
    for dtype, architecture in TARGETS:
        for layout, (x, position_points) in _activations(getattr(torch, dtype)).items():
            launches.clear()
            _, mask, slack_sums, extrema, indices = triton_backend.jumpstart_relu_forward(
                x, 1, position_points, 1.0, True, False
            )
            saved = (mask, extrema, indices, list(x.shape), is_channels_last(x, 1), x.dtype, 1, 1.0)
            triton_backend.jumpstart_relu_backward(torch.empty_like(x), slack_sums, extrema, *saved)
            for launch, arguments in launches:
                name = f"{launch.kernel.__name__}.{layout}"
                if name in STREAMING or (name in OTHERS and (dtype, architecture) in TARGETS[:2]):
                    code = _compile(launch, arguments, architecture)
                    found[f"{name}.{dtype}.{architecture}"] = dataclasses.asdict(code)
    return found


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
    }


def _compile(launch, arguments, architecture: int) -> MachineCode:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = (*arguments, *launch.numbers, *launch.constants)
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(launch.kernel.params, values, strict=True)):
        if parameter.is_constexpr:
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
    depth = constants.get("DEPTH", 1)
    offsets = r"tt\.addptr [^:]* : !tt\.ptr<bf16>, (i\d+)"
    return MachineCode(
        elements=depth * constants.get("VECTOR", 1),
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


if __name__ == "__main__":
    print(json.dumps(_compile_all()))
