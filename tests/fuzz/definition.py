"""The definition in plain PyTorch operations, without any of the package.

``x`` is a pre-activation ``[N, C, *]``. Statistics are float64 whatever ``x`` is, and the gradient of ``x``
is rounded to its dtype once, where everything that meets in an element has been added up.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from activations import DEFINITIONS
from torch import Tensor

REDUCTIONS = ("balanced", "mean", "sum", "norm", "squared")

# The slacks that each choice of terms keeps: of units s⁺ and s⁻, of points s⁺ and s⁻.
KEPT = {
    "full": (1, 1, 1, 1),
    "unit": (1, 1, 0, 0),
    "point": (0, 0, 1, 1),
    "unit_positive": (1, 0, 0, 0),
    "point_positive": (0, 0, 1, 0),
    "positive": (1, 0, 1, 0),
    "all_but_unit_positive": (0, 1, 1, 1),
    "all_but_unit_negative": (1, 0, 1, 1),
    "all_but_point_positive": (1, 1, 0, 1),
    "all_but_point_negative": (1, 1, 1, 0),
}


class LayerOptions(NamedTuple):
    """The options of one layer."""

    unit_dim: int = 1
    points: str = "sample"
    margin: float = 1.0
    tie_breaking: str = "single"
    activation: str = "relu"

    def keywords(self) -> dict[str, Any]:
        """As a layer takes them."""
        return {name: value for name, value in self._asdict().items() if name != "activation"}


class PenaltyOptions(NamedTuple):
    """The options of the penalty."""

    reduction: str = "balanced"
    sign_balance: float = 0.5
    terms: str = "full"


class Slacks(NamedTuple):
    """The contribution of one forward of one layer to the penalty, each ``[C]`` or ``[P]``."""

    unit_positive: Tensor
    unit_negative: Tensor
    point_positive: Tensor
    point_negative: Tensor


def lowest_index(rows: Tensor, best: Tensor) -> Tensor:
    """Of ``[K, M]`` the place in each row of the first element that equals ``best`` ``[K]``."""
    places = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
    return torch.where(rows == best[:, None], places, rows.shape[1]).amin(1)


class Rules(NamedTuple):
    """The choices that a wrong implementation can get wrong."""

    place: Callable[[Tensor, Tensor], Tensor] = lowest_index
    hinge: Callable[[Tensor], Tensor] = torch.relu  # gradient 0 at 0
    rectify: Callable[[Tensor], Tensor] = torch.relu  # gradient 0 at 0


RIGHT = Rules()


class Observer:
    """Statistics of a run of the definition: special cases, and distances to jumps of the gradient."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.closest = float("inf")  # distance to the nearest jump, relative to the values around it
        self.coincides = False  # whether it stood on a jump: a tie, a zero, a kink
        self.largest = 0.0  # bound of every partial sum, for exact arithmetic
        self.slope = 1.0  # how far what is divided by a norm amplifies a rounding error
        self.magnitude = 1.0  # of the pre-activations
        self.unspecified = False  # whether the definition leaves a gradient open: a random choice of the tied

    def jumps(self, distances: Tensor, scale: float, name: str) -> None:
        """Record distances to points where a gradient jumps; those of 0 count as ``name``."""
        zeros = int((distances == 0).sum())
        self.seen[name] += zeros
        self.coincides |= zeros > 0
        others = distances[distances != 0]
        if others.numel():
            self.closest = min(self.closest, others.abs().min().item() / scale)

    def stretches(self, slope: float) -> None:
        """Note the slopes of a forward's norms, multiplied; or that of a second derivative."""
        self.slope = max(self.slope, slope)

    def sums(self, terms: Tensor) -> None:
        """Note the sums of the absolute terms of a linear map."""
        if terms.numel():
            self.largest = max(self.largest, terms.detach().abs().max().item())


