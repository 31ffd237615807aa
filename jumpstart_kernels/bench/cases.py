"""The benchmark's cases: shapes, dtypes, layouts, and the default selections of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.layout import along_units, channels_last_format

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
LAYOUTS = ("contiguous", "channels_last")
BOTH = "forward+backward"
PASSES = ("forward", "backward", BOTH, "step")
LAUNCH_BOUND = 2**20  # elements up to which launching a kernel costs a GPU more than moving its bytes


class Health(NamedTuple):
    """Fractions of the units that are dead or linear: these get a gradient from the penalty."""

    dead: float = 0.0
    linear: float = 0.0


HEALTHS = {"healthy": Health(), "unhealthy": Health(0.1, 0.1), "dead": Health(dead=1.0)}

_Shapes = list[tuple[int, ...]]
_CPU_SHAPES: _Shapes = [(64, 64, 56, 56), (4096, 4096), (1024, 1024), (256, 1024), (256, 4)]
_CUDA_SHAPES: _Shapes = [
    (256, 64, 112, 112),
    (16384, 16384),
    *_CPU_SHAPES,
]  # two of 256 MiB or more
_FURTHER_SHAPES: _Shapes = [(16, 64, 8, 28, 28), (1000, 301)]
_QUICK_SHAPES: dict[str, _Shapes] = {
    "cpu": [(1024, 1024), (256, 1024), (256, 4)],
    "cuda": [(64, 64, 56, 56), (4096, 4096), (256, 1024), (256, 4)],
}
_SWEEP_SHAPES: _Shapes = [(256, 2**k) for k in range(2, 11, 2)] + [(2**k, 2**k) for k in range(10, 13)]
_CUDA_SWEEP_SHAPES: _Shapes = [(8192, 8192), (16384, 16384)]


class Case(NamedTuple):
    """One input and how to run it."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    graphs: bool = False
    """Replayed as a CUDA graph."""
    dead: float = 0.0
    """Fraction of the units that are dead, the first ones."""
    linear: float = 0.0
    """Fraction of the units that are linear, the last ones."""
    activation: str = "relu"
    """Of :data:`~jumpstart_kernels.ops.activations.ACTIVATIONS` or ``LINKED_ACTIVATIONS``."""
    bias: bool = False
    """Whether a bias, one value for each unit, is added to the input."""

    @property
    def is_linked(self) -> bool:
        """Whether the output has twice the units."""
        return self.activation in LINKED_ACTIVATIONS

    @property
    def output_shape(self) -> tuple[int, ...]:
        samples, units, *positions = self.shape
        return samples, units * (1 + self.is_linked), *positions

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        """Size of one tensor of the case."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def health(self) -> str:
        """Of ``HEALTHS``; ``"unhealthy"`` for any fractions that are neither healthy nor dead."""
        known = (name for name, each in HEALTHS.items() if each == (self.dead, self.linear))
        return next(known, "unhealthy")

    def __str__(self) -> str:
        health = {
            "healthy": "",
            "unhealthy": f", {self.dead:.0%} of the units dead and {self.linear:.0%} linear",
            "dead": ", all units dead",
        }[self.health]
        activation = "" if self.activation == "relu" else f", {self.activation}"
        bias = ", bias" if self.bias else ""
        options = activation + bias + (", CUDA graph" if self.graphs else "") + health
        return f"{shape_name(self.shape)} {self.dtype} {self.layout}{options}"


def shape_name(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def select_cases(
    device_type: str,
    *,
    selection: str = "default",
    shapes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = (),
    layouts: Sequence[str] = (),
    graphs: bool = False,
    healths: Sequence[Health] = (),
    activation: str = "relu",
    bias: bool = False,
) -> list[Case]:
    """The cases of a run.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``, each with its own selections.
        selection: ``"default"``, ``"quick"``, ``"all"`` or ``"sweep"`` (sizes from small to large).
        shapes: replace the selection's; likewise ``dtypes`` and ``layouts``. Layouts that a shape does not
            have are skipped.
        graphs: also run cases of up to ``LAUNCH_BOUND`` elements as CUDA graphs.
        healths: of the units of each input; by default all are healthy.
        activation: see :class:`Case`; likewise ``bias``.
    """
    cuda = device_type == "cuda"
    standard = _CUDA_SHAPES if cuda else _CPU_SHAPES
    selected = {
        "default": standard,
        "quick": _QUICK_SHAPES[device_type],
        "all": standard + _FURTHER_SHAPES,
        "sweep": _SWEEP_SHAPES + (_CUDA_SWEEP_SHAPES if cuda else []),
    }
    narrow = ["bfloat16" if cuda else "float32"]
    dtypes = dtypes or {"all": list(DTYPES), "quick": narrow, "sweep": narrow}.get(
        selection, ["float32", "bfloat16"]
    )
    layouts = layouts or (["contiguous"] if selection in ("quick", "sweep") else LAYOUTS)
    combined = _combine(shapes or selected[selection], dtypes, layouts, graphs, healths or [Health()])
    return [case._replace(activation=activation, bias=bias) for case in combined]


def _combine(
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    graphs: bool,
    healths: Sequence[Health],
) -> Iterator[Case]:
    for dtype in dtypes:
        for shape in shapes:
            for layout in layouts:
                if layout == "channels_last" and not has_channels_last(shape):
                    continue
                for health in healths:
                    case = Case(shape, dtype, layout, False, *health)
                    yield case
                    if graphs and case.elements <= LAUNCH_BOUND:
                        yield case._replace(graphs=True)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Whether tensors of this shape can be channels_last."""
    return len(shape) in (4, 5)


