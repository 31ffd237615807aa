"""Native CUDA layers in threads whose device PyTorch has noted, but not set, since it has no context yet: in
processes of their own, where a context stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jumpstart_kernels.ops import backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two CUDA devices"),
    pytest.mark.skipif(
        backends.unavailable("native", "cuda") is not None, reason=str(backends.unavailable("native", "cuda"))
    ),
]
ROOT = Path(__file__).resolve().parents[2]
OF_AUTOGRAD = """
import torch
from two_devices import FIRST, SECOND, alone, check_devices, make_input, make_layers, step

check_devices(step(make_layers(), make_input((256, 1024), FIRST)), FIRST)
# By now autograd has a thread for each device, of which that of the second has only noted its own.
assert not torch._C._cuda_hasPrimaryContext(1)
with alone(SECOND):
    check_devices(step(make_layers(), make_input((256, 1024), SECOND), reduction="norm"), SECOND)
"""
OF_A_CALL = """
import threading
import torch
from two_devices import FIRST, SECOND, alone, check_devices, make_input, make_layers, step

for _ in range(2):
    with alone(SECOND):
        check_devices(step(make_layers(), make_input((256, 1024), SECOND), reduction="norm"), SECOND)
assert not torch._C._cuda_hasPrimaryContext(0)  # which would take hundreds of megabytes of it
# Here PyTorch has noted that the first device is the current one; to CUDA it still is the second.
inputs, layers = [], make_layers()

def prepare():
    inputs.append(make_input((256, 1024), FIRST))
    layers(*inputs)  # PyTorch's allocator then has memory for the call below, and sets no device for it

thread = threading.Thread(target=prepare)
thread.start()
thread.join()
with alone(FIRST):
    check_devices([layers(*inputs)], FIRST)
"""


@pytest.mark.parametrize("script", (OF_AUTOGRAD, OF_A_CALL), ids=("of_autograd", "of_a_call"))
def test_a_device_that_is_only_noted(script):
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
