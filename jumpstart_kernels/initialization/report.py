"""What ``looks_linear_`` has done, layer by layer."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from jumpstart_kernels.initialization.plan import Plan
from jumpstart_kernels.initialization.weights import keeps_positions


class Initialized(NamedTuple):
    """What has become of one layer."""

    reads: str
    """``"pairs"`` (``x₊ − x₋``), ``"units"`` (each alone), ``"both"``, or ``""`` for a layer that is left."""
    makes: str
    """``"pairs"`` (``V z`` and ``−V z``), ``"units"`` (``V z``), or ``""`` for a layer that is left."""
    kernel: str
    """``"center"`` (all but the tap in the middle is zero), ``"patch"`` (``V`` is of all taps), or ``""``."""
    reason: str
    """Why it does not make pairs, or is left as it is; else ``""``."""

    def __str__(self) -> str:
        if not self.makes:
            return f"left as it is: {self.reason}"
        kernel = f" ({self.kernel})" if self.kernel else ""
        why = f": {self.reason}" if self.reason else ""
        return f"reads {self.reads}, makes {self.makes}{kernel}{why}"


class LooksLinear(Mapping[str, Initialized]):
    """The report of :func:`~jumpstart_kernels.looks_linear_`: an entry for every layer, by its name.

    It prints as a line for each.
    """

    def __init__(self, layers: dict[str, Initialized], notes: dict[str, int]) -> None:
        self._layers = layers
        self.notes = notes
        """What keeps the model from being a linear function of its input, and how often."""

    @property
    def is_linear(self) -> bool:
        """Whether the model is known to be a linear function of what its first layers read.

        Affine, if layers with a bias or norms have been left as they are; with the statistics of a batch
        norm held fixed, and without dropout, as in evaluation.
        """
        return not self.notes and any(each.makes for each in self.values())

    def __getitem__(self, name: str) -> Initialized:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __str__(self) -> str:
        done = sum(bool(each.makes) for each in self.values())
        lines = [f"looks_linear_: {done} layers set, {len(self) - done} left as they are"]
        width = max(map(len, self), default=0)
        lines += [f"  {name:{width}}  {each}" for name, each in self.items()]
        if self.is_linear:
            lines.append("the model is a linear function of what its first layers read")
        elif self.notes:
            lines.append("the model is not known to be a linear function:")
            lines += [f"  {note}" + (f" ({n} times)" if n > 1 else "") for note, n in self.notes.items()]
        return "\n".join(lines)

    __repr__ = __str__


def make_report(model: nn.Module, plan: Plan) -> LooksLinear:
    """The report of a plan that has been carried out."""
    layers = {}
    for name, module in model.named_modules():
        name = name or "the model itself"
        if module in plan.left:
            layers[name] = Initialized("", "", "", plan.left[module])
        elif module in plan.readings:
            layers[name] = _initialized(module, plan)
    return LooksLinear(layers, plan.notes)


def _initialized(layer: Any, plan: Plan) -> Initialized:
    reading = plan.readings[layer]
    paired = {each.paired for each in reading.columns}
    reads = "both" if len(paired) > 1 else ("pairs" if True in paired else "units")
    kernel = "" if layer.weight[0, 0].numel() == 1 else ("center" if keeps_positions(layer) else "patch")
    return Initialized(reads, "pairs" if reading.mirrored else "units", kernel, plan.unpaired.get(layer, ""))
