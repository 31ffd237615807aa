"""Draws fragments: a family of shapes, then stages of a mixing layer, its ReLU and surrounding layers."""

import math
from random import Random
from typing import NamedTuple

from activations import DEFINITIONS

from fuzz.definition import LayerOptions
from fuzz.fragments import (
    Activation,
    Checkpoint,
    Concat,
    Convolution,
    Dropout,
    Flatten,
    Fragment,
    Layer,
    Linear,
    Norm,
    Pool,
    Rearrange,
    Residual,
)
from fuzz.models import FORMS, INPLACE_FORMS, OWN_FORM, OWN_INPLACE_FORM

SPATIAL_DIMS = {"vector": 0, "line": 1, "image": 2, "volume": 3}
MAX_ELEMENTS = 4096  # of one sample of one activation
STARTS_ANEW = (Linear, Convolution, Norm, Pool, Residual, Concat)  # whose output nobody else needs


class Limits(NamedTuple):
    """The limits of a mode."""

    dropout: bool = True
    random_ties: bool = True
    checkpoints: bool = False
    nested: bool = True  # checkpoints in checkpoints
    exact: bool = False  # only what small integers go through without rounding
    max_stages: int = 4
    max_edge: int = 80  # of a dimension
    max_batch: int = 70


class Draw:
    """The draw of one fragment. ``size`` is that of a sample at the place reached, ``fresh`` whether a ReLU
    there may overwrite its input."""

    def __init__(self, random: Random, limits: Limits) -> None:
        self.random = random
        self.limits = limits
        self.family = random.choice(
            ["vector", "vector", "vector", "image", "image", "line", "volume", "tokens"]
        )
        self.size = self._input_size()
        self.fresh = False
        self.slots: list[Activation] = []
        self.common = self._options(unit_dim=-1 if self.family == "tokens" else 1)

    def fragment(self) -> Fragment:
        random, input_size = self.random, self.size
        layers: list[Layer] = []
        if self._chance(0.3):
            layers += self._rearrange()
        if self._chance(0.2):
            layers.append(self._activation())
        for _ in range(random.randint(1, self.limits.max_stages)):
            layers += self._stage()
        if self._chance(0.5):
            if len(self.size) > 1 and self.family != "tokens":
                layers += [Flatten()]
                self.size = (math.prod(self.size),)
            layers.append(Linear(self.size[-1], random.randint(1, 5), True))
        if not any(
            isinstance(layer, Activation) for layer in Fragment(tuple(layers), (), self.common).every_layer()
        ):
            layers.append(self._activation())
        if self.limits.checkpoints:
            layers = self._checkpoint(layers)
        return Fragment(tuple(layers), input_size, self.common)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _edge(self, largest: int) -> int:
        """Mostly small, sometimes as wide as several SIMD vectors."""
        random = self.random
        if self._chance(0.15):
            largest *= 8
        return random.randint(1, max(1, min(largest, self.limits.max_edge)))

    def _input_size(self) -> tuple[int, ...]:
        match self.family:
            case "vector":
                return (self._edge(12),)
            case "tokens":
                return (self._edge(5), self._edge(8))
            case "line":
                return (self._edge(6), self._edge(9) + 1)
            case "image":
                return (self._edge(5), self._edge(6) + 1, self.random.randint(2, 9))
        return (self._edge(3), *(self.random.randint(2, 5) for _ in range(3)))

    def _options(self, unit_dim: int) -> LayerOptions:
        random = self.random
        ties = ["single"] * 7 + ["average"] * 2 + ["random"] * self.limits.random_ties
        return LayerOptions(
            unit_dim,
            "position" if self._chance(0.3) else "sample",
            random.choice([1.0, 1.0, 1.0, 0.5, 0.0, 1.7, 4.0, 4.0]),
            random.choice(ties),
        )

    def _own_options(self) -> LayerOptions:
        options = self._options(unit_dim=1)
        dims = len(self.size) + 1
        lowest = 0 if options.points == "position" else 1
        unit_dim = self.random.randint(lowest, dims - 1) if self._chance(0.4) else self.common.unit_dim
        return options._replace(
            unit_dim=unit_dim - dims if self._chance(0.2) and unit_dim > 0 else unit_dim,
            activation=self.random.choice(list(DEFINITIONS)),
        )

    def _activation(self) -> Activation:
        random, fits = self.random, lambda slot: self.fresh or not slot.inplace
        usable = [slot for slot in self.slots if fits(slot) and self._has_units(slot.options)]
        if usable and self._chance(0.25):
            activation = random.choice(usable)
        else:
            own = self._chance(0.3)
            inplace = self.fresh and self._chance(0.35)
            forms = (OWN_INPLACE_FORM,) if inplace else (OWN_FORM,)
            if not own:
                forms = tuple(INPLACE_FORMS if inplace else FORMS)
            options = self._own_options() if own else self.common
            activation = Activation(len(self.slots), random.choice(forms), inplace, options)
            self.slots.append(activation)
        self.fresh = False
        return activation

    def _has_units(self, options: LayerOptions) -> bool:
        dims = len(self.size) + 1
        if not -dims <= options.unit_dim < dims:
            return False
        return options.unit_dim % dims > 0 or options.points == "position"

    def _rearrange(self) -> list[Layer]:
        spatial = len(self.size) - 1
        hows = ["reversed", "transposed", "sliced", "strided", "misaligned"]
        hows += ["expanded"] if spatial and self._chance(0.5) else []
        if self.family != "tokens" and spatial in (2, 3):
            hows += ["channels_last"] * 5
        if self.family == "line":
            hows += ["units_last"] * 5
        if self.family == "tokens" and len(self.size) == 2:
            hows += ["units_first"]
        how = self.random.choice(hows)
        if how == "expanded":
            self.fresh = False
        elif how == "units_last":
            self.size, self.family = self.size[::-1], "tokens"
        elif how == "units_first":
            self.size, self.family = self.size[::-1], "line"
        return [Rearrange(how)]

    def _mix(self, keep_size: bool) -> Layer:
        """A linear layer or a convolution, with the same or another output size."""
        random = self.random
        self.fresh = True
        bias = self._chance(0.8)
        if self.family in ("vector", "tokens"):
            outputs = self.size[-1] if keep_size else self._edge(8)
            layer = Linear(self.size[-1], outputs, bias)
            self.size = (*self.size[:-1], outputs)
            return layer
        dims, inputs, edges = len(self.size) - 1, self.size[0], self.size[1:]
        outputs = inputs if keep_size else self._edge(5 if dims < 3 else 3)
        groups = random.choice([g for g in range(1, inputs + 1) if inputs % g == 0 == outputs % g])
        kernel = random.choice([1, 3, 3]) if keep_size else random.randint(1, min(3, *edges))
        # oneDNN writes past its memory in a strided 1x1 convolution (uxlfoundation/oneDNN#6035).
        stride = 1 if keep_size or kernel == 1 else random.randint(1, 2)
        padding = kernel // 2 if keep_size else random.randint(0, kernel // 2)
        edges = tuple((edge + 2 * padding - kernel) // stride + 1 for edge in edges)
        while outputs > groups and outputs * math.prod(edges) > MAX_ELEMENTS and not keep_size:
            outputs -= groups
        self.size = (outputs, *edges)
        return Convolution(dims, inputs, outputs, kernel, stride, padding, groups, bias)

    def _norm(self) -> Layer:
        self.fresh = True
        if self.family != "tokens" and self._chance(0.5):
            return Norm("batch", self.size[0], len(self.size) - 1)
        return Norm("layer", self.size[-1], 0)

    def _pool(self) -> list[Layer]:
        random, edges = self.random, self.size[1:]
        kind = "max" if self.limits.exact else random.choice(["max", "max", "average", "adaptive"])
        smallest = min(edges)
        if kind != "adaptive" and smallest < 2:
            return []
        if kind == "adaptive":
            layer = Pool(kind, len(edges), random.randint(1, min(3, smallest)), 0, 0)
            edges = (layer.size,) * len(edges)
        else:
            size = random.randint(2, min(3, smallest))
            layer = Pool(kind, len(edges), size, random.randint(1, size), random.randint(0, size // 2))
            edges = tuple((edge + 2 * layer.padding - size) // layer.stride + 1 for edge in edges)
        self.size, self.fresh = (self.size[0], *edges), True
        return [layer]

    def _basic(self, keep_size: bool) -> list[Layer]:
        layers = [self._mix(keep_size)]
        if not self.limits.exact and self._chance(0.15):
            layers.append(self._norm())
        keeps_order = [how for how in self._rearrange_keeping()] if self._chance(0.3) else []
        layers += keeps_order
        if self._chance(0.92):
            layers.append(self._activation())
        if self.limits.dropout and not self.limits.exact and self._chance(0.08):
            layers.append(Dropout(self.random.choice([0.25, 0.5])))
            self.fresh = True
        return layers

    def _rearrange_keeping(self) -> list[Layer]:
        """A rearrangement that keeps the order of dimensions."""
        size, family, fresh = self.size, self.family, self.fresh
        layers = self._rearrange()
        if (self.size, self.family) != (size, family):
            self.size, self.family, self.fresh = size, family, fresh
            return []
        return layers

    def _body(self, keep_size: bool) -> tuple[Layer, ...]:
        """Layers of a branch, whose input is used elsewhere too."""
        self.fresh = False
        layers: list[Layer] = []
        for _ in range(self.random.randint(1, 2)):
            layers += self._basic(keep_size)
        return tuple(layers)

    def _stage(self) -> list[Layer]:
        kind = self.random.random()
        if kind < 0.2:
            body = self._body(keep_size=True)
            self.fresh = True
            activated = self._has_units(self.common) and self._chance(0.6)
            if activated:
                self.fresh = False
            return [Residual(body, self.common if activated else None)]
        if kind < 0.3:
            before = self.size
            bodies = tuple(self._body(keep_size=True) for _ in range(2))
            self.size = (2 * before[0], *before[1:])
            self.fresh = True
            return [Concat(bodies)]
        layers = self._basic(keep_size=False)
        if self.family not in ("vector", "tokens") and len(self.size) > 1:
            if self._chance(0.25):
                layers += self._pool()
            if self._chance(0.15):
                self.size, self.family = (math.prod(self.size),), "vector"
                return [*layers, Flatten()]
        if self._chance(0.15):
            layers += self._rearrange()
        return layers

    def _checkpoint(self, layers: list[Layer]) -> list[Layer]:
        """Checkpoints around all layers, around some, or nested."""
        starts = [i for i, layer in enumerate(layers) if isinstance(layer, STARTS_ANEW)]
        kind = self.random.choice(["whole", "segments", "some"] + ["nested"] * self.limits.nested)
        if not starts or kind == "whole":
            return [Checkpoint(tuple(layers))]
        result = layers[: starts[0]]
        for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
            segment = tuple(layers[start:end])
            chosen = kind != "some" or self._chance(0.5)
            result += [Checkpoint(segment)] if chosen else segment
        if kind == "nested" and result:
            result = [*layers[: starts[0]], Checkpoint(tuple(result[starts[0] :]))]
        return result


def draw_fragment(random: Random, limits: Limits) -> Fragment:
    """A fragment with at least one ReLU that the limits allow."""
    if limits.dropout and limits.random_ties:  # both draw from one generator, and in an order left open
        one = random.choice(["dropout", "random_ties"])
        limits = limits._replace(dropout=one == "dropout", random_ties=one == "random_ties")
    return Draw(random, limits).fragment()
