"""The Triton backend of linked activations in its interpreter, compared with the reference."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton_interpreted import cut_small, forget_plans, make_dense
from triton_linked import (
    OF_ACTIVATIONS,
    assert_backward_like_reference,
    assert_forward_like_reference,
    assert_near,
    make_gradient,
    make_input,
    make_options,
    make_saved,
    make_weight,
)

import jumpstart_kernels as jk
from jumpstart_kernels.nn.linked import LINKED_LAYERS
from jumpstart_kernels.ops import LINKED_OVERLOADS, reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import Gradients

_reason = triton_backend.unavailable("cpu")
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

OF_DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
LAYOUTS = [
    pytest.param((40, 24), 1, None, id="2d"),
    pytest.param((31, 7), 1, None, id="2d-odd"),
    pytest.param((2, 24, 3, 5), 1, torch.channels_last, id="channels_last"),
    pytest.param((2, 9, 2, 3, 2), 1, torch.channels_last_3d, id="channels_last_3d"),
    pytest.param((2, 5, 152), 1, None, id="planes"),
    pytest.param((3, 6, 7, 3), 1, None, id="planes-odd"),
    pytest.param((2, 19, 12), 2, None, id="units-last"),
    pytest.param((2, 3, 10, 4), -2, None, id="units-inside"),
    pytest.param((6, 35), 0, None, id="units-first"),
    pytest.param((50,), 0, None, id="1d"),
]
OF_LAYOUTS = pytest.mark.parametrize(("size", "unit_dim", "memory_format"), LAYOUTS)
OF_FEW_LAYOUTS = pytest.mark.parametrize(
    ("size", "unit_dim", "memory_format"), [LAYOUTS[0], LAYOUTS[2], LAYOUTS[4]]
)


@pytest.fixture(autouse=True)
def fresh_plans():
    """None of an altered plan, before or after."""
    forget_plans()
    yield
    forget_plans()


def assert_like_reference(activation, size, unit_dim, memory_format, dtype) -> None:
    x, weight = make_input(size, memory_format, dtype), make_weight(activation, size[unit_dim], dtype)
    options = make_options(activation, unit_dim, x.dim())
    expected = assert_forward_like_reference(x, weight, options)
    gradients = Gradients(make_gradient(expected.output), None, None)
    assert_backward_like_reference(gradients, make_saved(x, weight, expected, options), options)


@OF_ACTIVATIONS
@OF_LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_programs_of_several_tiles(monkeypatch, activation, size, unit_dim, memory_format, dtype):
    """The code path of large tensors, for which the interpreter is too slow."""
    cut_small(monkeypatch)
    assert_like_reference(activation, size, unit_dim, memory_format, dtype)


@OF_ACTIVATIONS
@OF_FEW_LAYOUTS
@OF_DTYPES
def test_programs_of_one_tile(activation, size, unit_dim, memory_format, dtype):
    assert_like_reference(activation, size, unit_dim, memory_format, dtype)


@OF_ACTIVATIONS
@OF_FEW_LAYOUTS
def test_64_bit_offsets(monkeypatch, activation, size, unit_dim, memory_format):
    from jumpstart_kernels.ops.triton import plan

    monkeypatch.setattr(plan, "fits_int32", lambda elements: False)
    assert_like_reference(activation, size, unit_dim, memory_format, torch.float32)


@pytest.mark.parametrize(("length", "expected"), [(2**25, "int32"), (2**26, "int64"), (2**30, "int64")])
@pytest.mark.parametrize("activation", ["linked_relu", "linked_silu"])
def test_offsets_within_a_tile_have_the_bits_they_need(activation, length, expected):
    """Those of the output, twice as many as of the input."""
    from jumpstart_kernels.ops.triton.launch_linked import _backward, _forward

    key, dtype = (torch.Size((16, length)), 1, False), torch.float16
    forward = _forward(*key, dtype, True, activation, None).launch
    for launch in (forward, *_backward(*key, 0, dtype, True, True, activation, False, None).launches):
        assert expected in [str(constant) for constant in launch.settled]


@OF_ACTIVATIONS
@OF_FEW_LAYOUTS
def test_misaligned(activation, size, unit_dim, memory_format):
    def misplace(x):
        return x.new_empty(x.numel() + 1)[1:].as_strided(x.size(), x.stride()).copy_(x)

    x, weight = (
        make_input(size, memory_format, torch.float32),
        make_weight(activation, size[1], torch.float32),
    )
    if weight is not None:
        weight = misplace(weight)
    options = make_options(activation, unit_dim, x.dim())
    expected = assert_forward_like_reference(misplace(x), weight, options)
    saved = make_saved(x, weight, expected, options)
    gradient = make_gradient(expected.output)
    assert_backward_like_reference(Gradients(misplace(gradient), None, None), saved, options)
    if saved.x is not None:
        apart = saved._replace(x=misplace(x))
        assert_backward_like_reference(Gradients(gradient, None, None), apart, options)


@OF_FEW_LAYOUTS
def test_reads_nothing_that_it_has_not_written(monkeypatch, size, unit_dim, memory_format):
    """Of the partial sums."""
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda x, *size, **options: new_empty(x, *size, **options).fill_(
            torch.nan if options.get("dtype", x.dtype).is_floating_point else 77
        ),
    )
    cut_small(monkeypatch)
    assert_like_reference("linked_prelu", size, unit_dim, memory_format, torch.float32)


@OF_ACTIVATIONS
@OF_DTYPES
def test_values_that_are_not_numbers(activation, dtype):
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -1.0, 2.0], dtype=dtype)
    x = values.repeat(6, 3)
    weight = make_weight(activation, x.shape[1], dtype)
    options = make_options(activation, 1, 2)
    expected = assert_forward_like_reference(x, weight, options)
    output = triton_backend.linked_activation_forward(x, weight, options).output
    assert output[:, [0, 21]].isnan().all()
    saved = make_saved(x, weight, expected, options)
    gradients = Gradients(make_gradient(expected.output), None, None)
    actual = triton_backend.linked_activation_backward(gradients, saved, options)
    of_definition = reference.linked_activation_backward(gradients, saved, options)
    assert_near(actual.x, of_definition.x, 8.0)
    if weight is not None:
        torch.testing.assert_close(actual.weight, of_definition.weight, equal_nan=True)


@OF_ACTIVATIONS
@OF_DTYPES
def test_no_gradient_passes_where_there_is_none(activation, dtype):
    """At 0 as the reference: 0 of ReLU, and of the others what their definition says."""
    x = torch.tensor([[0.0, -0.0]], dtype=dtype)
    weight = make_weight(activation, 2, dtype)
    options = make_options(activation, 1, 2)
    saved = make_saved(x, weight, reference.linked_activation_forward(x, weight, options), options)
    gradients = Gradients(torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=dtype), None, None)
    actual = triton_backend.linked_activation_backward(gradients, saved, options).x
    torch.testing.assert_close(actual, reference.linked_activation_backward(gradients, saved, options).x)
    if activation == "linked_relu":
        assert (actual == 0).all()


@pytest.mark.parametrize("activation", ["linked_selu", "linked_silu"])
@OF_DTYPES
def test_values_are_accurate_of_any_size(activation, dtype):
    """As far as the inputs of both signs go: near 0 nothing cancels, far from it nothing overflows."""
    info = torch.finfo(dtype)
    lowest = torch.tensor(info.tiny, dtype=torch.float64).log10().item()
    highest = min(torch.tensor(info.max, dtype=torch.float64).log10().item() - 0.1, 30)
    sizes = torch.logspace(lowest, highest, 3000, dtype=torch.float64)
    x = torch.cat([sizes, torch.linspace(0, 80, 3000, dtype=torch.float64)]).to(dtype).view(4, 1500)
    options = make_options(activation, 1, 2)
    output = triton_backend.linked_activation_forward(x, None, options).output
    expected = reference.linked_activation_forward(x.double(), None, options).output
    # Below it exp(−|x|) has fewer digits, and PyTorch's own 1 + exp(|x|) may be infinite.
    least = 1e3 * info.tiny if dtype.itemsize > 2 else info.tiny
    size = expected.abs()
    error = torch.where(size < least, 0, (output.double() - expected).abs() / size.clamp(min=least))
    assert error.max() <= {torch.float32: 4, torch.float64: 6}.get(dtype, 0.55) * info.eps
    assert (output[size < least].abs() < 2 * least).all()

    saved = make_saved(x, None, triton_backend.linked_activation_forward(x, None, options), options)
    for half in range(2):
        gradient = torch.zeros_like(output)
        gradient[:, 1500 * half : 1500 * half + 1500] = 1
        gradients = Gradients(gradient, None, None)
        grad_x = triton_backend.linked_activation_backward(gradients, saved, options).x
        of_definition = reference.linked_activation_backward(
            Gradients(gradient.double(), None, None),
            saved._replace(x=x.double(), dtype=torch.float64, mask=saved.mask),
            options,
        ).x
        assert (grad_x.double() - of_definition).abs().max() <= 4 * info.eps


@OF_FEW_LAYOUTS
def test_gradient_of_slopes_is_accurate_and_the_same_in_every_run(monkeypatch, size, unit_dim, memory_format):
    cut_small(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x = make_dense(torch.randn(size, generator=generator), memory_format)
    weight = torch.randn((2, size[unit_dim]), generator=generator)
    options = make_options("linked_prelu", unit_dim, x.dim())
    result = reference.linked_activation_forward(x, weight, options)
    saved = make_saved(x, weight, result, options)
    gradient = torch.empty_like(result.output).copy_(torch.randn(result.output.shape, generator=generator))
    gradients = Gradients(gradient, None, None)
    first, second = (
        triton_backend.linked_activation_backward(gradients, saved, options).weight for _ in range(2)
    )
    assert torch.equal(first, second)
    wide = saved._replace(x=x.double(), weight=weight.double(), dtype=torch.float64)
    expected = reference.linked_activation_backward(Gradients(gradient.double(), None, None), wide, options)
    terms = (gradient.abs().max() * x.abs().max()) * x.numel() / size[unit_dim]
    assert (first - expected.weight).abs().max() <= 2**-24 * 2 * terms


def test_no_gradient_of_slopes_unless_wanted():
    x, weight = torch.randn(9, 5), torch.randn(2, 5)
    options = make_options("linked_prelu", 1, 2)
    saved = make_saved(x, weight, reference.linked_activation_forward(x, weight, options), options)
    saved = saved._replace(with_grad_weight=False)
    gradients = Gradients(torch.ones(9, 10), None, None)
    assert triton_backend.linked_activation_backward(gradients, saved, options).weight is None


@pytest.mark.parametrize(
    ("size", "launches"), [((256, 4), 1), ((64, 1024), 1), ((4096, 1024), 2), ((8, 64, 56, 56), 2)], ids=str
)
def test_launches_and_partial_sums_of_a_backward(size, launches):
    from jumpstart_kernels.ops.triton.launch_linked import _backward

    key = (torch.Size(size), 1, False, 0, torch.bfloat16, True, True, "linked_prelu")
    elements = torch.Size(size).numel()
    assert len(_backward(*key, False, True).launches) == 1
    with_weight = _backward(*key, True, True)
    assert len(with_weight.launches) == launches
    assert (with_weight.sums == 0) == (launches == 1)
    assert 4 * with_weight.sums <= 0.5 * elements  # bytes, next to 8 of an element


@OF_ACTIVATIONS
@pytest.mark.parametrize("size", [(0, 5), (3, 0), (2, 4, 0), (0,)], ids=str)
def test_empty(activation, size):
    unit_dim = min(1, len(size) - 1)
    x = torch.empty(size, requires_grad=True)
    weight = make_weight(activation, size[unit_dim], x.dtype)
    options = make_options(activation, unit_dim, x.dim())
    output = LINKED_OVERLOADS["triton"](x, weight, *options)[0]
    output.sum().backward()
    assert output.shape[unit_dim] == 2 * size[unit_dim] and x.grad.shape == x.shape


STRIDES = {
    "sliced": lambda x: x[:, ::2],
    "transposed": lambda x: x.transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
    "permuted": lambda x: x.movedim(1, -1),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


@OF_ACTIVATIONS
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(activation, strides):
    """Through the operator and its autograd; with a gradient that is expanded, and one that is transposed."""
    generator = torch.Generator().manual_seed(0)
    view = STRIDES[strides]
    base = torch.randn(4, 6, 5, 3, generator=generator)
    units = view(base).shape[1]
    weight = torch.randn(2, 1, generator=generator) if activation == "linked_prelu" else None
    found = {}
    for backend in ("triton", "reference"):
        x = base.clone().requires_grad_()
        slopes = None if weight is None else weight.clone().requires_grad_()
        inputs = [x] if slopes is None else [x, slopes]
        options = make_options(activation, 1, 4)
        flat = None if slopes is None else slopes.expand(2, units)
        output = LINKED_OVERLOADS[backend](view(x), flat, *options)[0]
        factors = torch.arange(output.numel()).view(output.transpose(2, 3).shape).transpose(2, 3) / 100.0
        found[backend] = [
            output,
            *torch.autograd.grad(output.sum(), inputs, retain_graph=True),
            *torch.autograd.grad((output * factors).sum(), inputs),
        ]
    for actual, expected in zip(*found.values(), strict=True):
        assert actual.stride() == expected.stride()
        torch.testing.assert_close(actual, expected)


@OF_ACTIVATIONS
def test_layers_run_on_the_backend_in_use(monkeypatch, activation):
    from jumpstart_kernels.ops.triton import launch_linked

    launched = []
    call = launch_linked.Launch.__call__

    def count(one, *arguments):
        launched.append(one)
        call(one, *arguments)

    monkeypatch.setattr(launch_linked.Launch, "__call__", count)
    layer = next(layer for layer in LINKED_LAYERS if layer.activation == activation)()
    x = torch.randn(5, 3, requires_grad=True)
    with jk.use_backend("triton"):
        layer(x).sum().backward()
    assert len(launched) == 2
