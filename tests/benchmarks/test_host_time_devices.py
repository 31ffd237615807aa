"""Several GPUs of ``benchmarks/host_time``: what is wrong about devices is an error, as on real ones."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.host_time import __main__ as host_time
from benchmarks.report.documents import ROOT
from jumpstart_kernels.building.recipe import find_cuda_home
from jumpstart_kernels.ops import native

takes_cuda = pytest.mark.skipif(
    torch.version.cuda is None or find_cuda_home() is None,
    reason="the stand-in takes a CUDA build of torch, and CUDA's headers, of the toolkit",
)


def run_on_two(*words, paths=()):
    """A module on two GPUs."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.host_time", "--devices", "2", "--run", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((*map(str, paths), str(ROOT)))},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("devices", ("0", "9", "two"))
def test_bad_numbers_of_devices(devices, capsys):
    with pytest.raises(SystemExit):
        host_time.main(["--devices", devices])
    assert "--devices" in capsys.readouterr().err


DEVICES = """
import ctypes
import os
import threading

cuda = ctypes.CDLL(os.environ["LD_PRELOAD"])
cuda.cudaGetErrorString.restype = ctypes.c_char_p
INVALID_VALUE, INVALID_DEVICE, INVALID_HANDLE = 1, 101, 400

class Size(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]

def made(function, *arguments):
    handle = ctypes.c_void_p()
    assert getattr(cuda, function)(ctypes.byref(handle), *arguments) == 0
    return handle

def number(function, *arguments):
    value = ctypes.c_int(-1)
    assert getattr(cuda, function)(*arguments, ctypes.byref(value)) == 0
    return value.value

def on(device, run, *arguments):
    assert cuda.cudaSetDevice(device) == 0
    return run(*arguments)

def launch(stream, shared=0):
    size = Size(1, 1, 1)
    return cuda.cudaLaunchKernel(ctypes.c_void_p(1), size, size, None, ctypes.c_size_t(shared), stream)

def has_context(device):
    return number("cuDevicePrimaryCtxGetState", device, ctypes.byref(ctypes.c_int()))

def device_of(pointer):
    attributes = (ctypes.c_int * 64)()
    assert cuda.cudaPointerGetAttributes(attributes, pointer) == 0
    return attributes[1]

# The current device is the thread's own; a context begins with the first use.
assert number("cudaGetDeviceCount") == 2
assert cuda.cudaSetDevice(2) == cuda.cudaSetDevice(-1) == INVALID_DEVICE
assert cuda.cudaDeviceGetAttribute(ctypes.byref(ctypes.c_int()), 16, 2) == INVALID_DEVICE
assert [has_context(device) for device in (0, 1)] == [0, 0]
on(1, int)
assert [has_context(device) for device in (0, 1)] == [0, 1]
seen = []
thread = threading.Thread(target=lambda: seen.append(number("cudaGetDevice")))
thread.start()
thread.join()
assert seen == [0] and number("cudaGetDevice") == 1

# Memory.
pointers = [on(device, made, "cudaMalloc", ctypes.c_size_t(64)) for device in (0, 1)]
assert [device_of(pointer) for pointer in pointers] == [0, 1]
first, second = pointers
bytes_and_stream = ctypes.c_size_t(64), None
assert cuda.cudaMemcpyPeerAsync(first, 0, second, 1, *bytes_and_stream) == 0
assert cuda.cudaMemcpyPeerAsync(first, 1, second, 0, *bytes_and_stream) == INVALID_VALUE

# Kernels run on streams of the current device, copies on those of any.
streams = [on(device, made, "cudaStreamCreateWithPriority", 0, 0) for device in (0, 1)]
before = [cuda.stand_in_launches(device) for device in (0, 1)]
for device in (0, 1):
    for owner, stream in enumerate(streams):
        same = owner == device
        assert on(device, launch, stream) == (0 if same else INVALID_HANDLE)
        filled = cuda.cudaMemsetAsync(pointers[owner], 0, *bytes_and_stream[:1], stream)
        assert filled == (0 if same else INVALID_HANDLE)
        assert cuda.cudaMemcpyAsync(first, second, bytes_and_stream[0], 3, stream) == 0
    assert on(device, launch, None) == 0
assert [cuda.stand_in_launches(device) for device in (0, 1)] == [before[0] + 2, before[1] + 2]
assert on(0, launch, streams[1]) == INVALID_HANDLE
assert b"on a stream of device 1 while device 0" in cuda.cudaGetErrorString(INVALID_HANDLE)

# Events.
events = [on(device, made, "cudaEventCreate") for device in (0, 1)]
for owner, event in enumerate(events):
    for device, stream in enumerate(streams):
        assert cuda.cudaEventRecord(event, stream) == (0 if owner == device else INVALID_HANDLE)
        assert cuda.cudaStreamWaitEvent(stream, event, 0) == 0
milliseconds = ctypes.byref(ctypes.c_float())
assert cuda.cudaEventElapsedTime(milliseconds, *events) == INVALID_HANDLE
assert cuda.cudaEventElapsedTime(milliseconds, events[0], events[0]) == 0

# What a kernel is allowed.
largest = 100_000
assert on(0, cuda.cudaFuncSetAttribute, ctypes.c_void_p(1), 8, largest) == 0
assert on(0, launch, None, largest) == 0
assert on(1, launch, None, largest) == INVALID_VALUE
print("as two GPUs")
"""


@takes_cuda
def test_devices_are_kept_apart_as_by_gpus(tmp_path):
    (tmp_path / "devices.py").write_text(DEVICES)
    done = run_on_two("devices", paths=(tmp_path,))
    assert done.stdout.strip() == "as two GPUs", done.stderr


@takes_cuda
@pytest.mark.skipif(not native.has_cuda(), reason="the extension is built without CUDA")
def test_layers_run_on_two_devices():
    files = ("tests/ops/test_two_devices.py", "tests/ops/test_noted_devices.py")
    done = run_on_two("pytest", "-q", "-m", "gpu", *files, paths=(ROOT / "tests",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
