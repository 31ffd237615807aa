"""What the plot tests draw, and how they read it back."""

import io

import torch
from matplotlib.colors import to_rgb
from torch import nn

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.plots import style
from jumpstart_kernels.pruning import LayerReport, Merge, PruneReport, Size

DEAD, LINEAR, NONLINEAR, WHITE = -1, 0, 1, 2


def status(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int8)


def extrema(unit_max, unit_min, point_max=(1.0,), point_min=(-1.0,)) -> LayerExtrema:
    return LayerExtrema(*(torch.tensor(values) for values in (unit_max, unit_min, point_max, point_min)))


def make_model(depth: int = 3, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(5, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers)


X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def pruned_report() -> PruneReport:
    """A layer with dead and merged units, two that make the same units, one that is gone, and the last."""
    merges = (Merge(3, 1, 1.0), Merge(4, 1, 0.99))
    layers = (
        LayerReport("first", ("first",), 9, 4, dead=(0, 2, 5), merges=merges),
        LayerReport("second", ("second", "shortcut"), 6, 6),
        LayerReport("third", ("third",), 6, 0, passed_on=6),
        LayerReport("last", ("last",), 3, 3, note="the model returns it"),
    )
    nan = float("nan")
    sizes = Size(100, 400, 0.001), Size(50, 200, 0.0005)
    return PruneReport(layers, 20, 20, 0, 0, 0.5, False, 0, 0, nan, *sizes, batch=20)


def save(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def cells_of(ax) -> torch.Tensor:
    """What each cell of a map shows: −1 dead, 0 linear, 1 nonlinear, 2 white; [layers, columns]."""
    image = torch.from_numpy(ax.images[0].get_array().data[..., :3])
    cells = torch.full(image.shape[:2], 7)
    colours = {value: colour for value, (_, colour) in style.STATUS.items()} | {WHITE: "#FFFFFF"}
    for value, colour in colours.items():
        cells[((image - torch.tensor(to_rgb(colour))).abs() < 1e-3).all(-1)] = value
    return cells


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def row_names(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]
