"""What ``link_relu`` tells about what it has done."""

import logging
import warnings
from typing import Any

from torch import nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.surgery.activations import REPLACEABLE
from jumpstart_kernels.surgery.code import is_of_torch
from jumpstart_kernels.surgery.flow.layers import norm_dims
from jumpstart_kernels.surgery.linking.plan import Plan
from jumpstart_kernels.surgery.linking.sites import Group
from jumpstart_kernels.surgery.tracing import activation_attributes

logger = logging.getLogger("jumpstart_kernels")


class Report:
    """What there is to tell; made before the model changes."""

    def __init__(self, model: nn.Module, skipped: set[nn.Module]) -> None:
        self.untraceable = ""
        self.linked: list[str] = []
        self.layers: list[str] = []
        self.narrowed: list[str] = []
        self.left: dict[str, str] = {}
        self._model = model
        self._names = {module: name or "the model itself" for name, module in model.named_modules()}
        self._skipped = skipped
        self._relus = [module for module in model.modules() if type(module) in (nn.ReLU, JumpstartReLU)]
        self._shapes = {module: _shape(module) for module in model.modules()}
        self.parameters = [_count(model)]

    def note(self, plan: Plan) -> None:
        """Take over what a plan has changed."""
        self.linked = [self._described(group) for group in plan.linked]
        for module in self._model.modules():
            before, after = self._shapes.get(module), _shape(module)
            if before is not None and before != after and norm_dims(module) is None:
                self.layers.append(f"{self._names[module]} {before} to {after}")
        self.narrowed = [f"{count} x {reason}" for reason, count in plan.narrowed.items()]
        for group, reason in plan.left.items():
            if group.module not in self._skipped:
                self.left[self._described(group)] = reason
        known = {group.module for group in (*plan.linked, *plan.left)}
        for relu in self._relus:
            if relu not in known and relu not in self._skipped:
                self.left[f"{self._names[relu]} (module)"] = "the traces of the model do not call it"
        for module in self._model.modules():
            if is_of_torch(type(module).forward) and module not in self._skipped:
                for name in activation_attributes(module, (REPLACEABLE["relu"],)):
                    kind = type(module).__name__
                    place = f"{self._names[module]}.{name} (attribute)"
                    self.left[place] = f"what follows it is inside PyTorch's {kind}"
        self.parameters.append(_count(self._model))

    def _described(self, group: Group) -> str:
        return f"{self._names[group.module]} ({'module' if group.is_module else f'call {group.call}'})"


def report(done: Report, stacklevel: int = 3) -> None:
    """Log what is linked, warn of what is not."""
    if done.untraceable:
        warnings.warn(
            f"link_relu has changed nothing, since it cannot trace the model: {done.untraceable}. A part of "
            "it may be linked alone, if nothing else uses the modules in that",
            stacklevel=stacklevel,
        )
        return
    logger.info(
        "linked %d ReLUs: %s; parameters: %d before, %d after",
        len(done.linked), ", ".join(done.linked), *done.parameters,
    )  # fmt: skip
    if done.layers:
        logger.info("%d layers have other widths: %s", len(done.layers), ", ".join(done.layers))
    if done.narrowed and done.linked:
        logger.info("get the units of the plain model alone: %s", "; ".join(done.narrowed))
    if done.left:
        left = [f"  {name}: {reason}" for name, reason in done.left.items()]
        warnings.warn("\n".join(["link_relu has left as they are", *left]), stacklevel=stacklevel)
    elif not done.linked:
        warnings.warn("link_relu found no ReLU in the model: nothing is linked", stacklevel=stacklevel)


def _shape(module: nn.Module) -> list[int] | None:
    weight: Any = module._parameters.get("weight")
    return None if weight is None or isinstance(weight, nn.UninitializedParameter) else list(weight.shape)


def _count(model: nn.Module) -> int:
    sized = (each for each in model.parameters() if not isinstance(each, nn.UninitializedParameter))
    return sum(parameter.numel() for parameter in sized)