def unit_rows(x: Tensor, options: LayerOptions) -> Tensor:
    """``[C, all else]``, each row in the logical order of ``x``."""
    return x.movedim(options.unit_dim, 0).flatten(1)


def point_rows(x: Tensor, options: LayerOptions) -> Tensor:
    """``[P, all else]``, each row in the logical order of ``x``."""
    if options.points == "sample":
        return x.flatten(1)
    return x.movedim(options.unit_dim, -1).flatten(0, -2)


def extremum(rows: Tensor, options: LayerOptions, rules: Rules) -> Tensor:
    """The maximum of each row of ``[K, M]``, with the gradient of the tie rule."""
    best = rows.detach().amax(1)
    if options.tie_breaking == "average":
        return rows.amax(1)  # PyTorch shares its gradient evenly
    return rows.gather(1, rules.place(rows.detach(), best)[:, None]).squeeze(1)


def jumpstart_activation(
    x: Tensor, options: LayerOptions, rules: Rules = RIGHT, observer: Observer | None = None
) -> tuple[Tensor, Slacks]:
    """The activation of ``x``, and the slack of its units and points; an empty ``x`` has none."""
    wide = x.double()
    output = activate(wide, options, rules).to(x.dtype)
    if x.numel() == 0:
        return output, Slacks(*[wide.flatten()] * 4)
    slacks = []
    for find in (unit_rows, point_rows):
        rows = find(wide, options)
        for sign in (1, -1):  # −max(−x) is the minimum
            slacks.append(rules.hinge(options.margin - extremum(sign * rows, options, rules)))
    if observer is not None:
        observe(x.detach().double(), options, observer)
    return output, Slacks(*slacks)


def activate(x: Tensor, options: LayerOptions, rules: Rules) -> Tensor:
    """An activation by its first parameter to test with."""
    if options.activation == "relu":
        return rules.rectify(x)
    definition = DEFINITIONS[options.activation]
    return definition.function(x, definition.parameters[0])


def observe(x: Tensor, options: LayerOptions, observer: Observer) -> None:
    """Record the special cases in a pre-activation."""
    scale = max(1.0, x.abs().max().item())
    observer.magnitude = max(observer.magnitude, scale)
    observer.jumps(x.flatten(), scale, "zeros")
    for axis, rows in (("units", unit_rows(x, options)), ("points", point_rows(x, options))):
        maxima, minima = rows.amax(1), rows.amin(1)
        observer.seen[f"dead {axis}"] += int((maxima <= 0).sum())
        observer.seen[f"linear {axis}"] += int((minima > 0).sum())
        for signed in (rows, -rows):
            hinges = options.margin - signed.amax(1)
            observer.jumps(hinges, scale, "hinges at their kink")
            best = signed[hinges > 0].topk(min(2, rows.shape[1]), dim=1).values
            if best.shape[1] == 2:
                gaps = best[:, 0] - best[:, 1]
                observer.jumps(gaps, scale, f"tied {axis}")
                observer.unspecified |= options.tie_breaking == "random" and bool((gaps == 0).any())


def penalty(records: list[Slacks], options: PenaltyOptions) -> Tensor:
    """The penalty of all records, 0-dim."""
    keep, balance = KEPT[options.terms], (options.sign_balance, 1 - options.sign_balance) * 2
    axes = []
    for axis in (0, 2):
        slack = sum(
            keep[i] * balance[i] * torch.cat([record[i] for record in records]) for i in (axis, axis + 1)
        )
        if any(keep[axis : axis + 2]) and slack.numel():
            axes.append(slack)
    if not axes:  # of nothing
        return torch.cat([record.unit_positive for record in records]).sum() * 0
    if options.reduction == "balanced":
        return torch.stack([axis.mean() for axis in axes]).sum()
    together = torch.cat(axes)
    if options.reduction == "norm":
        return together.norm()
    if options.reduction == "squared":
        return together.square().sum()
    return together.mean() if options.reduction == "mean" else together.sum()
