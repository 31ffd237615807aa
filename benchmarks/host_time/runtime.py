"""Builds the stand-in for CUDA's runtime, and talks to it."""

import ctypes
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
FOLDER = Path(__file__).resolve().parents[2] / "build" / "host_time"
NAME, PRELOAD = "libcudart_stand_in.so", "LD_PRELOAD"
DEVICES, MOST_DEVICES = "HOST_TIME_DEVICES", 8  # how many there are; devices.cpp
STUB = """__attribute__((weak)) int {name}(void) {{
  static int64_t* calls;
  if (!calls) calls = stand_in_counter("{name}");
  return ++*calls, 0;
}}
"""


def find_runtime(packages: Path) -> Path | None:
    """The runtime's library among the packages that pip has installed beside a CUDA build of torch."""
    found = sorted(packages.glob("nvidia/*/lib/libcudart.so.*"))
    return found[0] if found else None


def functions(library: Path, kind: str) -> set[str]:
    """Those that a library exports, kind T, or needs, kind U."""
    listed = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    lines = (line.split()[-2:] for line in listed.splitlines())
    return {name.partition("@")[0] for letter, name in lines if letter == kind}


def build(runtime: Path, torch: Path, toolkit: Path, folder: Path = FOLDER) -> Path:
    """Compile the stand-in.

    Args:
        runtime: CUDA's, which it stands in for.
        torch: the folder of PyTorch's libraries, which also call the driver and cuBLAS.
        toolkit: CUDA's, for its headers.
        folder: for the results.

    Raises:
        RuntimeError: it does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    driver = {name for name in functions(torch / "libcaffe2_nvrtc.so", "U") if re.match("cu[A-Z]", name)}
    blas = {name for name in functions(torch / "libtorch_cuda.so", "U") if name.startswith("cublas")}
    names = sorted(functions(runtime, "T") | driver | blas)
    text = "#include <stdint.h>\nint64_t* stand_in_counter(const char* name);\n"
    flags = ["-O2", "-fPIC", f"-I{toolkit / 'include'}"]
    # In a place of its own: another process may build it, too, or run with what is there.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        place, objects = Path(own), []
        stubs = place / "stubs.c"
        stubs.write_text(text + "".join(STUB.format(name=name) for name in names))
        for source, compiler in ((stubs, ["cc"]), *((source, ["c++", "-std=c++17"]) for source in SOURCES)):
            objects.append(place / f"{source.stem}.o")
            _run([*compiler, *flags, "-c", source, "-o", objects[-1]])
        # By this name the loader finds it where the driver is asked for.
        _run(["c++", "-shared", "-Wl,-soname,libcuda.so.1", *objects, "-o", place / NAME])
        return (place / NAME).replace(folder / NAME)


def _run(words: list[str | Path]) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the stand-in for CUDA's runtime does not compile:\n{done.stderr}")


class Runtime:
    """The stand-in that this process has been started with."""

    @staticmethod
    def is_loaded() -> bool:
        return Path(os.environ.get(PRELOAD, "")).name == NAME

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[PRELOAD])
        self._library.stand_in_name.restype = ctypes.c_char_p
        self._library.stand_in_name.argtypes = [ctypes.c_int64]
        self._library.stand_in_calls.restype = ctypes.c_int64
        self._library.stand_in_calls.argtypes = [ctypes.c_int64]
        self._library.stand_in_launches.restype = ctypes.c_int64

    def set_launch_time(self, nanoseconds: int) -> None:
        """What launching a kernel takes in addition."""
        self._library.stand_in_set_launch_time(ctypes.c_int64(nanoseconds))

    def launches(self, device: int) -> int:
        """How often a kernel has been launched on a device."""
        return self._library.stand_in_launches(ctypes.c_int(device))

    def calls(self) -> Counter[str]:
        """How often each function has been called."""
        counts: Counter[str] = Counter()
        index = 0
        while (name := self._library.stand_in_name(index)) is not None:
            counts[name.decode()] += self._library.stand_in_calls(index)
            index += 1
        return counts
