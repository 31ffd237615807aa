"""``benchmarks/host_time``: what it needs, its peers, its table. With a CUDA build of torch it runs alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.host_time import __main__ as host_time
from benchmarks.host_time import runtime
from benchmarks.report.documents import ROOT
from jumpstart_kernels.bench.cases import Case
from jumpstart_kernels.bench.timing import Buffers
from jumpstart_kernels.building.recipe import find_cuda_home
from jumpstart_kernels.ops import native

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch")
def test_needs_a_cuda_build_of_torch(capsys):
    with pytest.raises(SystemExit):
        host_time.main([])
    assert "needs a CUDA build of torch" in capsys.readouterr().err


def test_is_not_loaded_by_itself(monkeypatch):
    monkeypatch.delenv(runtime.PRELOAD, raising=False)
    assert not runtime.Runtime.is_loaded()
    monkeypatch.setenv(runtime.PRELOAD, f"/somewhere/{runtime.NAME}")
    assert runtime.Runtime.is_loaded()


def test_runtime_of_the_packages(tmp_path):
    assert runtime.find_runtime(tmp_path) is None
    library = tmp_path / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    assert runtime.find_runtime(tmp_path) == library


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a library of Linux")
def test_functions_of_a_library():
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    exported = runtime.functions(library, "T")
    assert any("TensorImpl" in name for name in exported)
    assert "malloc" in runtime.functions(library, "U") - exported


def test_functions_are_written_once():
    text = "".join(source.read_text() for source in runtime.SOURCES)
    names = re.findall(r"^(?:DO|TRY)\((\w+),", text, re.MULTILINE)
    assert len(names) > 30 and len(names) == len(set(names))


@pytest.mark.skipif(native.extension() is None, reason="the extension is not built")
@pytest.mark.parametrize("layers", [1, 3])
def test_peers_run(layers):
    case = Case((8, 4))
    buffers = Buffers(case, CPU)
    (x, grad), *_ = buffers.pairs
    peers = host_time.all_peers(case, layers, CPU)
    for peer in peers:
        with peer.active():
            peer.prepare(x)
            outputs = peer.forward(x)
            torch.testing.assert_close(outputs[0], torch.relu(x))
            peer.backward(x, outputs, grad)
    assert len(peers[1].forward(x)) == 2  # with the penalty, of all layers and nothing else
    assert [len(peer.ones) for peer in peers] == [0, 1, 0]


def test_table():
    def peer(name, seconds):
        return {
            "name": name,
            "passes": {"forward": {"median": seconds}},
            "calls": {"forward": {"allocations": 2, "__cudaLaunchKernel": 1, "cudaGetDevice": 5}},
        }

    record = {
        "shape": [8, 4], "dtype": "float32", "layout": "contiguous", "bias": False, "layers": 1,
        "peers": [peer("nn.ReLU", 2e-6), peer("other", 3e-6)],
    }  # fmt: skip
    *_, line = host_time.write_table(record)
    assert line.split() == ["other", "forward", "3.00", "1.50", "2", "1", "5", "GetDevice"]


CAPTURES = """
import torch

def refused(run, message):
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            run()
    except RuntimeError as error:
        assert message in str(error) or message in str(error.__context__), error
    else:
        raise AssertionError(f"not refused: {message}")
    torch.cuda.synchronize()

x, other = torch.zeros(4, device="cuda"), torch.cuda.Stream()
outside = torch.cuda.Event()
outside.record()

def fork():
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x.add_(1)

def wait_for_others():
    torch.cuda.current_stream().wait_event(outside)

def work_elsewhere():
    with torch.cuda.stream(other):
        x.add_(1)

refused(lambda: x.sum().item(), "waits for a stream")
refused(torch.cuda.synchronize, "waits for the device")
refused(wait_for_others, "waits for others' work")
refused(work_elsewhere, "not captured")
refused(fork, "does not wait for")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    fork()
    torch.cuda.current_stream().wait_stream(other)
graph.replay()
print("as a GPU")
"""


@pytest.mark.skipif(torch.version.cuda is None, reason="the stand-in takes a CUDA build of torch")
@pytest.mark.skipif(find_cuda_home() is None, reason="the stand-in takes CUDA's headers, of the toolkit")
def test_captures_are_refused_as_by_a_gpu(tmp_path):
    (tmp_path / "captures.py").write_text(CAPTURES)
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.host_time", "--run", "captures"],
        env={**os.environ, "PYTHONPATH": paths}, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "as a GPU", done.stderr
