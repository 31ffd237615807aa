"""Checks a peer's results: without correct results it gets no figures."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.bench.cases import (
    Case,
    Health,
    add_bias,
    make_bias,
    make_gradient,
    make_pre_activation,
    make_unhealthy,
    subtract_bias,
)
from jumpstart_kernels.bench.peer import Forward, Outputs, Peer
from jumpstart_kernels.bench.report import does_not_run
from jumpstart_kernels.ops.layout import statistics_dtype

# Relative errors within rounding, by the dtype of the result.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SUM_TOLERANCE = 1e-4  # for PyTorch's BatchNorm, which sums over hundreds of thousands of float32 values
UNHEALTHY = Health(1 / 16, 1 / 16)  # of units and points, at least, so that the penalty has a gradient


class Results(NamedTuple):
    outputs: Outputs
    gradient: Tensor
    bias_gradient: Tensor | None


class Check:
    """Values and gradients of a case in float64, on an input with dead and linear units and points.

    Where all units are dead, so are all points, and none is linear. With a bias the definition is that of the
    sum of input and bias, rounded to their dtype as PyTorch does it: ties and places are those of the sum.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self.activation = case.activation
        x = make_pre_activation(case, device)
        if case.health != "dead":
            make_unhealthy(x, 1, UNHEALTHY)
            make_unhealthy(x, 0, UNHEALTHY)
        self.x = subtract_bias(x, case)
        self.bias = make_bias(case, device) if case.bias else None
        self.grad = make_gradient(case, device)
        # The mean gives each unit and point a gradient so small that 16 bits would round it away beside grad.
        self.weight = min(2.0**15, case.shape[0] + case.shape[1])  # fits in float16
        self._expected: dict[Forward, Results] = {}

    def failure(self, peer: Peer) -> str | None:
        """What is wrong with a peer's results, or None. Exceptions count as wrong."""
        try:
            with peer.active():
                outputs, gradient, bias_gradient = self._run(peer.forward, self.x, self.grad, peer.bias)
        except Exception as error:
            return does_not_run(error)
        expected, expected_gradient, expected_bias_gradient = self._expect(peer.definition)
        tolerance = TOLERANCES[self.x.dtype]
        output, expected_output = outputs[0].double(), expected[0]
        computed = peer.before_relu is not None
        if computed:
            tolerance = max(tolerance, SUM_TOLERANCE)
        rounded = computed or self.activation != "relu"  # which has nothing to round
        # Subnormal results have no relative precision: half a step of theirs is rounding, too.
        smallest = torch.finfo(self.x.dtype).smallest_normal * torch.finfo(self.x.dtype).eps / 2
        absolute = computed or peer.cancels
        bound = (tolerance * (absolute + expected_output.abs()) + smallest) * rounded
        message = _excess("output", output, expected_output, bound)
        for value, expected_value in zip(outputs[1:], expected[1:], strict=True):
            bound = TOLERANCES[value.dtype] * (1 + expected_value.abs())
            message = message or _excess("penalty", value.double(), expected_value, bound)
        if peer.before_relu is not None:
            expected_gradient = self._gradient_through(peer.before_relu, positive=output > 0)
        # What the halves of a linked activation cancel counts.
        size = sum(part.double().abs() for part in self.grad.split(self.x.shape[1], 1))
        bound = tolerance * (expected_gradient.abs() + size + computed)
        bound += smallest * rounded
        message = message or _excess("gradient", gradient.double(), expected_gradient, bound)
        if bias_gradient is not None and expected_bias_gradient is not None:
            bound = self._bound_of_sum(expected_gradient, expected_bias_gradient)
            actual = bias_gradient.double()
            message = message or _excess("gradient of the bias", actual, expected_bias_gradient, bound)
        return message

    def _gradient_through(self, before_relu: Callable[[Tensor], Tensor], positive: Tensor) -> Tensor:
        """The gradient in float64, with the ReLU active where the peer's is."""
        definition = lambda x: (torch.where(positive, before_relu(x), 0.0),)  # noqa: E731
        return self._run(definition, self.x.double(), self.grad.double()).gradient

    def _expect(self, definition: Forward) -> Results:
        if definition not in self._expected:
            pre_activation = self.x if self.bias is None else add_bias(self.x, self.bias)
            found = self._run(definition, pre_activation.double(), self.grad.double())
            if self.bias is not None:
                found = found._replace(bias_gradient=_over_units(found.gradient).sum(1))
            self._expected[definition] = found
        return self._expected[definition]

    def _run(self, forward: Forward, x: Tensor, grad: Tensor, bias: Tensor | None = None) -> Results:
        x = x.detach().requires_grad_()
        outputs = forward(x)
        weights = [torch.full_like(penalty, self.weight) for penalty in outputs[1:]]
        leaves = [x] if bias is None else [x, bias]
        gradients = torch.autograd.grad(outputs, leaves, [grad, *weights])
        return Results(
            tuple(output.detach() for output in outputs), gradients[0], None if bias is None else gradients[1]
        )

    def _bound_of_sum(self, summands: Tensor, total: Tensor) -> Tensor:
        """What rounding can change about sums over the units of gradients.

        The n summands of a unit have random signs, so their partial sums stay near their Euclidean norm. Each
        of n roundings is at most eps / 2 of a partial sum, and of random sign too: all together are at most
        about eps / 2 · √n of the norm, and twice that is beyond four standard deviations. The dtype of the
        case also rounds summands, once for each extremum that they hold, and the sum.
        """
        rows = _over_units(summands)
        norms = rows.norm(dim=1)
        eps = torch.finfo(self.x.dtype).eps
        eps_of_sum = torch.finfo(statistics_dtype(self.x.dtype)).eps
        return 2 * eps * (total.abs() + norms) + eps_of_sum * rows.shape[1] ** 0.5 * norms


def _over_units(x: Tensor) -> Tensor:
    """``[N, C, *]`` as ``[C, values of a unit]``."""
    return x.movedim(1, 0).flatten(1)


def _excess(name: str, actual: Tensor, expected: Tensor, bound: Tensor) -> str | None:
    """A message if two tensors differ by more than ``bound``; NaN differs from everything."""
    wrong = ~((actual - expected).abs() <= bound)
    count = int(wrong.sum())
    if count == 0:
        return None
    place = int(wrong.flatten().to(torch.uint8).argmax())
    values = f"{actual.flatten()[place]:.6g}, should be {expected.flatten()[place]:.6g}"
    return f"wrong {name}: {values} at flat index {place}; {count} of {actual.numel()} are wrong"
