"""Units followed for their pairs, through all calls of a model."""

from typing import Any

from torch import fx, nn

from jumpstart_kernels.initialization.effects import BREAK, JOIN, KEEP, RECTIFY, SCALE, SQUASH, effect_of
from jumpstart_kernels.initialization.pairs import (
    LINEAR,
    MIRRORED,
    ODD,
    RECTIFIED,
    SIGNED,
    SPLIT,
    Units,
    added,
    after,
    after_norm,
    has_unlike_statistics,
    put_together,
)
from jumpstart_kernels.initialization.weights import Columns
from jumpstart_kernels.nn.linked import LinkedActivation, LinkedReLU, LinkedSiLU
from jumpstart_kernels.surgery.flow.calls import Outcome, Values, is_unit_dim, name_of_call, shape_of
from jumpstart_kernels.surgery.flow.layers import is_linear, is_matrix_layer, norm_dims, spatial_dims
from jumpstart_kernels.surgery.flow.nodes import called_module
from jumpstart_kernels.surgery.flow.rules import Rules, factor_of
from jumpstart_kernels.surgery.flow.units import Run, Value
from jumpstart_kernels.surgery.linking.sites import overwritten_and_read


class PairRules(Rules):
    """As for linking, but without extra units: linked activations are those that the model has."""

    def _of_module(self, node: Any, module: Any, value: Value | None) -> Outcome:
        if not isinstance(module, LinkedActivation):
            return super()._of_module(node, module, value)
        shape = shape_of(node.args[0] if node.args else None)
        if value is None or value.scaled or not is_unit_dim(module.unit_dim, value, shape):
            return Outcome(
                refusal="it does not see which units it links: pass example_inputs, which may tell"
            )
        return Outcome(value._replace(runs=(Run(2 * value.total, True, frozenset(), None),)))


def outcomes_of(model: nn.Module, graph: fx.Graph, rules: PairRules) -> dict[fx.Node, Outcome]:
    """What becomes of units in a trace, whether they are pairs or not."""
    values: Values = {}
    outcomes = {}
    for node in graph.nodes:
        outcomes[node] = rules.apply(node, called_module(model, node), values)
        values[node] = outcomes[node].value
    return outcomes


