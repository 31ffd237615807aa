"""Every backend against the definition, written here element by element in Python's float64."""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from activations import DEFINITIONS
from hypothesis import strategies as st
from operators import run_forward, run_statistics
from torch import Tensor

from jumpstart_kernels.ops.arguments import EXTREMA_KINDS, ForwardResult
from jumpstart_kernels.ops.slack import SUMS_SHAPE, SlackSum

BY_SIDE = (
    (SlackSum.POSITIVE, SlackSum.POSITIVE_SQUARED),  # of a maximum
    (SlackSum.NEGATIVE, SlackSum.NEGATIVE_SQUARED),  # of a minimum
)
SIZES = (0, 1, 1, 2, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65)
LAYOUTS = ("channels_last", "contiguous", "permuted", "sliced", "expanded", "misaligned")
SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, -1.0)


class Case(NamedTuple):
    """An input and the options to run it with."""

    x: Tensor
    unit_dim: int
    position_points: bool
    margin: float
    activation: str
    parameter: float
    bias: Tensor | None

    def pre_activation(self) -> Tensor:
        if self.bias is None:
            return self.x
        return self.x + self.bias.view([-1 if dim == self.unit_dim else 1 for dim in range(self.x.dim())])

    def run(
        self, backend: str, x: Tensor | None = None, bias: Tensor | None = None, extrema_kind: str = "indexed"
    ) -> ForwardResult:
        return run_forward(
            backend,
            self.x if x is None else x,
            *self[1:4],
            bias=self.bias if bias is None else bias,
            activation=self.activation,
            parameter=self.parameter,
            extrema_kind=extrema_kind,
        )


class Definition(NamedTuple):
    """DESIGN's quantities of a case; entry ``[side][k]`` is a maximum or minimum of unit or point k."""

    extrema: list[list[float]]
    indices: list[list[int]]
    slack: list[list[float]]
    units: int


def define(case: Case) -> Definition:
    _, unit_dim, position_points, margin, *_ = case
    x = case.pre_activation()
    values = x.double().flatten().tolist()
    point_sizes = (
        [size for dim, size in enumerate(x.shape) if dim != unit_dim] if position_points else x.shape[:1]
    )
    units = [[] for _ in range(x.shape[unit_dim])]
    points = {index: [] for index in itertools.product(*map(range, point_sizes))}
    for place, index in enumerate(itertools.product(*map(range, x.shape))):
        units[index[unit_dim]].append(place)
        point = index[:unit_dim] + index[unit_dim + 1 :] if position_points else index[:1]
        points[point].append(place)
    groups = [*units, *points.values()]
    maxima = [first_extremum(values, places, +1) for places in groups]
    minima = [first_extremum(values, places, -1) for places in groups]
    extrema = [[value for value, _ in maxima], [value for value, _ in minima]]
    indices = [[place for _, place in maxima], [place for _, place in minima]]
    slack = [
        [0.0 if place < 0 else hinge(margin - value) for value, place in maxima],
        [0.0 if place < 0 else hinge(margin + value) for value, place in minima],
    ]
    return Definition(extrema, indices, slack, len(units))


def first_extremum(values: list[float], places: list[int], sign: int) -> tuple[float, int]:
    best, best_place = -sign * math.inf, -1
    for place in places:
        value = values[place]
        if best_place < 0 or value * sign > best * sign or (math.isnan(value) and not math.isnan(best)):
            best, best_place = value, place
        if math.isnan(best):
            break
    return best, best_place


def hinge(value: float) -> float:
    return 0.0 if value <= 0 else value


def times(weight: float, slack: float) -> float:
    """A product in which a weight or slack of zero wins over an infinity."""
    return 0.0 if 0 in (weight, slack) and not math.isnan(weight + slack) else weight * slack


def sum_terms(positive: float, negative: float) -> list[float]:
    return [positive, negative, positive**2, negative**2, times(positive, negative)]


def define_sums(definition: Definition, shift: float = 0.0) -> Tensor:
    """``[2, 5]`` slack sums, rounded once; of slacks enlarged by ``shift`` for a bound."""
    pairs = [
        (positive + shift, negative + shift) for positive, negative in zip(*definition.slack, strict=True)
    ]
    axes = (pairs[: definition.units], pairs[definition.units :])
    return torch.tensor(
        [[math.fsum(sum_terms(*pair)[i] for pair in axis) for i in SlackSum] for axis in axes],
        dtype=torch.float64,
    )


