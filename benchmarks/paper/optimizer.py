"""Adam of a stack of networks, as each would have it alone."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.paper.stack import Stack

TINY = 1e-6  # beside a norm, as in clip_grad_norm_


class StackedAdam:
    """PyTorch's Adam on all parameters of a stack as one vector, each network at its own learning rate.

    A step of Adam is linear in the rate: it is taken at the largest, and of it the others keep their part.

    Args:
        stack: its parameters become views of the vector.
        rates: of each network.
        max_norms: to which each network's gradient is cut, as ``torch.nn.utils.clip_grad_norm_`` does it;
            None for one that is not. No network's is if not given.
        weight_decays: of each network, as Adam has them: added to the gradient, once that is cut. None are
            if not given.
    """

    def __init__(
        self,
        stack: Stack,
        rates: Sequence[float],
        max_norms: Sequence[float | None] = (),
        weight_decays: Sequence[float] = (),
    ) -> None:
        parameters = list(stack.parameters())
        largest = max(rates)
        part = torch.tensor([rate / largest for rate in rates], dtype=torch.float64)
        by_network = [p.detach().reshape(stack.count, -1) for p in parameters]  # each [K, values]
        self.vector = torch.cat([values.flatten() for values in by_network])
        parts = [part[:, None].expand_as(values).flatten() for values in by_network]
        self.parts = torch.cat(parts).to(self.vector)
        self.gradient = self.vector.grad = torch.zeros_like(self.vector)
        limits = [math.inf if limit is None else limit for limit in max_norms]
        self.limits = self.vector.new_tensor(limits) if min(limits, default=math.inf) < math.inf else None
        self.decays = self.vector.new_tensor(weight_decays) if any(weight_decays) else None
        owners = torch.arange(stack.count)[:, None]
        self.owner = torch.cat([owners.expand_as(values).flatten() for values in by_network])
        self.optimizer = torch.optim.Adam([self.vector], lr=largest, fused=True)
        sizes = [p.numel() for p in parameters]
        views = zip(parameters, self.vector.split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, values, gradients in views:
            parameter.data = values.view_as(parameter)
            parameter.grad = gradients.view_as(parameter)

    def step(self, factors: Tensor | None = None) -> None:
        """A step by the gradients, which then are zero.

        Args:
            factors: of the networks' rates, ``[K]``, each at most 1; None for their full rates.
        """
        if self.limits is not None:
            self.cut_gradients(self.limits)
        if self.decays is not None:
            self.gradient.addcmul_(self.vector, self.decays[self.owner])
        before = self.vector.clone()
        self.optimizer.step()
        parts = self.parts if factors is None else self.parts * factors.to(self.vector)[self.owner]
        torch.lerp(before, self.vector, parts, out=self.vector)
        self.optimizer.zero_grad(set_to_none=False)

    def cut_gradients(self, limits: Tensor) -> None:
        """Scale each network's gradient to a norm of at most its limit ``[K]``."""
        squares = self.gradient.double().square()  # those of a deep BatchNorm overflow in float32
        norms = squares.new_zeros(len(limits)).index_add_(0, self.owner, squares).sqrt()
        factors = (limits / (norms + TINY)).clamp(max=1).to(self.gradient)
        self.gradient.mul_(factors[self.owner])