def make_input(case: Case, device: torch.device) -> Tensor:
    """Fresh input: with the bias of the case, if any, it is what :func:`make_pre_activation` returns."""
    return subtract_bias(make_pre_activation(case, device), case)


def make_pre_activation(case: Case, device: torch.device) -> Tensor:
    """Fresh normal values, fractions of their units dead and linear as the case says."""
    x = _normal(case, case.shape, device)
    make_unhealthy(x, 1, Health(case.dead, case.linear))
    return x


def make_bias(case: Case, device: torch.device) -> Tensor:
    """The bias of every implementation of a case, ``[C]``: normal, and the same values each time."""
    values = torch.randn(case.shape[1], generator=torch.Generator().manual_seed(0))
    return values.to(device, DTYPES[case.dtype])


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """``x + bias`` as one writes it in PyTorch, with the units in dimension 1."""
    return x + (bias if x.dim() == 2 else along_units(bias, x.dim(), 1))


def subtract_bias(pre_activation: Tensor, case: Case) -> Tensor:
    """The input of a case that becomes this with its bias, up to rounding; in place.

    No value crosses 0 in between, because rounding is monotonic.
    """
    if not case.bias:
        return pre_activation
    bias = make_bias(case, pre_activation.device)
    return pre_activation.sub_(along_units(bias, pre_activation.dim(), 1))


def make_unhealthy(x: Tensor, dim: int, health: Health) -> None:
    """Make fractions of the units (``dim`` 1) or points (0) of ``x`` dead and linear, in place.

    At least one for any fraction above 0. The dead are the first and have no value above 0; the linear are
    the last and have none below.
    """
    dead, linear = (max(1, int(fraction * x.shape[dim])) if fraction else 0 for fraction in health)
    x.narrow(dim, 0, dead).abs_().neg_()
    x.narrow(dim, x.shape[dim] - linear, linear).abs_()


def make_gradient(case: Case, device: torch.device) -> Tensor:
    """A fresh normal gradient of the output, in its layout."""
    return _normal(case, case.output_shape, device)


def _normal(case: Case, shape: tuple[int, ...], device: torch.device) -> Tensor:
    x = torch.randn(shape, dtype=DTYPES[case.dtype], device=device)
    if case.layout == "channels_last":
        x = x.contiguous(memory_format=channels_last_format(x.dim()))
    return x
