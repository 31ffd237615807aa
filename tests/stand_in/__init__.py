"""A pytest plugin that runs tests for a GPU without one, on a device made of the host's memory.

    make test-stand-in

To PyTorch its tensors are on ``cuda:0`` (``stand_in.cpp``): one on the CPU beside one on the GPU, a wrong
generator, and what waits for the device in a capture are errors, and autograd has a thread for the device.
Kernels are the CPU's, Triton's interpreted: nothing is said about those of a GPU. Streams never overlap, and
what compiles for a GPU is skipped. Needs a torch for the CPU, a compiler, ninja and the extension.
"""

import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).resolve().parents[2] / "build" / "stand_in"
BUILD = """
import sys
from torch.utils import cpp_extension
source, folder = sys.argv[1:]
cpp_extension.load("stand_in_device", [source], build_directory=folder, extra_cflags=["-O1"])
"""


def load():
    """The extension, compiled if it is not there; before torch, which asks only once what a GPU can do."""
    if "torch" in sys.modules:
        raise RuntimeError("load the stand-in before torch: pytest -p stand_in")
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of ninja
    source = Path(__file__).with_name("stand_in.cpp")
    subprocess.run(
        [sys.executable, "-c", BUILD, source, FOLDER], env={**os.environ, "PATH": path}, check=True
    )
    file = FOLDER / "stand_in_device.so"
    libraries = Path(importlib.util.find_spec("torch").origin).with_name("lib")
    for library in (libraries / "libtorch_python.so", file):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    import torch

    if torch.version.cuda is not None:
        raise RuntimeError("a stand-in for a GPU needs a build of torch for the CPU")
    loader = importlib.machinery.ExtensionFileLoader("stand_in_device", str(file))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("stand_in_device", loader))
    loader.exec_module(module)
    return module


device = load()

import pytest  # noqa: E402
import torch  # noqa: E402

os.environ["TRITON_INTERPRET"] = "1"

SKIPPED = {  # by a part of the test's id
    "inductor": "compiles for a GPU",
    "reduce_overhead": "compiles for a GPU",
    "bench/test_command.py::test_on_a_gpu": "compiles for a GPU",
    "test_on_gpus": "needs NCCL",
    "test_kernel_times": "needs the profiler of a GPU",
    "test_times_of_every_setting": "needs the profiler of a GPU",
    "two_to_the_31": "takes a GPU's memory and speed",
    "two_devices_is_an_error": "the kernel of a GPU checks it",
}


class Stream:
    def __init__(self, *_, number=None, **__):
        self.number = device.new_stream() if number is None else number

    def wait_stream(self, other):
        pass

    def synchronize(self):
        synchronize()


class Event:
    def __init__(self, **_):
        self.time = 0.0

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        synchronize()

    def elapsed_time(self, other):
        return max(1e-6, 1e3 * (other.time - self.time))


class CUDAGraph:
    def capture_begin(self, **_):
        device.begin_capture()

    def capture_end(self):
        self.graph = device.end_capture()

    def replay(self):
        self.graph.replay()

    def pool(self):
        return (0, 1)


@contextlib.contextmanager
def use_stream(stream):
    before = device.set_stream(stream.number)
    try:
        yield
    finally:
        device.set_stream(before)


@contextlib.contextmanager
def capture(graph, pool=None, stream=None, **_):
    time.sleep(0.05)  # autograd's thread lets go of the last graph, for which PyTorch synchronizes here
    with use_stream(stream or CAPTURES), warnings.catch_warnings():
        # The stream of a gradient that a live graph holds takes part, and must not if it is the default one.
        # With a pool it is PyTorch that captures, in make_graphed_callables, where it is that of the warm-up.
        if pool is None:
            warnings.filterwarnings("error", message="The AccumulateGrad node's stream does not match")
        graph.capture_begin()
        try:
            yield
        finally:
            graph.capture_end()


def synchronize(_=None):
    if device.is_capturing():
        raise RuntimeError("stand-in: synchronized while a stream is capturing")


def set_sync_debug_mode(mode):
    device.forbid_waiting(mode == "error")


def exchange_device(_):
    return 0


