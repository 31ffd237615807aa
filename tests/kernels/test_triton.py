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

ARCHITECTURES = (80, 90, 100)
DTYPES = ("float32", "bfloat16", "float16")
THREADS = 128
STREAMING = (  # the kernels that all activations pass through
    "jumpstart_relu_forward_rows_kernel.2d",
    "jumpstart_relu_forward_rows_kernel.channels_last",
    "jumpstart_relu_forward_planes_kernel.contiguous",
    "jumpstart_relu_backward_kernel.contiguous",
)
SMALL = (
    "jumpstart_relu_statistics_forward_kernel.2d",
    "jumpstart_relu_statistics_forward_kernel.contiguous",
    "jumpstart_relu_extrema_backward_kernel.2d",
    "jumpstart_relu_extrema_backward_kernel.channels_last",
)


@dataclasses.dataclass
class MachineCode:
    """What a test asks of a kernel for one architecture."""

    tile_bytes: int  # of activations, that a program holds at once
    loads: int  # of 16 bytes, by each thread
    stores: int
    stack: int
    local: int
    pointer_offsets: list[str]  # types of the tensors of offsets


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", STREAMING)
def test_activations_move_16_bytes_at_once(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    pieces = code.tile_bytes // (16 * THREADS)
    assert pieces > 0
    assert code.loads == pieces
    assert code.stores == pieces


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", STREAMING + SMALL)
def test_no_spills_and_no_local_memory(machine_code, kernel, dtype, architecture):
    code = machine_code[f"{kernel}.{dtype}.{architecture}"]
    assert (code.stack, code.local) == (0, 0)


@pytest.mark.parametrize("kernel", STREAMING)
def test_offsets_of_activations_have_64_bits(machine_code, kernel):
    code = machine_code[f"{kernel}.bfloat16.90"]
    assert code.pointer_offsets
    assert set(code.pointer_offsets) == {"i64"}


LAYOUTS = [
    pytest.param((70, 40), 1, None, id="2d"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, id="channels_last"),
    pytest.param((3, 5, 300), 1, None, id="planes"),
    pytest.param((2, 37, 12), 2, None, id="units-last"),
]


@pytest.fixture
def interpreted():
    reason = triton_backend.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


def _assert_like_reference(size, unit_dim, memory_format, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).mul(2).round().div(2).to(dtype)  # with ties
    if memory_format is not None:
        x = x.contiguous(memory_format=memory_format)
    options = (unit_dim, False, 3.0, True, False)
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


@pytest.mark.parametrize("size, unit_dim, memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_programs_of_several_tiles(interpreted, monkeypatch, size, unit_dim, memory_format, dtype):
    """As large tensors run, which the interpreter is too slow for."""
    from jumpstart_kernels.kernels.triton import plan

    plan.make_plan.cache_clear()
    monkeypatch.setattr(plan, "_PROGRAMS", 1)
    monkeypatch.setattr(plan, "_ELEMENTS", 8)
    monkeypatch.setattr(plan, "_LANES", 4)
    _assert_like_reference(size, unit_dim, memory_format, dtype)
    plan.make_plan.cache_clear()


@pytest.mark.parametrize("size, unit_dim, memory_format", LAYOUTS)
def test_64_bit_places(interpreted, monkeypatch, size, unit_dim, memory_format):
    """As tensors of 2³¹ elements and more run."""
    from jumpstart_kernels.kernels.triton import launch

    monkeypatch.setattr(launch, "_fits_int32", lambda elements: False)
    _assert_like_reference(size, unit_dim, memory_format, torch.float32)


@pytest.mark.parametrize("size, unit_dim, memory_format", LAYOUTS)
def test_reads_nothing_that_it_has_not_written(interpreted, monkeypatch, size, unit_dim, memory_format):
    new_empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    _assert_like_reference(size, unit_dim, memory_format, torch.float32)


def test_every_tile_of_a_plan_is_taken_once():
    from jumpstart_kernels.kernels.layout import Layout
    from jumpstart_kernels.kernels.triton.plan import make_plan

    huge = Layout(2**20, 1, 2**13, 1, False)
    plan = make_plan(huge, False, 2)
    rows = plan.tile.depth * plan.tile.rows * plan.steps
    assert plan.programs == (2**20 // rows) * (2**13 // plan.tile.columns)
    # Places of 16-bit floats are packed in 16 bits.
    assert plan.steps * plan.tile.depth * plan.tile.columns <= 2**16


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
    import triton

    launches = []

    def record(kernel, *arguments, grid, warmup, **options):
        launches.append((kernel, arguments, options))

    triton.JITFunction.run = record
    found = {}
    for dtype in DTYPES:
        for layout, x in _activations(getattr(torch, dtype)).items():
            launches.clear()
            _, mask, slack_sums, extrema, indices = triton_backend.jumpstart_relu_forward(
                x, 1, False, 1.0, True, False
            )
            saved = (mask, extrema, indices, list(x.shape), is_channels_last(x, 1), x.dtype, 1, 1.0)
            triton_backend.jumpstart_relu_backward(torch.empty_like(x), slack_sums, extrema, *saved)
            for kernel, arguments, options in launches:
                name = f"{kernel.__name__}.{layout}"
                if name in STREAMING + SMALL:
                    for architecture in ARCHITECTURES:
                        code = _compile(kernel, arguments, dict(options), architecture)
                        found[f"{name}.{dtype}.{architecture}"] = dataclasses.asdict(code)
    return found


def _activations(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "2d": torch.empty(4096, 1024, dtype=dtype),
        "channels_last": torch.empty(8, 256, 28, 28, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        ),
        "contiguous": torch.empty(8, 64, 56, 56, dtype=dtype),
    }


def _compile(kernel, arguments, options, architecture: int) -> MachineCode:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    not_constants = set(options) - set(kernel.arg_names)
    compile_options = {name: options.pop(name) for name in not_constants}
    signature, constants, attributes = {}, options, {}
    for i, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + triton.runtime.jit.mangle_type(value).removeprefix("*")
            attributes[(i,)] = [["tt.divisibility", 16]]  # as PyTorch allocates
        else:
            signature[name] = triton.runtime.jit.mangle_type(value)
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    compiled = triton.compile(
        ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options=compile_options,
    )
    elements = constants.get("ROWS", 0) * constants.get("COLUMNS", 0) * constants.get("DEPTH", 1)
    stack, local = _resources(compiled.asm["cubin"])
    offsets = r"tt\.addptr .* : tensor<[^>]*ptr<\w+>>, tensor<(?:\d+x)*(i\d+)>"
    return MachineCode(
        tile_bytes=elements * arguments[0].element_size(),
        loads=_accesses(compiled.asm["ptx"], "ld"),
        stores=_accesses(compiled.asm["ptx"], "st"),
        stack=stack,
        local=local,
        pointer_offsets=re.findall(offsets, compiled.asm["ttir"]),
    )


def _accesses(ptx: str, kind: str) -> int:
    """How many loads or stores of global memory move 16 bytes."""
    widths = re.findall(rf"\b{kind}\.global(?:\.(?!v\d|b\d)[\w:]+)*(?:\.v(\d))?\.b(\d+)", ptx)
    return sum(int(vector or 1) * int(bits) == 128 for vector, bits in widths)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Bytes of stack and of local memory that a thread takes."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("STACK", "LOCAL"))


if __name__ == "__main__":
    print(json.dumps(_compile_all()))