def define_gradient(
    case: Case, definition: Definition, grads: dict[str, Tensor], magnitude: bool = False
) -> Tensor:
    """Gradient of ``x``, or ``x + bias``, in float64; ``magnitude`` sums the absolute values of its terms."""
    x, margin = case.pre_activation(), case.margin if magnitude else 0.0
    measure = abs if magnitude else float
    grad_x = [0.0] * x.numel()
    if "output" in grads:
        negative_slope = DEFINITIONS[case.activation].slope(case.parameter)
        slopes = [negative_slope if value <= 0 else 1.0 for value in x.double().flatten().tolist()]
        grad_output = grads["output"].double().flatten().tolist()
        grad_x = [measure(times(slope, grad)) for grad, slope in zip(grad_output, slopes, strict=True)]
    grad_sums = grads["slack_sums"].double().tolist() if "slack_sums" in grads else None
    grad_extrema = grads["extrema"].double().tolist() if "extrema" in grads else None
    for side, sign in ((0, -1), (1, 1)):
        for k, place in enumerate(definition.indices[side]):
            if place < 0:
                continue
            own, other = definition.slack[side][k] + margin, definition.slack[1 - side][k] + margin
            total = measure(grad_extrema[side][k]) if grad_extrema else 0.0
            if grad_sums and definition.slack[side][k] != 0:
                axis = [measure(weight) for weight in grad_sums[k >= definition.units]]
                linear, squared = BY_SIDE[side]
                by_slack = axis[linear] + 2 * times(axis[squared], own) + times(axis[SlackSum.PRODUCT], other)
                total += measure(sign * by_slack)
            grad_x[place] += total
    return torch.tensor(grad_x, dtype=torch.float64).view(x.shape)


def draw_values(draw: st.DrawFn, sizes: list[int], unit_dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="seed"))
    kinds = ("normal", "ties", "special", "special_units", "sprinkled", "constant")
    kind = draw(st.sampled_from(kinds), label="values")
    if kind == "constant":
        return torch.full(sizes, draw(st.sampled_from(SPECIAL)), dtype=torch.float64)
    if kind == "ties":
        return torch.randint(-2, 3, sizes, generator=generator).double()
    special = torch.tensor(SPECIAL[draw(st.integers(0, 1)) :], dtype=torch.float64)  # with or without NaN
    if kind == "special_units":
        sizes_of_one = [size if dim == unit_dim else 1 for dim, size in enumerate(sizes)]
        return special[torch.randint(len(special), sizes_of_one, generator=generator)].repeat(
            [1 if dim == unit_dim else size for dim, size in enumerate(sizes)]
        )
    special = special[torch.randint(len(special), sizes, generator=generator)]
    if kind == "special":
        return special
    # Shifted by unit, so that some units and points are dead or linear and have slack.
    shift = torch.randint(-1, 2, [sizes[unit_dim]], generator=generator) * draw(st.sampled_from((0, 3)))
    shift = shift.view([-1 if dim == unit_dim else 1 for dim in range(len(sizes))])
    values = torch.randn(sizes, generator=generator, dtype=torch.float64) + shift
    if kind == "sprinkled":
        values = torch.where(torch.rand(sizes, generator=generator) < 0.03, special, values)
    return values


def lay_out(draw: st.DrawFn, values: Tensor) -> Tensor:
    """The same values in another memory layout; expanded, the first along some dimensions repeated."""
    dim = values.dim()
    layout = draw(st.sampled_from(LAYOUTS if dim in (4, 5) else LAYOUTS[1:]), label="layout")
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last if dim == 4 else torch.channels_last_3d)
    if layout == "permuted":
        order = draw(st.permutations(range(dim)), label="order")
        return values.permute(order).contiguous().permute([order.index(i) for i in range(dim)])
    if layout == "sliced":
        steps = draw(st.lists(st.integers(1, 2), min_size=dim, max_size=dim), label="steps")
        base = values.new_empty([size * step + 1 for size, step in zip(values.shape, steps, strict=True)])
        view = base[tuple(slice(1, None, step) for step in steps)]
        view = view[tuple(slice(size) for size in values.shape)]
        return view.copy_(values)
    if layout == "expanded":
        for i in draw(st.sets(st.integers(0, dim - 1), min_size=1), label="expanded"):
            if values.shape[i] > 0:
                values = values.narrow(i, 0, 1).expand_as(values)
        return values
    if layout == "misaligned":
        return values.new_empty(values.numel() + 1)[1:].view(values.shape).copy_(values)
    return values


