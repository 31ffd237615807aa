"""The emulated kernels of the penalty."""

import ctypes

import torch
from torch import Tensor

from cuda_emulator import Memory, PenaltyGradient, _address, _penalty_gradient, _raise, _weights, library
from cuda_emulator.structures import PenaltyCall
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE


def forward(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    """As the reference's ``penalty``."""
    dtype = slack_sums[0].dtype
    with Memory() as memory:
        layers = [memory.place(sums) for sums in slack_sums]
        value, total = memory.allocate(1, dtype), memory.allocate(1, torch.float64)
        addresses = (ctypes.c_void_p * len(layers))(*map(_address, layers))
        call = PenaltyCall(
            dtype == torch.float64, addresses, len(layers), _weights(weights), square_root,
            _address(value), _address(total),
        )  # fmt: skip
        _raise(library().emulator_penalty(ctypes.byref(call)))
        memory.check()
        return value.clone()[0]


def backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    """As the reference's ``penalty_backward``."""
    with Memory() as memory:
        call = _penalty_gradient(PenaltyGradient(grad, value, weights), memory)
        by_sum = memory.allocate(LAYER_SUMS, grad.dtype)
        float64, to = ctypes.c_bool(grad.dtype == torch.float64), ctypes.c_void_p(_address(by_sum))
        _raise(library().emulator_penalty_backward(float64, ctypes.byref(call), to))
        memory.check()
        return by_sum.clone().view(SUMS_SHAPE)
