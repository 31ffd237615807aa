"""The choice of backend."""

import os
import subprocess
import sys

import pytest
import torch

import jumpstart_kernels as jk
from jumpstart_kernels.ops import backends


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_choice_is_in_force_inside_the_block(target):
    backend, device = target
    x = torch.ones(2, 3, device=device)
    assert backends.select(x) == backend
    with jk.use_backend("reference"):
        assert backends.select(x) == "reference"
    assert backends.select(x) == backend


def test_the_choice_ends_with_an_error():
    before = backends.select(torch.ones(1))
    with pytest.raises(KeyError), jk.use_backend("reference"):
        raise KeyError
    assert backends.select(torch.ones(1)) == before


def test_the_default_is_the_fastest_that_is_there():
    fastest = "native" if backends.unavailable("native", "cpu") is None else "reference"
    assert backends.select(torch.ones(1)) == fastest  # Triton is an interpreter on the CPU


def test_backward_runs_by_the_backend_of_its_forward(target):
    backend, device = target
    x = torch.tensor([[0.5, -1.0]], device=device, requires_grad=True)
    outputs = jk.functional.jumpstart_relu(x)
    with jk.use_backend("reference"):
        (outputs.output.sum() + outputs.slack_sums[0].sum()).backward()
    # Unit 0: s⁺ = 0.5, s⁻ = 1.5: −1 + 1 of the sums, −1 + 3 of their squares, 0.5 − 1.5, and 1 of the ReLU.
    # Unit 1: s⁺ = 2, s⁻ = 0: −1 − 4.
    assert x.grad.tolist() == [[2.0, -5.0]]


def test_an_unknown_backend_is_an_error_at_once():
    text = "backend must be one of 'native', 'triton', 'reference', got 'cuda'"
    with pytest.raises(ValueError, match=text), jk.use_backend("cuda"):
        pass


def test_an_unavailable_backend_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(backends, "unavailable", lambda backend, device: "it is not here: install it")
    before = backends._chosen
    with pytest.raises(RuntimeError, match="backend 'native' is not available: it is not here: install it"):
        jk.use_backend("native").__enter__()
    assert backends._chosen == before


def test_a_tensor_of_a_device_that_the_backend_has_no_kernels_for():
    x = torch.empty(2, 3, device="meta")
    with jk.use_backend("reference"):
        assert jk.functional.jumpstart_relu(x).output.device.type == "meta"
    if backends.unavailable("native", "cpu") is not None:
        pytest.skip("the native backend is not built")
    with (
        jk.use_backend("native"),
        pytest.raises(RuntimeError, match="cannot run a meta tensor: it has kernels for"),
    ):
        jk.functional.jumpstart_relu(x)


CHOICE = "import torch; from jumpstart_kernels.ops import backends; print(backends.select(torch.ones(1)))"


def test_environment_variable():
    assert run_python(CHOICE, JUMPSTART_BACKEND="reference").stdout.strip() == "reference"
    assert run_python(CHOICE, JUMPSTART_BACKEND="").stdout.strip() in ("native", "reference")


def test_environment_variable_with_a_wrong_name():
    result = run_python(CHOICE, JUMPSTART_BACKEND="fast")
    assert result.returncode != 0
    assert "JUMPSTART_BACKEND must be one of 'native', 'triton', 'reference', got 'fast'" in result.stderr


def test_environment_variable_with_a_backend_that_is_not_here():
    result = run_python(CHOICE, JUMPSTART_BACKEND="triton", TRITON_INTERPRET="0")
    message = "backend 'triton', which JUMPSTART_BACKEND selects, cannot run a cpu tensor"
    assert result.returncode != 0 and message in result.stderr
