"""What optimizers keep of the weights that start anew."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from jumpstart_kernels.recycling.edits import Edit, Region
from jumpstart_kernels.surgery.flow.calls import words

CHOICES = ("mean", "zero", "restart")
# Means of squares, by which a step is divided: a small one makes it large.
_SQUARES = words("exp_avg_sq max_exp_avg_sq square_avg acc_delta variance row_var col_var")
_ZEROED = words("exp_avg momentum_buffer grad_avg prev exp_inf exp_avg_diff")
_COPIES = frozenset(("ax", "z"))  # of the weights
_STEPS = {"step": 0.0, "mu_product": 1.0}


class States(NamedTuple):
    """What is written to the states of optimizers."""

    edits: list[Edit]
    scalars: list[tuple[dict[Any, Any], str, float]]  # a state, its key and the new number
    notes: list[str]  # what could not be cleared, or only by guessing


def check_optimizers(optimizer: Any, model: nn.Module) -> tuple[Optimizer, ...]:
    """The optimizers as a tuple.

    Raises:
        TypeError: one is no ``torch.optim.Optimizer``.
        ValueError: its state has no rows of units, or they hold no parameter of the model.
    """
    if optimizer is None:
        return ()
    optimizers = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise TypeError(
                "optimizer must be a torch.optim.Optimizer, a list of them, or None, "
                f"got {type(each).__name__}"
            )
        if isinstance(each, torch.optim.LBFGS):
            raise ValueError("optimizer must not be LBFGS: its state is of all weights together")
        if type(each).__name__ == "ZeroRedundancyOptimizer":
            raise ValueError(
                "optimizer must not be a ZeroRedundancyOptimizer, each rank of which has a part of the state"
            )
    held = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    if not held & {id(parameter) for parameter in model.parameters()}:
        raise ValueError("optimizer must hold parameters of model, but holds none of them")
    return optimizers


def restart(optimizers: Sequence[Optimizer], regions: list[Region], how: str) -> States:
    """What is to be written so that regions of parameters start anew.

    Args:
        optimizers: those that may train the parameters.
        regions: of parameters; the same parameter may have several.
        how: ``"mean"``, ``"zero"`` or ``"restart"``, see :func:`~jumpstart_kernels.recycle`.
    """
    states = States([], [], [])
    for region in _merged(regions):
        gradient = region.parameter.grad
        if gradient is not None and not gradient.is_sparse:
            states.edits.append(_zeros(gradient, region.dim, region.at))
        for optimizer in optimizers:
            state = optimizer.state.get(region.parameter)
            if state:
                _restart(states, optimizer, state, region, how)
    return states


def _merged(regions: list[Region]) -> list[Region]:
    """One region for each parameter and dimension."""
    found: dict[tuple[int, int], Region] = {}
    for region in regions:
        key = (id(region.parameter), region.dim)
        at = torch.cat([found[key].at, region.at]) if key in found else region.at
        found[key] = region._replace(at=at.unique())
    return list(found.values())


def _restart(states: States, optimizer: Optimizer, state: dict[Any, Any], region: Region, how: str) -> None:
    shape, whole = region.parameter.shape, len(region.at) == region.parameter.shape[region.dim]
    for key, value in state.items():
        if key in _STEPS:
            if how == "restart" or (whole and how == "mean"):
                states.scalars.append((state, key, _STEPS[key]))
            continue
        if not isinstance(value, Tensor) or (value.dim() == 0 and shape.numel() > 1):
            continue
        where = f"{type(optimizer).__name__}'s {key!r} of {region.name}"
        alike = value.dim() == len(shape) and all(
            own in (1, size) for own, size in zip(value.shape, shape, strict=True)
        )
        if not alike or not (value.is_floating_point() or value.is_complex()):
            states.notes.append(f"{where} stays as it is: it has no rows like the parameter's")
        elif value.shape[region.dim] == shape[region.dim]:  # else it is shared by all rows
            if key not in _SQUARES | _ZEROED | _COPIES and not _is_known(optimizer, key):
                states.notes.append(f"{where} is zeroed: it is not known what it is")
            states.edits.append(_new(optimizer, key, value, region, how, whole))


def _is_known(optimizer: Optimizer, key: str) -> bool:
    return (type(optimizer), key) in ((torch.optim.Adagrad, "sum"), (torch.optim.Rprop, "step_size"))


def _new(optimizer: Optimizer, key: str, value: Tensor, region: Region, how: str, whole: bool) -> Edit:
    dim, at = region.dim, region.at.to(value.device)
    if key in _COPIES:
        return Edit(value, dim, at, region.parameter)  # what it will be
    if key in _SQUARES and how == "mean" and not whole:
        live = torch.ones(value.shape[dim], dtype=torch.bool, device=value.device)
        live[at] = False
        mean = value.index_select(dim, live.nonzero().flatten()).mean(dim, keepdim=True)
        return Edit(value, dim, at, mean.expand_as(value.index_select(dim, at)).clone())
    edit = _zeros(value, dim, at)
    if _is_known(optimizer, key):
        option = "initial_accumulator_value" if key == "sum" else "lr"
        edit.values.fill_(_group_of(optimizer, region.parameter).get(option, 0.0))
    return edit


def _group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    return next(
        group for group in optimizer.param_groups if any(each is parameter for each in group["params"])
    )


def _zeros(tensor: Tensor, dim: int, at: Tensor) -> Edit:
    return Edit(tensor, dim, at, torch.zeros_like(tensor.index_select(dim, at)))


@torch.no_grad()
def write(edits: Sequence[Edit]) -> None:
    """Make edits, in turn."""
    for tensor, dim, at, values in edits:
        if isinstance(values, nn.Parameter):
            values = values.index_select(dim, at.to(values.device)).to(tensor.device, tensor.dtype)
        tensor.index_copy_(dim, at, values)


@torch.no_grad()
def write_scalars(states: States) -> None:
    """Set steps back."""
    for state, key, number in states.scalars:
        if isinstance(state[key], Tensor):
            state[key].fill_(number)
        else:
            state[key] = type(state[key])(number)


def warn_of(notes: Sequence[str]) -> None:
    """One warning for all that optimizers keep."""
    if notes:
        warnings.warn(
            "recycle has not cleared all that the optimizer keeps of the recycled units: "
            + "; ".join(dict.fromkeys(notes)),
            stacklevel=3,
        )