def maybe_exchange_device(_):
    return 0


def current_device():
    return 0


def constant(value):
    return lambda *_, **__: value


CAPTURES = Stream()
PROPERTIES = SimpleNamespace(
    name="Stand-in",
    major=9,
    minor=0,
    total_memory=2**34,
    multi_processor_count=132,
    L2_cache_size=2**22,
    uuid="",
    warp_size=32,
)
generator = device.default_generator()
FAKES = {
    "is_available": constant(True),
    "is_initialized": constant(True),
    "_is_compiled": constant(True),
    "_lazy_init": constant(None),
    "_lazy_call": lambda call, **_: call(),
    "_is_in_bad_fork": constant(False),
    "device_count": constant(1),
    "current_device": current_device,
    "set_device": constant(None),
    "_exchange_device": exchange_device,
    "_maybe_exchange_device": maybe_exchange_device,
    "synchronize": synchronize,
    "set_sync_debug_mode": set_sync_debug_mode,
    "is_bf16_supported": constant(True),
    "get_device_name": constant(PROPERTIES.name),
    "get_device_capability": constant((9, 0)),
    "get_device_properties": constant(PROPERTIES),
    "empty_cache": constant(None),
    "mem_get_info": constant((2**34, 2**34)),
    "memory_allocated": constant(0),
    "max_memory_allocated": constant(1),
    "reset_peak_memory_stats": constant(None),
    "default_generators": (generator,),
    "manual_seed": generator.manual_seed,
    "manual_seed_all": generator.manual_seed,
    "get_rng_state": lambda *_: generator.get_state(),
    "set_rng_state": lambda state, *_: generator.set_state(state),
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": CUDAGraph,
    "stream": use_stream,
    "graph": capture,
    "graph_pool_handle": constant((0, 1)),
    "current_stream": lambda *_: Stream(number=device.stream()),
    "default_stream": lambda *_: Stream(number=0),
    "is_current_stream_capturing": device.is_capturing,
}


def new_storage(cls, *args, device=None, **options):
    """This build of PyTorch has none for a GPU."""
    if device is not None and torch.device(device).type == "cuda":
        return torch.empty(*args, dtype=torch.uint8, device=device).untyped_storage()
    if device is not None:
        options["device"] = device
    return torch._C.StorageBase.__new__(cls, *args, **options)


def install():
    for module in (torch.cuda, torch.cuda.random, torch.cuda.graphs, torch.cuda.streams):
        for name, fake in FAKES.items():
            if module is torch.cuda or hasattr(module, name):
                setattr(module, name, fake)
    # What the compiler asks for.
    torch._C._cuda_getCurrentRawStream = constant(0)
    torch._C._cuda_exchangeDevice = exchange_device
    torch._C._cuda_maybeExchangeDevice = maybe_exchange_device
    torch._C._cuda_getDevice = current_device
    torch.UntypedStorage.__new__ = new_storage
    torch.Tensor.record_stream = constant(None)
    torch.set_warn_always(True)

    from jumpstart_kernels.ops import native

    native.has_cuda = lambda: native.extension() is not None
    with contextlib.suppress(ImportError):
        from triton.runtime.interpreter import GridExecutor

        GridExecutor.__call__ = on_memory(GridExecutor.__call__)


def on_memory(call):
    """Triton's interpreter, on the memory of the arguments."""

    @functools.wraps(call)
    def run(self, *args, **options):
        tensors = [arg for arg in (*args, *options.values()) if isinstance(arg, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            raise RuntimeError("stand-in: a kernel of Triton got tensors of the CPU and of the GPU")
        args = [on_cpu(arg) for arg in args]
        options = {name: on_cpu(option) for name, option in options.items()}
        if device.is_capturing():
            device.capture(lambda: call(self, *args, **options))
        return call(self, *args, **options)

    return run


def on_cpu(value):
    return device.on_cpu(value) if isinstance(value, torch.Tensor) and value.is_cuda else value


def pytest_collection_modifyitems(items):
    for item in items:
        reason = next((reason for part, reason in SKIPPED.items() if part in item.nodeid), "")
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"with a stand-in for a GPU: {reason}"))


install()
