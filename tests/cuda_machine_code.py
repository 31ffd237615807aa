"""nvcc's machine code for CUDA kernels, without a GPU."""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parents[1] / "csrc"
ARCHITECTURES = (80, 90, 100)
NVCC = shutil.which("nvcc")


def _find_cuobjdump() -> str | None:
    """The CUDA toolkit's, or the one bundled with Triton."""
    try:
        from triton import knobs

        return knobs.nvidia.cuobjdump.path
    except (ImportError, AttributeError, RuntimeError):
        return shutil.which("cuobjdump")


CUOBJDUMP = _find_cuobjdump()


def missing() -> str | None:
    """Why there is no machine code to look at here, or None if there is."""
    if NVCC is None:
        return "nvcc is not installed"
    return None if CUOBJDUMP else "neither the CUDA toolkit's nor Triton's cuobjdump is here"


class MachineCode(NamedTuple):
    registers: int
    stack: int
    local: int
    loop: list[str]  # instructions of the loop over tiles


def compile_for(architecture: int, lines: list[str]) -> tuple[str, str]:
    """cuobjdump's resource usage and machine code of a source."""
    assert NVCC and CUOBJDUMP
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder) / "kernels.cu", Path(folder) / "kernels.o"
        source.write_text("\n".join(lines))
        flags = ["-std=c++17", "-O3", "-fmad=false", f"-arch=sm_{architecture}", f"-I{CSRC}"]
        # With the host's half of it: that compiler, too, reads the initializers of constructors.
        _run([NVCC, *flags, "-c", str(source), "-o", str(compiled)])
        return (
            _run([CUOBJDUMP, "--dump-resource-usage", str(compiled)]),
            _run([CUOBJDUMP, "-sass", str(compiled)]),
        )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shortest_loop(text: str, loads: int, stores: int) -> list[str]:
    """The shortest that makes so many loads and stores of 16 bytes, those of a step."""
    code = [(int(place, 16), text) for place, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", text)]
    # Behind the end lies what is seldom run, and branches back.
    code = code[: next(i for i, (_, text) in enumerate(code) if text.strip() == "EXIT")]
    loops = []
    for end, instruction in code:
        target = re.search(r"\bBRA\b.* 0x([0-9a-f]+)", instruction)
        if target and int(target.group(1), 16) < end:
            body = [text for place, text in code if int(target.group(1), 16) <= place <= end]
            accesses = accesses_of(body)
            if accesses["LDG", 128] >= loads and accesses["STG", 128] >= stores:
                loops.append(body)
    return min(loops, key=len)


def accesses_of(instructions: list[str]) -> Counter:
    """Number of accesses of global memory, by kind and bits."""
    counts: Counter = Counter()
    for instruction in instructions:
        access = re.search(r"\b(LDG|STG)\.E([.\w]*)", instruction)
        if access:
            bits = re.search(r"\.(128|64|U8|U16)\b", access.group(2))
            counts[access.group(1), int(bits.group(1).removeprefix("U")) if bits else 32] += 1
    return counts
