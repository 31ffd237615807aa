"""Models for replace_relu, and helpers of its tests."""

import random
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jumpstart_kernels.surgery import replace_relu


class FunctionalCNN(nn.Module):
    """The classic: every ReLU a call, dropout by ``self.training``."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.dropout = dropout
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc1 = nn.Linear(64, 16)
        self.fc2 = nn.Linear(16, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x, mask=None, *, shift=False):
        x = F.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        n, c, h, w = x.shape
        x = F.dropout(x.view(n, c * h * w), self.dropout, training=self.training)
        x = F.relu(self.fc1(x) * self.scale, inplace=True)
        x = (x - 0.1).relu_()
        if mask is not None:
            x = x * mask.relu()
        if shift:
            x = x + 1
        return self.fc2(x)


class ModularCNN(FunctionalCNN):
    """The same with modules."""

    def __init__(self):
        super().__init__()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.relus[0](self.conv1(x))
        x = self.relus[1](self.conv2(x)).flatten(1)
        x = F.dropout(x, self.dropout, training=self.training)
        x = self.relus[2](self.fc1(x) * self.scale)
        return self.fc2(self.relus[3](x - 0.1))


class Sizes(nn.Sequential):
    """A Sequential with a custom forward."""

    def forward(self, x):
        for layer in self:
            x = F.relu(layer(x))
        return x


class Tracked(nn.Sequential):
    """A Sequential with extra attributes."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.note = "kept"


class Activation(nn.Module):
    """Functions as attributes, in place and not, between other attributes."""

    def __init__(self):
        super().__init__()
        self.first = 1
        self.act = F.relu
        self.second = 2
        self.fc = nn.Linear(4, 4)
        self.act_ = torch.relu_
        self.third = 3

    def forward(self, x):
        return self.act_(self.act(self.fc(x)) - 0.1)


class SharpReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * 2


class OneLayer(nn.Module):
    """A linear layer and one call."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)


class DataDependent(OneLayer):
    def forward(self, x):
        x = self.fc(x)
        return F.relu(x) if x.sum() > 0 else x


class Helper(OneLayer):
    """The call is two methods deep, next to a method named relu that is not PyTorch's."""

    def forward(self, x):
        return self.outer(x)

    def outer(self, x):
        return (lambda y: torch.relu(y) if y.sum() > 0 else y)(self.fc(x))


class AsksType(OneLayer):
    def forward(self, x):
        x = F.relu(self.fc(x))
        return x if isinstance(x, Tensor) else -x


class AsksGrad(OneLayer):
    def forward(self, x):
        return F.relu(self.fc(x)) if torch.is_grad_enabled() else self.fc(x)


class Counts(OneLayer):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.relu(self.fc(x))


class Appends(OneLayer):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return F.relu(self.fc(x))


class DropsLayer(OneLayer):
    def forward(self, x):
        return F.relu(self.fc(x)) if random.random() < 2 else x


class Noisy(OneLayer):
    def forward(self, x):
        return F.relu(self.fc(x) + torch.randn(4))


class Positions(OneLayer):
    def forward(self, x):
        return F.relu(self.fc(x) + torch.arange(4))


class Frozen(OneLayer):
    def forward(self, x):
        with torch.no_grad():
            x = self.fc(x)
        return F.relu(x)


class Precise(OneLayer):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return F.relu(self.fc(x))


class Checkpointed(OneLayer):
    def forward(self, x):
        return checkpoint(lambda y: F.relu(self.fc(y)), x, use_reentrant=False)


class Hooked(OneLayer):
    """Its forward is an instance attribute, as some libraries wrap it."""

    def __init__(self):
        super().__init__()
        inner = self.forward
        self.forward = lambda x: inner(x)

    def forward(self, x):
        return F.relu(self.fc(x))


UNTRACEABLE = {
    DataDependent: "torch.fx cannot trace its forward (TraceError",
    Helper: "torch.fx cannot trace its forward (TraceError",
    AsksType: "isinstance()",
    AsksGrad: "is_grad_enabled()",
    Counts: "changes attributes: calls",
    Appends: "changes attributes: seen",
    DropsLayer: "random numbers",
    Noisy: "random numbers",
    Positions: "creates a tensor",
    Frozen: "uses no_grad",
    Precise: "uses no_grad",
    Checkpointed: "uses no_grad",
    Hooked: "instance attribute",
}


def quietly_replace(model, **options):
    """replace_relu with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return replace_relu(model, **options)


def fingerprint(model):
    """Everything that a round trip must restore: objects by identity, in order."""
    return [
        (name, type(module), [(key, id(value)) for key, value in vars(module).items()], list(module._modules))
        for name, module in model.named_modules(remove_duplicate=False)
    ], repr(model)


def build(model_class, *args):
    torch.manual_seed(0)
    return model_class(*args)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True))


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def nested():
    return nn.Sequential(
        Activation(), Tracked(nn.Linear(4, 4), nn.ReLU()), Sizes(nn.Linear(4, 4), nn.Linear(4, 4))
    )


MODELS = {
    "mlp": (mlp, (6, 4), {}),
    "functional": (FunctionalCNN, (6, 1, 8, 8), {}),
    "transformer": (transformer, (6, 5, 8), {"unit_dim": -1}),
    "nested": (nested, (6, 4), {}),
    "relu": (nn.ReLU, (6, 4), {}),
}


def run(model, x, *args, **kwargs):
    torch.manual_seed(2)
    return model(x.clone(), *args, **kwargs)
