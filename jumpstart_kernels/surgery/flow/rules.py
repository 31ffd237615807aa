"""How units pass through a node of a trace: one rule for each kind of layer, ``calls.py`` for calls."""

from typing import Any

from torch import fx, nn

from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.linked import LinkedActivation
from jumpstart_kernels.surgery.flow.calls import Outcome, Values, after_call, flattened, shape_of
from jumpstart_kernels.surgery.flow.layers import (
    is_linear,
    is_matrix_layer,
    is_transposed,
    norm_dims,
    passed_dims,
    spatial_dims,
    units_of_norm,
)
from jumpstart_kernels.surgery.flow.units import Run, Value

_NOBODY = frozenset[Any]()


class Rules:
    """The rules for a model.

    Args:
        blocked: layers that must not be widened, with the reason.
        names: of the modules, for reasons.
    """

    def __init__(self, blocked: dict[nn.Module, str], names: dict[nn.Module, str]) -> None:
        self._blocked = blocked
        self._names = names

    def apply(self, node: Any, module: nn.Module | None, values: Values) -> Outcome:
        """The outcome of a node; ``module`` is what it calls, if it does."""
        outcome = self._apply(node, module, values)
        value, shape = outcome.value, shape_of(node)
        if value is None or shape is None or value.scaled:
            return outcome
        if len(shape) >= -value.dim and shape[value.dim] == value.plain_total:
            return outcome
        return outcome._replace(value=None, refusal=outcome.refusal or "its shape is not as it follows")

    def _apply(self, node: Any, module: nn.Module | None, values: Values) -> Outcome:
        if node.op == "call_module":
            assert module is not None
            first = node.args[0] if node.args else None
            value = values.get(first) if isinstance(first, fx.Node) else None
            outcome = self._of_module(node, module, value)
            others = [values.get(operand) for operand in node.all_input_nodes if operand is not first]
            return self._checked(outcome, [value, *others], alone=not any(others))
        operands = [values.get(operand) for operand in node.all_input_nodes]
        if node.op == "output":
            return self._checked(Outcome(refusal="the model returns it"), operands)
        if node.op in ("call_function", "call_method"):
            return self._checked(after_call(node, values), operands)
        return Outcome()

    def _checked(self, outcome: Outcome, operands: list[Value | None], alone: bool = True) -> Outcome:
        """An outcome whose refusal fixes the widths that it does not say to stay equal."""
        if not alone and not outcome.refusal:
            outcome = outcome._replace(refusal="it takes several tensors")
        if not outcome.refusal or outcome.same:
            return outcome
        widths = frozenset[Any]().union(*(value.widths for value in operands if value is not None))
        return outcome._replace(fixed=outcome.fixed | widths)

    def _of_module(self, node: Any, module: Any, value: Value | None) -> Outcome:
        described = f"{self._names.get(module, '')} ({type(module).__name__})".lstrip()
        if is_matrix_layer(module):
            return self._of_layer(module, value, described)
        if norm_dims(module) is not None:
            return self._of_norm(module, value, described, shape_of(node.args[0] if node.args else None))
        if isinstance(module, LinkedActivation) and value is not None:
            run = Run(value.plain_total * 2, True, _NOBODY, None)
            return Outcome(value._replace(runs=(run,)), f"{described} is linked already")
        if isinstance(module, nn.Flatten):
            return flattened(value, module.start_dim, module.end_dim, shape_of(node.args[0]))
        over = 0 if isinstance(module, JumpstartActivation) else passed_dims(module)
        if over is None or (value is not None and value.dim >= -over):
            return Outcome(refusal=f"{described} is no layer that it can widen or pass")
        return Outcome(value)

    def _of_layer(self, layer: Any, value: Value | None, described: str) -> Outcome:
        """A layer with a matrix, which is widened."""
        spatial = spatial_dims(layer)
        dim = -1 if spatial is None else -(spatial + 1)
        outputs = layer.out_features if is_linear(layer) else layer.out_channels
        inputs = layer.in_features if is_linear(layer) else layer.in_channels
        matrix = is_linear(layer) and value is not None and value.matrix
        run = Run(outputs, True, _NOBODY, layer)
        result = Value(dim, (run,), matrix=matrix)
        groups = 1 if is_linear(layer) else layer.groups
        own = frozenset({layer}) if groups > 1 else _NOBODY  # must stay as it is unless its inputs are known
        if value is None:
            return Outcome(result, fixed=own)
        whole = value.plain_total * max(factor_of(value, inputs), 1)
        if value.dim != dim or whole != inputs:
            reason = f"{described} has {inputs} inputs, and it does not see how they come of its units"
            return Outcome(result, reason, fixed=own)
        if reason := self._blocked.get(layer, ""):
            return Outcome(result, f"{described}: {reason}")
        if groups == 1:
            return Outcome(result)
        extra = value.total - value.plain_total
        if is_transposed(layer) or extra % value.plain_total or value.scaled:
            reason = f"{described} has groups, and not every unit of a group has its twin"
            return Outcome(result, reason, fixed=own)
        if groups == inputs and outputs == inputs and len(value.narrowed().runs) == 1:
            return Outcome(result, same=(value.widths | {layer},))
        fixed = frozenset(value.widths | {layer}) if groups == inputs else _NOBODY
        return Outcome(result, fixed=fixed)

    def _of_norm(
        self, norm: Any, value: Value | None, described: str, shape: tuple[int, ...] | None
    ) -> Outcome:
        """A norm of every unit, or of groups of them, alone."""
        dims = norm_dims(norm) or ()
        units = units_of_norm(norm)
        if value is None:
            run = Run(units, True, _NOBODY, None)
            return Outcome(Value(dims[0], (run,)) if len(dims) == 1 else None)
        elsewhere = shape is not None and value.dim != 1 - len(shape)
        if value.dim not in dims or elsewhere or value.scaled or value.plain_total != units:
            return Outcome(None, f"{described} has {units} units, and it does not see which")
        plain = value.narrowed()
        if reason := self._blocked.get(norm, ""):
            return Outcome(plain, f"{described}: {reason}")
        if isinstance(norm, nn.GroupNorm):
            size = units // norm.num_groups
            if any(run.size % size for run in value.runs):
                return Outcome(plain, f"{described} would have groups of plain and of new units")
            return Outcome(value, fixed=frozenset(value.widths))
        if type(norm) is nn.BatchNorm1d and value.dim == -1:
            value = value._replace(matrix=True)
        return Outcome(value)


def factor_of(value: Value, inputs: int) -> int:
    """How many columns of a layer's matrix every unit has; 0 if that is no whole number."""
    factor, rest = divmod(inputs, value.plain_total)
    return factor if value.scaled and not rest else int(not value.scaled)


def columns_per_unit(layer: Any, value: Value) -> int:
    """How many columns a layer has for each of these channels; 0 if they are not what it multiplies."""
    inputs = layer.in_features if is_linear(layer) else layer.in_channels
    dim = -1 - (spatial_dims(layer) or 0)
    factor = factor_of(value, inputs) if value.dim == dim else 0
    return factor if factor * value.total == inputs else 0
