"""Checks a peer's results: without correct results it gets no figures."""

from collections.abc import Callable

import torch
from torch import Tensor

from jumpstart_kernels.bench.cases import Case, Health, make_gradient, make_input, make_unhealthy
from jumpstart_kernels.bench.peers import Forward, Outputs, Peer
from jumpstart_kernels.bench.report import does_not_run

# Relative errors within rounding, by the dtype of the result.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SUM_TOLERANCE = 1e-4  # for PyTorch's BatchNorm, which sums over hundreds of thousands of float32 values
UNHEALTHY = Health(1 / 16, 1 / 16)  # of units and points, at least, so that the penalty has a gradient


class Check:
    """Values and gradients of a case in float64, on an input with dead and linear units and points.

    Where all units are dead, so are all points, and none is linear.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self.activation = case.activation
        self.x = make_input(case, device)
        if case.health != "dead":
            make_unhealthy(self.x, 1, UNHEALTHY)
            make_unhealthy(self.x, 0, UNHEALTHY)
        self.grad = make_gradient(case, device)
        # The mean gives each unit and point a gradient so small that 16 bits would round it away beside grad.
        self.weight = min(2.0**15, case.shape[0] + case.shape[1])  # fits in float16
        self._expected: dict[Forward, tuple[Outputs, Tensor]] = {}

    def failure(self, peer: Peer) -> str | None:
        """What is wrong with a peer's results, or None. Exceptions count as wrong."""
        try:
            with peer.active():
                outputs, gradient = self._run(peer.forward, self.x, self.grad)
        except Exception as error:
            return does_not_run(error)
        expected, expected_gradient = self._expect(peer.definition)
        tolerance = TOLERANCES[self.x.dtype]
        output, expected_output = outputs[0].double(), expected[0]
        computed = peer.before_relu is not None
        if computed:
            tolerance = max(tolerance, SUM_TOLERANCE)
        rounded = computed or self.activation != "relu"  # which has nothing to round
        # Subnormal results have no relative precision: half a step of theirs is rounding, too.
        smallest = torch.finfo(self.x.dtype).smallest_normal * torch.finfo(self.x.dtype).eps / 2
        bound = (tolerance * (computed + expected_output.abs()) + smallest) * rounded
        message = _excess("output", output, expected_output, bound)
        for value, expected_value in zip(outputs[1:], expected[1:], strict=True):
            bound = TOLERANCES[value.dtype] * (1 + expected_value.abs())
            message = message or _excess("penalty", value.double(), expected_value, bound)
        if peer.before_relu is not None:
            expected_gradient = self._gradient_through(peer.before_relu, positive=output > 0)
        bound = tolerance * (expected_gradient.abs() + self.grad.double().abs() + computed)
        return message or _excess("gradient", gradient.double(), expected_gradient, bound)

    def _gradient_through(self, before_relu: Callable[[Tensor], Tensor], positive: Tensor) -> Tensor:
        """The gradient in float64, with the ReLU active where the peer's is."""
        definition = lambda x: (torch.where(positive, before_relu(x), 0.0),)  # noqa: E731
        return self._run(definition, self.x.double(), self.grad.double())[1]

    def _expect(self, definition: Forward) -> tuple[Outputs, Tensor]:
        if definition not in self._expected:
            self._expected[definition] = self._run(definition, self.x.double(), self.grad.double())
        return self._expected[definition]

    def _run(self, forward: Forward, x: Tensor, grad: Tensor) -> tuple[Outputs, Tensor]:
        x = x.detach().requires_grad_()
        outputs = forward(x)
        weights = [torch.full_like(penalty, self.weight) for penalty in outputs[1:]]
        (gradient,) = torch.autograd.grad(outputs, x, [grad, *weights])
        return tuple(output.detach() for output in outputs), gradient


def _excess(name: str, actual: Tensor, expected: Tensor, bound: Tensor) -> str | None:
    """A message if two tensors differ by more than ``bound``; NaN differs from everything."""
    wrong = ~((actual - expected).abs() <= bound)
    count = int(wrong.sum())
    if count == 0:
        return None
    place = int(wrong.flatten().to(torch.uint8).argmax())
    values = f"{actual.flatten()[place]:.6g}, should be {expected.flatten()[place]:.6g}"
    return f"wrong {name}: {values} at flat index {place}; {count} of {actual.numel()} are wrong"