class Follower:
    """Follows pairs through the traces of a model.

    Args:
        model: that is traced.
        left: layers that stay as they are, with the reason.
        paired: layers that will make pairs.
    """

    def __init__(self, model: nn.Module, left: dict[nn.Module, str], paired: set[nn.Module]) -> None:
        self.notes: dict[str, int] = {}
        """What keeps the model from being linear, and how often in a call of it."""
        self.lost: dict[Any, str] = {}
        """The layers whose pairs do not get past something, with what it is."""
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._left = left
        self._paired = paired
        self._columns: dict[nn.Module, set[tuple[Columns, ...]]] = {}
        self._makers: dict[nn.Module, set[Any]] = {}  # of the pairs that a layer reads

    def follow(self, graph: fx.Graph, outcomes: dict[fx.Node, Outcome]) -> None:
        """Go through one trace."""
        values: Values = {node: outcome.value for node, outcome in outcomes.items()}
        notes: dict[str, int] = {}
        units: dict[fx.Node, tuple[Units, ...]] = {}
        for node in graph.nodes:
            units[node] = self._units_of(node, outcomes[node], values, units, notes)
            self._find_lost(node, values, units)
        for note, count in notes.items():
            self.notes[note] = max(count, self.notes.get(note, 0))

    @property
    def read(self) -> set[Any]:
        """The layers whose pairs some layer reads as such."""
        reading = [layer for layer in self._makers if layer not in self._left]
        reading = [layer for layer in reading if any(each.paired for each in self.read_by(layer))]
        return {maker for layer in reading for maker in self._makers[layer]}

    def read_by(self, layer: Any) -> tuple[Columns, ...]:
        """The inputs of a layer, as it reads them in all calls."""
        found = self._columns[layer]
        if len(found) == 1:
            return next(iter(found))
        reason = f"{self._names[layer]} ({type(layer).__name__}): it is called on units of different kinds"
        self.notes[reason] = 1
        return (Columns(_inputs(layer), False, 1.0),)

    def _find_lost(self, node: fx.Node, values: Values, units: dict[fx.Node, tuple[Units, ...]]) -> None:
        module = called_module(self._model, node)
        if _is_asking(node) or (node.op != "output" and any(each.is_paired for each in units[node])):
            return
        for operand in node.all_input_nodes:
            value = values[operand]
            if value is None or not any(each.is_paired for each in units[operand]):
                continue
            if module is not None and is_matrix_layer(module):
                self._makers.setdefault(module, set()).update(value.widths)
            where = "the output" if node.op == "output" else self._name_of(node, module)
            self.lost |= {maker: where for maker in value.widths if maker not in self.lost}

    def _name_of(self, node: fx.Node, module: nn.Module | None) -> str:
        return name_of_call(node) if module is None else f"{self._names[module]} ({type(module).__name__})"

    def _units_of(
        self,
        node: fx.Node,
        outcome: Outcome,
        values: Values,
        units: dict[fx.Node, tuple[Units, ...]],
        notes: dict[str, int],
    ) -> tuple[Units, ...]:
        """What the units of a node are; one entry for the whole tensor where its units are not known."""
        module: Any = called_module(self._model, node)
        operands = [each for each in node.all_input_nodes if not _is_asking(each)]
        value = values[node]
        count = 1 if value is None else len(value.runs)
        plain = (Units(SIGNED),) * count
        if node.op == "output":
            kinds = {each.kind for operand in operands for each in units[operand]}
            if not kinds <= {SIGNED, MIRRORED, RECTIFIED}:
                notes["the model returns pairs, of which the difference alone is linear"] = 1
        if not operands or node.op == "output" or _is_asking(node):
            return plain
        before = values[operands[0]]
        where = self._name_of(node, module)
        effect = effect_of(node, module)
        nonlinear = effect.kind in (RECTIFY, SQUASH) or module in self._left

        def note(reason: str) -> None:
            # Most that happens before the first layer is no matter of initialization.
            if nonlinear or any(values[operand] is not None for operand in operands):
                notes[f"{where}: {reason}"] = notes.get(f"{where}: {reason}", 0) + 1

        if overwritten_and_read(self._model, node):
            note("it works in place, and what it overwrites is read behind it")
        if module is not None and not is_matrix_layer(module) and has_hooks(module):
            note("it has hooks")
        if is_matrix_layer(module):
            return self._behind_layer(module, before, units[operands[0]], value, note)
        if outcome.refusal or (value is None and before is not None):
            reason = outcome.refusal.removeprefix(f"{where}: ")
            unclear = not reason or reason.startswith(where)
            note("it does not see what becomes of the units" if unclear else reason)
            return plain
        if isinstance(module, LinkedActivation):
            return self._linked(module, units[operands[0]], plain, note)
        if norm_dims(module) is not None:
            return self._behind_norm(module, before, units[operands[0]], plain, note)
        if effect.kind == JOIN:
            return self._joined(node, effect.number, operands, values, units, note)
        if len(operands) > 1 or effect.kind == BREAK or len(units[operands[0]]) != count:
            note("it does not keep pairs")
            return plain
        found = tuple(after(effect, each) for each in units[operands[0]])
        for each, then in zip(units[operands[0]], found, strict=True):
            if effect.kind == RECTIFY and not each.is_paired:
                note("its units are no pairs")
            elif effect.kind not in (KEEP, SCALE) and then.kind not in (SPLIT, LINEAR):
                note("it is not linear, though odd" if each.is_paired else "it is not linear")
        return found

    def _behind_layer(
        self, layer: Any, before: Value | None, units: tuple[Units, ...], value: Value | None, note: Any
    ) -> tuple[Units, ...]:
        columns = _columns(layer, before, units)
        self._columns.setdefault(layer, set()).add(columns)
        pairs = [each for each in units if each.is_paired]
        if layer in self._left and any(each.kind != MIRRORED for each in pairs):
            note(f"it reads pairs, and is left as it is, since {self._left[layer]}")
        elif pairs and not any(each.paired for each in columns):
            note("it does not see which of its inputs are pairs")
        mirrored = value is not None and layer in self._paired
        return (Units(MIRRORED if mirrored else SIGNED),)

    def _linked(
        self, module: Any, units: tuple[Units, ...], plain: tuple[Units, ...], note: Any
    ) -> tuple[Units, ...]:
        """Behind ``cat(g(z), g(−z))``, which makes pairs of units that are none."""
        if len(plain) != 1 or {each.kind for each in units} != {SIGNED} or len(set(units)) > 1:
            note("it links units that are pairs, or of several kinds")
            return plain
        if isinstance(module, (LinkedReLU, LinkedSiLU)):
            return (Units(SPLIT if isinstance(module, LinkedReLU) else LINEAR, units[0].size),)
        note("it is not linear, though odd")
        return (Units(ODD, units[0].size),)

    def _behind_norm(
        self, norm: Any, before: Value | None, units: tuple[Units, ...], plain: tuple[Units, ...], note: Any
    ) -> tuple[Units, ...]:
        if before is None:
            return plain
        found = after_norm(norm, before, units)
        if any(each.is_paired and then.kind != MIRRORED for each, then in zip(units, found, strict=True)):
            note("it normalizes the units of a pair by different numbers")
        elif has_unlike_statistics(norm, units, before):
            note("its running statistics are not those of pairs, which reset_running_stats() mends")
        elif "Batch" not in type(norm).__name__:
            note("it divides by what depends on the sample")
        return found

    def _joined(
        self,
        node: fx.Node,
        factor: float,
        operands: list[fx.Node],
        values: Values,
        units: dict[fx.Node, tuple[Units, ...]],
        note: Any,
    ) -> tuple[Units, ...]:
        """Behind a sum or a concatenation."""
        value = values[node]
        count = 1 if value is None else len(value.runs)
        each = [units[operand] for operand in operands]
        concatenates = "cat" in name_of_call(node)
        if concatenates:
            tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
            each = [units[tensor] for tensor in tensors]
            if value is not None and count == sum(map(len, each)) and count > max(map(len, each)):
                return tuple(one for several in each for one in several)
        if any(len(several) != count for several in each):
            note("it joins units of different kinds")
            return (Units(SIGNED),) * count
        found = []
        for several in zip(*each, strict=True):
            subtracts = "sub" in name_of_call(node)
            found.append(
                put_together(list(several)) if concatenates else added(list(several), subtracts, factor)
            )
            if any(one.is_paired for one in several) and not found[-1].is_paired:
                note("it joins pairs with what is none")
        return tuple(found)


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that might change what it takes or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_asking(node: fx.Node) -> bool:
    """Whether a node is a size or the like, or made of such alone, and no tensor."""
    if name_of_call(node) in ("size", "dim", "ndim", "getattr"):
        return True
    return bool(node.all_input_nodes) and all(map(_is_asking, node.all_input_nodes))


def _inputs(layer: Any) -> int:
    return layer.in_features if is_linear(layer) else layer.in_channels


def _columns(layer: Any, before: Value | None, units: tuple[Units, ...]) -> tuple[Columns, ...]:
    """The inputs of a layer."""
    inputs = _inputs(layer)
    if before is None or before.dim != -1 - (spatial_dims(layer) or 0):
        size = units[0].size if len(units) == 1 and units[0].kind in (SIGNED, RECTIFIED) else 1.0
        return (Columns(inputs, False, size),)
    factor = factor_of(before, inputs)
    if factor * before.total != inputs:
        return (Columns(inputs, False, 1.0),)
    each = zip(before.runs, units, strict=True)
    return tuple(Columns(run.size * factor, kinds.is_paired, kinds.size_read) for run, kinds in each)
