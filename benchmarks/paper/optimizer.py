"""Adam for a stack of networks, with the same updates as if each were trained alone."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks.paper.stack import Stack

TINY = 1e-6  # added to a norm, as in clip_grad_norm_


class StackedAdam:
    """PyTorch's Adam on all parameters of a stack as one vector, with a learning rate for each network.

    A step of Adam is linear in the learning rate: it is taken with the largest, and scaled for the others.

    Args:
        stack: its parameters become views of the vector.
        rates: the learning rate of each network.
        max_norms: the norm to which each network's gradient is clipped, as by
            ``torch.nn.utils.clip_grad_norm_``; None for a network without clipping. Default: no clipping.
        weight_decays: of each network, as in Adam: added to the clipped gradient. Default: no weight decay.
        masks: for parameters of the stack, of their shapes: what is false there is zero and stays it.
    """

    def __init__(
        self,
        stack: Stack,
        rates: Sequence[float],
        max_norms: Sequence[float | None] = (),
        weight_decays: Sequence[float] = (),
        masks: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        parameters = list(stack.parameters())
        largest = max(rates)
        share = torch.tensor([rate / largest for rate in rates], dtype=torch.float64)
        by_network = [p.detach().reshape(stack.count, -1) for p in parameters]  # each [K, values]
        self.vector = torch.cat([values.flatten() for values in by_network])
        shares = [share[:, None].expand_as(values).flatten() for values in by_network]
        self.shares = torch.cat(shares).to(self.vector)
        self.gradient = self.vector.grad = torch.zeros_like(self.vector)
        limits = [math.inf if limit is None else limit for limit in max_norms]
        self.limits = self.vector.new_tensor(limits) if min(limits, default=math.inf) < math.inf else None
        self.decays = self.vector.new_tensor(weight_decays) if any(weight_decays) else None
        owners = torch.arange(stack.count)[:, None]
        self.owner = torch.cat([owners.expand_as(values).flatten() for values in by_network])
        self.mask: Tensor | None = None
        if masks is not None:
            of_all = [masks.get(p, torch.ones_like(p)).to(self.vector) for p in parameters]
            self.mask = torch.cat([mask.flatten() for mask in of_all])
            self.vector.mul_(self.mask)
        self.optimizer = torch.optim.Adam([self.vector], lr=largest, fused=True)
        sizes = [p.numel() for p in parameters]
        views = zip(parameters, self.vector.split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, values, gradients in views:
            parameter.data = values.view_as(parameter)
            parameter.grad = gradients.view_as(parameter)

    def step(self, factors: Tensor | None = None) -> None:
        """Update the parameters, and set the gradients to zero.

        Args:
            factors: ``[K]``, each at most 1, of the networks' learning rates; None for the full rates.
        """
        if self.mask is not None:
            self.gradient.mul_(self.mask)
        if self.limits is not None:
            self.clip_gradients(self.limits)
        if self.decays is not None:
            self.gradient.addcmul_(self.vector, self.decays[self.owner])
        before = self.vector.clone()
        self.optimizer.step()
        shares = self.shares if factors is None else self.shares * factors.to(self.vector)[self.owner]
        torch.lerp(before, self.vector, shares, out=self.vector)
        self.optimizer.zero_grad(set_to_none=False)

    def clip_gradients(self, limits: Tensor) -> None:
        """Clip each network's gradient to at most its norm in ``limits``, ``[K]``."""
        squares = self.gradient.double().square()  # those of deep networks with BatchNorm overflow in float32
        norms = squares.new_zeros(len(limits)).index_add_(0, self.owner, squares).sqrt()
        factors = (limits / (norms + TINY)).clamp(max=1).to(self.gradient)
        self.gradient.mul_(factors[self.owner])
