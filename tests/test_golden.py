"""The authors' published values and gradients (``golden/README.md``), for every backend."""

from pathlib import Path

import numpy as np
import pytest
import torch

import jumpstart_kernels as jk
from jumpstart_kernels.ops.arguments import Record
from jumpstart_kernels.penalties.reduction import reduce_records

GOLDEN = np.load(Path(__file__).parent / "golden" / "jumpstart_penalty.npz")
CASES = ("dense_small", "dense_three_layers", "conv_small", "dense_wide", "conv_odd")
PENALTIES = [key.removesuffix("/penalty") for key in GOLDEN.files if key.endswith("/penalty")]
EXTREMA_KINDS = ("unit_max", "unit_min", "point_max", "point_min")


def read(key):
    return torch.from_numpy(GOLDEN[key]).double()


def read_inputs(case, dtype, device):
    layers = sum(key.startswith(f"{case}/x") for key in GOLDEN.files)
    return [read(f"{case}/x{layer}").to(device, dtype).requires_grad_() for layer in range(layers)]


def bounds(dtype, inputs):
    """Relative error of a sum of K slacks, none far below the margin: (K + 8) roundings."""
    terms = sum(x.shape[0] + x.shape[1] for x in inputs)
    return {"rtol": (terms + 8) * torch.finfo(dtype).eps / 2}


def run_model(inputs, ties, options):
    """Penalty and gradients as in a training loop."""
    model = torch.nn.ModuleList(jk.JumpstartReLU(tie_breaking=ties) for _ in inputs)
    for layer, x in zip(model, inputs, strict=True):
        layer(x)
    value = jk.penalty(model, **options)
    return value, torch.autograd.grad(value, inputs)


def jacobian(x):
    """Record of a layer, its slack sums cut off, and their ``[2, 5, *x.shape]`` derivatives."""
    slack_sums, *extrema = jk.functional.jumpstart_stats(x)
    rows = [torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in slack_sums.flatten()]
    extrema = torch.stack([torch.cat(extrema[0::2]), torch.cat(extrema[1::2])]).detach()
    record = Record(slack_sums.detach().requires_grad_(), extrema, x.shape[1], x.shape[0], 1.0)
    return record, torch.stack(rows).view(*slack_sums.shape, *x.shape)


def run_chain_rule(layers, options):
    """The same by the chain rule through the slack sums, which runs the kernels once for all the options."""
    value = reduce_records([record for record, _ in layers], **options)
    by_sums = torch.autograd.grad(value, [record.slack_sums for record, _ in layers])
    return value, [torch.tensordot(grad, rows, 2) for grad, (_, rows) in zip(by_sums, layers, strict=True)]


def check_penalties(keys, inputs, dtype, once=False):
    """Penalty and gradients of every choice of options in ``keys``, all of one case."""
    layers = [jacobian(x) for x in inputs] if once else None
    bound = {"rtol": 1e-12} if dtype == torch.float64 else bounds(dtype, inputs)
    for key in keys:
        _, terms, reduction, balance, ties = key.split("/")
        options = {"terms": terms, "reduction": reduction, "sign_balance": float(balance)}
        value, grads = run_chain_rule(layers, options) if once else run_model(inputs, ties, options)
        message = f"{key}: {{}}".format
        expected = read(f"{key}/penalty").reshape(())
        torch.testing.assert_close(value.double().cpu(), expected, atol=0, **bound, msg=message)
        for layer, grad in enumerate(grads):
            expected = read(f"{key}/grad{layer}")
            # Parts of either sign meet in one element, so that the error is one of the largest of them.
            atol = bound["rtol"] * expected.abs().max().item()
            torch.testing.assert_close(grad.double().cpu(), expected, atol=atol, **bound, msg=message)


def test_nothing_is_left_out():
    assert len(PENALTIES) == 3 * 10 * 3 * 2 * 2 + 2 * 1
    assert {key.split("/")[0] for key in GOLDEN.files} == set(CASES)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES)
def test_extrema(target, case, dtype):
    for layer, x in enumerate(read_inputs(case, dtype, target[1])):
        outputs = jk.functional.jumpstart_relu(x)
        assert torch.equal(outputs.output, torch.relu(x))
        for name in EXTREMA_KINDS:
            assert torch.equal(getattr(outputs, name).double().cpu(), read(f"{case}/{name}{layer}"))


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES)
def test_penalties_and_gradients(target, case, dtype):
    inputs = read_inputs(case, dtype, target[1])
    keys = [key for key in PENALTIES if key.startswith(case + "/") and key.endswith("/single")]
    assert keys
    # Every choice through layers by the native backend; interpreted kernels and the reference are slow.
    once = target[1] == "cpu" and target[0] != "native"
    check_penalties(keys, inputs, dtype, once)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("case", CASES[:3])
def test_penalties_and_gradients_of_shared_ties(case, dtype):
    keys = [key for key in PENALTIES if key.startswith(case + "/") and key.endswith("/average")]
    assert len(keys) == 60
    check_penalties(keys, read_inputs(case, dtype, "cpu"), dtype)
