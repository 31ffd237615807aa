"""A fragment as an ``nn.Module`` with plain ReLUs in all forms that models use."""

import torch
import torch.nn.functional as F
from activations import DEFINITIONS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fuzz import fragments
from fuzz.fragments import ARRANGEMENTS, Activation, Fragment, Layer
from jumpstart_kernels.nn import LAYERS


class CallsFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class CallsFunctionInplace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=True)


class CallsTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class CallsTorchInplace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x)


class CallsMethod(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class CallsMethodInplace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


class HasAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation = F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


FORMS = {
    "nn.ReLU": nn.ReLU,
    "F.relu": CallsFunction,
    "torch.relu": CallsTorch,
    "x.relu": CallsMethod,
    "attribute": HasAttribute,
}
INPLACE_FORMS = {
    "nn.ReLU(inplace)": lambda: nn.ReLU(inplace=True),
    "F.relu(inplace)": CallsFunctionInplace,
    "torch.relu_": CallsTorchInplace,
    "x.relu_": CallsMethodInplace,
}
# Layers with options of their own, which replace_relu leaves as they are.
OWN_FORM, OWN_INPLACE_FORM = "Jumpstart layer", "Jumpstart layer(inplace)"


class Rearranged(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return ARRANGEMENTS[self.how](x)

    def extra_repr(self) -> str:
        return self.how


class ResidualSum(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class ActivatedResidualSum(ResidualSum):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class Concatenation(nn.Module):
    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([body(x) for body in self.bodies], 1)


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


def build(fragment: Fragment, dtype: torch.dtype) -> nn.Module:
    """The fragment before ``replace_relu``, its parameters in the order of its layers."""
    slots: dict[int, nn.Module] = {}
    return _sequence(fragment.layers, slots).to(dtype).train()


def _sequence(layers: tuple[Layer, ...], slots: dict[int, nn.Module]) -> nn.Module:
    return nn.Sequential(*[_module(layer, slots) for layer in layers])


def _module(layer: Layer, slots: dict[int, nn.Module]) -> nn.Module:
    match layer:
        case fragments.Linear():
            return nn.Linear(layer.inputs, layer.outputs, layer.bias)
        case fragments.Convolution():
            kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
            sizes = (layer.kernel, layer.stride, layer.padding)
            return kinds[layer.dims](
                layer.inputs, layer.outputs, *sizes, groups=layer.groups, bias=layer.bias
            )
        case fragments.Norm(kind="layer"):
            return nn.LayerNorm(layer.features)
        case fragments.Norm():
            kinds = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
            return kinds[layer.dims](layer.features)
        case fragments.Pool(kind="adaptive"):
            return {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[layer.dims](
                layer.size
            )
        case fragments.Pool():
            kinds = {
                "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
                "average": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
            }
            return kinds[layer.kind][layer.dims](layer.size, layer.stride, layer.padding)
        case fragments.Flatten():
            return nn.Flatten()
        case fragments.Dropout():
            return nn.Dropout(layer.rate)
        case fragments.Rearrange():
            return Rearranged(layer.how)
        case fragments.Activation():
            if layer.slot not in slots:
                slots[layer.slot] = _activation(layer)
            return slots[layer.slot]
        case fragments.Residual():
            kind = ResidualSum if layer.options is None else ActivatedResidualSum
            return kind(_sequence(layer.body, slots))
        case fragments.Concat():
            return Concatenation([_sequence(body, slots) for body in layer.bodies])
        case fragments.Checkpoint():
            return Checkpointed(_sequence(layer.body, slots))


def _activation(layer: Activation) -> nn.Module:
    if layer.form in (OWN_FORM, OWN_INPLACE_FORM):
        options, kind = layer.options.keywords(), LAYERS[layer.options.activation]
        if kind.parameter_name is not None:
            options[kind.parameter_name] = DEFINITIONS[kind.activation].parameters[0]
        return kind(inplace=layer.form == OWN_INPLACE_FORM, **options)
    return (FORMS | INPLACE_FORMS)[layer.form]()