@st.composite
def cases(draw: st.DrawFn, target: tuple[str, str]) -> Case:
    backend, device = target
    dims = draw(st.sampled_from((2, 4, 1, 3, 4, 5)), label="dims")
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=dims, max_size=dims), label="sizes")
    while math.prod(sizes) > (500 if target == ("triton", "cpu") else 1500):
        sizes[sizes.index(max(sizes))] //= 4
    unit_dim = draw(st.sampled_from([1] * min(3, dims - 1) + [*range(dims)]), label="unit_dim")
    position_points = unit_dim == 0 or draw(st.booleans(), label="position_points")
    dtype = draw(
        st.sampled_from((torch.float32, torch.float64, torch.float16, torch.bfloat16)), label="dtype"
    )
    values = draw_values(draw, sizes, unit_dim).to(device, dtype)
    margin = draw(st.sampled_from((1.0, 0.0, 0.3, 2.5)), label="margin")
    activation = draw(st.sampled_from(list(DEFINITIONS)), label="activation")
    parameter = draw(st.sampled_from(DEFINITIONS[activation].parameters), label="parameter")
    bias = None
    if draw(st.booleans(), label="with_bias"):
        bias = draw_values(draw, [sizes[unit_dim]], 0).to(device, dtype)
        bias = lay_out(draw, bias) if bias.numel() else bias
    return Case(lay_out(draw, values), unit_dim, position_points, margin, activation, parameter, bias)


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Bitwise equal, except that NaN equals NaN and -0.0 equals 0.0."""
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=0, atol=0, equal_nan=True)


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    actual, finite = actual.detach().cpu().double(), expected.isfinite()
    assert_same(actual[~finite], expected[~finite])
    assert ((actual - expected).abs()[finite] <= bound[finite]).all(), (actual - expected, bound)


def test_outputs_lie_as_those_of_relu(target):
    """Including size-1 dimensions: later operations such as dropout may take their order from them."""
    sizes = list(itertools.product((0, 1, 2), (1, 3), (1, 4), (1, 2)))
    for size in [(0, 1, 4, 2), (2, 1, 4, 1)] if target == ("triton", "cpu") else sizes:  # interpreted is slow
        x = torch.randn(size, device=target[1])
        for order in itertools.permutations(range(4)):
            permuted = x.permute(order).contiguous().permute([order.index(i) for i in range(4)])
            for same in (permuted, permuted.narrow(-1, 0, 1).expand(size), permuted[:, :, ::2]):
                output = run_forward(target[0], same).output
                assert output.stride() == F.relu(same).stride(), (same.shape, same.stride())


def test_forward_is_the_definition(target, for_all, poisoned_memory):
    backend, _ = target

    @st.composite
    def runs(draw):
        return (
            draw(cases(target)),
            draw(st.booleans(), label="with_output"),
            draw(st.sampled_from(EXTREMA_KINDS), label="extrema"),
        )

    def check(run):
        case, with_output, kind = run
        if with_output:
            result = case.run(backend, extrema_kind=kind)
        else:
            result = run_statistics(backend, *case[:4], bias=case.bias, extrema_kind=kind)
        output, mask, slack_sums, extrema, indices = result
        definition = define(case)
        statistics = torch.float64 if case.x.dtype == torch.float64 else torch.float32
        if with_output:
            assert_same(output, DEFINITIONS[case.activation].function(case.pre_activation(), case.parameter))
            assert output.dtype == case.x.dtype and output.stride() == F.relu(case.x).stride()
        else:
            assert output.shape == (0,) and mask.shape == (0, 0)
        assert extrema.dtype == slack_sums.dtype == statistics and indices.dtype == torch.int64
        slack = torch.tensor(definition.slack)
        expected = torch.tensor(definition.extrema, dtype=torch.float64)
        if kind == "limited" and case.x.numel() > 0:  # extrema of nothing stay infinite
            margin = torch.tensor(case.margin, dtype=statistics)  # as rounded to the statistics
            expected = torch.where(slack == 0, torch.stack([margin, -margin])[:, None].double(), expected)
        assert_same(extrema.double(), expected)
        chosen = torch.tensor(definition.indices, dtype=torch.int64)
        if kind != "indexed":
            chosen[slack == 0] = -1
        assert_same(indices, chosen)
        # A slack is off by u (margin + slack) at most, its squares and products by four times those of
        # margin + slack, and a sum of K terms, in any order, adds (K - 1) u of itself.
        terms = len(definition.extrema[0])
        bound = (terms + 5) * unit_roundoff(statistics) * define_sums(definition, case.margin)
        assert_within(slack_sums, define_sums(definition), bound)

    for_all(runs(), check)


def test_backward_is_the_definition(target, for_all, poisoned_memory):
    backend, _ = target

    @st.composite
    def runs(draw):
        case = draw(cases(target))
        wanted = draw(
            st.sets(st.sampled_from(("output", "slack_sums", "extrema")), min_size=1), label="wanted"
        )
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="grad seed"))
        result = case.run(backend, extrema_kind="indexed" if "extrema" in wanted else "limited")._asdict()
        grads = {
            name: torch.randn(result[name].shape, generator=generator).to(result[name])
            for name in sorted(wanted)
        }
        if "slack_sums" in grads:
            grads["slack_sums"] *= torch.rand(SUMS_SHAPE, generator=generator).to(grads["slack_sums"]) < 0.7
        return case, {name: lay_out(draw, grad) for name, grad in grads.items()}

    def check(run):
        case, grads = run
        definition = define(case)
        grad_x, *grad_bias = run_backward(backend, case, grads)
        expected = define_gradient(case, definition, grads)
        size = define_gradient(case, definition, grads, magnitude=True)
        assert grad_x.dtype == case.x.dtype
        # Fewer than 16 roundings of parts that add up to `size`, then one to the dtype of x. Where the
        # activation's gradient is a product, that is rounded to the dtype of x before.
        statistics = torch.float64 if case.x.dtype == torch.float64 else torch.float32
        smallest = torch.finfo(case.x.dtype).smallest_normal * unit_roundoff(case.x.dtype)
        roundings = 1 if case.activation == "relu" else 2
        bound = (16 * unit_roundoff(statistics) + roundings * unit_roundoff(case.x.dtype)) * size
        bound += roundings * smallest
        assert_within(grad_x, expected, bound)
        for actual in grad_bias:
            # A sum of K terms in any order adds (K - 1) roundings of their size. That of an element to the
            # dtype of x counts only where the activation's gradient is a product, that of the sum always.
            assert actual.dtype == case.x.dtype and actual.shape == case.bias.shape
            others = [dim for dim in range(case.x.dim()) if dim != case.unit_dim]
            size = size.sum(others) if others else size
            terms = case.x.numel() // max(1, size.numel())
            bound = (
                (terms + 16) * unit_roundoff(statistics) + roundings * unit_roundoff(case.x.dtype)
            ) * size
            bound += (1 + (roundings - 1) * terms) * smallest
            assert_within(actual, expected.sum(others) if others else expected, bound)

    for_all(runs(), check)


def test_same_input_same_bits(target, for_all):
    backend, _ = target

    def check(case):
        first, second = (case.run(backend) for _ in range(2))
        grads = {"output": torch.ones_like(first.output), "slack_sums": torch.ones_like(first.slack_sums) / 3}
        for a, b in zip(first, second, strict=True):
            assert_same_bits(a, b)
        for a, b in zip(*(run_backward(backend, case, grads) for _ in range(2)), strict=True):
            assert_same_bits(a, b)

    for_all(cases(target), check)


def test_mask_is_that_of_the_reference(target, for_all, poisoned_memory):
    backend, _ = target

    def check(case):
        assert_same(case.run(backend).mask, case.run("reference").mask)

    for_all(cases(target), check)


def run_backward(backend: str, case: Case, grads: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The gradient of ``x``, and of the bias if there is one."""
    inputs = [tensor.detach().requires_grad_() for tensor in (case.x, case.bias) if tensor is not None]
    result = case.run(backend, *inputs, extrema_kind="indexed" if "extrema" in grads else "limited")._asdict()
    return torch.autograd.grad([result[name] for name in grads], inputs, list(grads.values()))


def assert_same_bits(first: Tensor, second: Tensor) -> None:
    assert first.shape == second.shape and first.stride() == second.stride()
    first, second = (
        tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in (first, second)
    )
    assert first.numel() == 0 or torch.equal(first.view(torch.uint8), second.view(torch.uint8))
