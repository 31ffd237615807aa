"""The machine code of the Triton backend's kernels, compiled for GPUs that need not be present.

The tests call it as a program, since in their own process the kernels are interpreted. It compiles kernels
and prints its findings, or launches them on a stub driver and prints their arguments.
"""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from builds import build_all

from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.arguments import Gradients, LinkedSaved, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last

THREADS = 128  # of a program


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

    @property
    def bytes_under_way(self) -> int:
        """The loads of activations under way on a multiprocessor."""
        programs = min(65536 // (self.registers * THREADS), 2048 // THREADS)
        return programs * THREADS * 16 * self.depth


def machine_code(wanted: list[str], with_bias: bool = False) -> dict[str, MachineCode]:
    """Of launches ``<kernel>.<layout>.<dtype>.<architecture>``, by these names."""
    targets = [*dict.fromkeys(_target(name) for name in wanted)]
    halves: list[list[str]] = [[], []]  # one for each of two workers
    for name in wanted:
        halves[targets.index(_target(name)) % 2].append(name)
    parts = {f"triton_{_hash(half, with_bias)}.json": half for half in halves if half}

    def compile_part(name: str, path: Path) -> None:
        path.write_text(json.dumps(run("compile", parts[name], with_bias)))

    found = [json.loads(path.read_text()) for path in build_all(list(parts), compile_part)]
    return {name: MachineCode(**code) for part in found for name, code in part.items()}


def _target(name: str) -> tuple[str, ...]:
    """Data type and architecture."""
    return tuple(name.split(".")[2:])


def _hash(*values) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def linked_machine_code(wanted: list[str]) -> dict[str, MachineCode]:
    """Of launches ``<kernel>.<layout>.<dtype>.<architecture>.<activation>.<extrema kind>``."""
    return {name: MachineCode(**code) for name, code in run("compile_linked", wanted).items()}


def run(task: str, *arguments):
    """The output of a task of this file, run as a subprocess."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TRITON_INTERPRET": "0",
    }
    command = [sys.executable, __file__, task, json.dumps(arguments)]
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=230, check=False
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


def compile_all(wanted: list[str], with_bias: bool) -> dict[str, dict]:
    """Those among the launches that a forward and backward of each layout make."""
    from jumpstart_kernels.ops.triton.launch import Launch

    launches = []
    Launch.__call__ = lambda launch, device, *arguments: launches.append((launch, arguments))
    found = {}
    for dtype, architecture in dict.fromkeys(map(_target, wanted)):
        for layout, (x, position_points) in activations(getattr(torch, dtype)).items():
            launches.clear()
            bias = x.new_empty(x.shape[1]) if with_bias else None
            forward_and_backward(x, bias, position_points, with_grad_extrema=True)
            for launch, arguments in launches:
                name = f"{launch.kernel.__name__}.{layout}.{dtype}.{architecture}"
                if name in wanted:
                    found[name] = dataclasses.asdict(compile_launch(launch, arguments, int(architecture)))
    return found


def compile_linked(wanted: list[str]) -> dict[str, dict]:
    """As :func:`compile_all`, of linked activations."""
    from jumpstart_kernels.ops.triton.launch import Launch

    launches = []
    Launch.__call__ = lambda launch, device, *arguments: launches.append((launch, arguments))
    found = {}
    for layout, *rest in dict.fromkeys(tuple(name.split(".")[1:]) for name in wanted):
        dtype, architecture, activation, kind = rest
        x, position_points = activations(getattr(torch, dtype))[layout]
        launches.clear()
        linked_forward_and_backward(x, Options(activation, 0.0, 1, position_points, 1.0, kind))
        for launch, arguments in launches:
            name = ".".join((launch.kernel.__name__, layout, *rest))
            if name in wanted:
                found[name] = dataclasses.asdict(compile_launch(launch, arguments, int(architecture)))
    return found


def linked_forward_and_backward(x: torch.Tensor, options: Options) -> None:
    definition = LINKED_ACTIVATIONS[options.activation]
    weight = None if definition.slope_derivative is None else x.new_empty(2, x.shape[1])
    result = triton_backend.linked_activation_forward(x, weight, options)
    of_statistics = (None, None) if options.extrema_kind == "none" else (result.slack_sums, result.extrema)
    saved = LinkedSaved(
        None if definition.from_sign else x,
        weight,
        result.mask,
        result.extrema,
        result.indices,
        list(x.shape),
        is_channels_last(x, 1),
        x.dtype,
        weight is not None,
    )
    gradients = Gradients(torch.empty_like(result.output), *of_statistics)
    triton_backend.linked_activation_backward(gradients, saved, options)


def forward_and_backward(
    x: torch.Tensor, bias: torch.Tensor | None, position_points: bool, with_grad_extrema: bool
) -> None:
    options = Options("relu", 0.0, 1, position_points, 1.0, extrema_kind="exact")
    result = triton_backend.jumpstart_activation_forward(x, bias, options)
    gradients = Gradients(
        torch.empty_like(x), result.slack_sums, result.extrema if with_grad_extrema else None
    )
    statistics = (result.mask, result.extrema, result.indices)
    saved = Saved(*statistics, list(x.shape), is_channels_last(x, 1), x.dtype, bias is not None)
    triton_backend.jumpstart_activation_backward(gradients, saved, options)


def activations(dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, bool]]:
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


def compile_launch(launch, arguments, architecture: int) -> MachineCode:
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
    registers, stack, local = resources(compiled.asm["cubin"])
    loop = loop_over_tiles(compiled.asm["cubin"])
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


def loop_over_tiles(cubin: bytes) -> list[str]:
    """Names of the instructions of the first loop that loads from global memory; none without such a loop."""
    instructions, addresses = [], {}
    for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", cuobjdump(cubin, "-sass")):
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


def resources(cubin: bytes) -> tuple[int, ...]:
    """Registers of a thread, and bytes of stack and of local memory that it takes."""
    usage = cuobjdump(cubin, "--dump-resource-usage")
    return tuple(int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK", "LOCAL"))


def cuobjdump(cubin: bytes, option: str) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def launch_on_stub(calls: list[list]) -> list[dict]:
    """What forwards and backwards launch, by call: arguments of the kernels, and how many were compiled anew.

    Args:
        calls: of each the size of x, a bias's value or None, and whether the bias is aligned.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    launches: list = []
    loaded: list = []

    class Utilities:
        def load_binary(self, *arguments):
            loaded.append(arguments)
            return "module", "function", 0, 0, 1024  # then registers, spills, most threads

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
    found = []
    for size, value, aligned in calls:
        launches.clear()
        loaded.clear()
        bias = None if value is None else torch.full((size[1] + 1,), value)[0 if aligned else 1 :][: size[1]]
        forward_and_backward(torch.ones(size), bias, False, with_grad_extrema=False)
        found.append({"launches": list(launches), "compiled": len(loaded)})
    return found


if __name__ == "__main__":
    task = {"compile": compile_all, "compile_linked": compile_linked, "launch": launch_on_stub}[sys.argv[1]]
    print(json.dumps(task(*json.loads(sys.argv[2]))))
