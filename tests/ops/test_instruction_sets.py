"""``JUMPSTART_CPU``: the kernels of each supported instruction set, and their results."""

import os
import subprocess
import sys

import pytest
import torch

from jumpstart_kernels.ops import OVERLOADS, native
from jumpstart_kernels.ops.activations import ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import ForwardResult, Options

pytestmark = pytest.mark.skipif(native.extension() is None, reason=str(native.unavailable("cpu")))

RUN = """
import itertools, sys, torch
from jumpstart_kernels.ops import OVERLOADS, native
from jumpstart_kernels.ops.activations import ACTIVATIONS
from jumpstart_kernels.ops.arguments import ForwardResult, Options
results = [native.instruction_set()]
dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
sizes = (((33, 70), 1), ((3, 5, 7, 9), 1), ((4, 6, 19), 2), ((2, 67, 8, 8), 1))
layouts = (torch.contiguous_format, torch.channels_last)
for activation, dtype, (size, unit_dim), layout in itertools.product(ACTIVATIONS, dtypes, sizes, layouts):
    if layout == torch.channels_last and len(size) != 4:
        continue
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).to(dtype)
    x = x.to(memory_format=layout).requires_grad_()
    bias = torch.randn(size[unit_dim], generator=generator).to(dtype).requires_grad_()
    options = Options(activation, 0.3, unit_dim, False, 1.0, extrema_kind="indexed")
    for added in (None, bias):
        result = ForwardResult(*OVERLOADS["native"](x, added, *options))
        outputs = (result.output, result.slack_sums, result.extrema)
        x.grad = None
        torch.autograd.backward(outputs, [torch.randn(o.shape, generator=generator).to(o) for o in outputs])
        results.append({**result._asdict(), "grad": x.grad})
    results.append({"grad_bias": bias.grad})
torch.save(results, sys.argv[1])
"""


def run(instruction_set, *arguments):
    environment = {**os.environ, "JUMPSTART_CPU": instruction_set, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the kernels of each set compute, by its name."""
    found = {}
    for name in native.instruction_sets():
        path = tmp_path_factory.mktemp("results") / f"{name}.pt"
        done = run(name, "-c", RUN, str(path))
        assert done.returncode == 0, done.stderr
        chosen, *found[name] = torch.load(path)
        assert chosen == name
    return found


def test_default_is_the_last():
    assert native.instruction_sets()[-1] == "default"
    assert set(native.instruction_sets()) <= set(native.INSTRUCTION_SETS)


def test_all_sets_agree(results):
    expected = results["default"]
    for name, actual in results.items():
        for tensors, others in zip(actual, expected, strict=True):
            for key, tensor in tensors.items():
                if key == "grad_bias":  # in vectors of other lengths values are added in another order
                    tolerance = {"rtol": torch.finfo(tensor.dtype).eps, "atol": 1e-4}
                    torch.testing.assert_close(tensor, others[key], **tolerance)
                else:
                    assert torch.equal(tensor, others[key]), (name, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_units_that_are_alike_have_the_same_gradient(instruction_set, dtype):
    """Wherever they are: vectors and what is left after them round alike."""
    generator = torch.Generator().manual_seed(0)
    options = Options(NONE, 0.0, 1, False, 1.0, extrema_kind="limited")
    for _ in range(50):
        x = torch.randn(2, 1, generator=generator, dtype=dtype).mul(0.3).repeat(1, 7).requires_grad_()
        result = ForwardResult(*OVERLOADS["native"](x, None, *options))
        grads = torch.randn(2, 5, generator=generator, dtype=dtype)
        grads[1] = 0  # a point's extremum is the first of them
        result.slack_sums.backward(grads)
        assert torch.equal(x.grad, x.grad[:, :1].expand(2, 7))


@pytest.mark.parametrize("units", [3, 4, 7, 8])
def test_a_margin_of_infinity_in_float32(instruction_set, units):
    x = torch.randn(5, units, generator=torch.Generator().manual_seed(0))
    options = Options(NONE, 0.0, 1, False, 1e39, extrema_kind="limited")
    result, expected = (
        ForwardResult(*OVERLOADS[backend](x, None, *options)) for backend in ("native", "reference")
    )
    for key, tensor in result._asdict().items():
        assert torch.equal(tensor, getattr(expected, key)), key


def test_the_extension_has_all_activations():
    assert sorted(native.extension().activations) == sorted([*ACTIVATIONS, NONE])


@pytest.mark.parametrize("name", ["sse2", "AVX2", "neon"])
def test_unknown_sets_are_named(name):
    done = run(name, "-c", "import jumpstart_kernels")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ValueError: JUMPSTART_CPU must be one of 'avx512', 'avx2', 'default', got '{name}'"
    )


def test_sets_that_the_processor_lacks_are_named(monkeypatch):
    monkeypatch.setattr(native, "instruction_sets", lambda: ["default"])
    monkeypatch.setenv("JUMPSTART_CPU", "avx512")
    message = "JUMPSTART_CPU must be one of 'default' on this processor, which has no 'avx512'"
    with pytest.raises(ValueError, match=message):
        native._choose_instruction_set()
    with pytest.raises(ValueError, match="no instruction set mmx"):
        native.extension().use_instruction_set("mmx")


def test_an_empty_variable_is_none(monkeypatch):
    before = native.instruction_set()
    monkeypatch.setenv("JUMPSTART_CPU", "")
    native._choose_instruction_set()
    assert native.instruction_set() == before


def test_info_shows_it():
    done = run("default", "-m", "jumpstart_kernels", "info")
    assert (
        "\ninstruction set    default of " in done.stdout and "\nJUMPSTART_CPU      default\n" in done.stdout
    )
