"""Models for link_relu: the motifs of networks in use, each small."""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from jumpstart_kernels import link_relu
from jumpstart_kernels.nn import LinkedPReLU, LinkedReLU, LinkedSELU, LinkedSiLU

LINKED = (LinkedReLU, LinkedPReLU, LinkedSELU, LinkedSiLU)


def mlp():
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.0), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)
    )


def conv_net():
    """Normed and flattened, as VGG is."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def depthwise():
    """Inverted bottlenecks: depthwise convolutions, also with several outputs for each channel."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 3, 1),
    )


def grouped():
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(), nn.Conv2d(9, 3, 1)
    )


def norms():
    """Norms of single units, or of groups of them, behind linked activations."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Conv2d(4, 3, 1),
    )


def transposed():
    return nn.Sequential(
        nn.ConvTranspose1d(2, 4, 3), nn.ReLU(), nn.Upsample(scale_factor=2), nn.ConvTranspose1d(4, 3, 2)
    )


class Volumes(nn.Module):
    """Padded, pooled and averaged."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(2, 4, 2)
        self.conv2 = nn.Conv3d(4, 5, 2)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = F.avg_pool3d(F.pad(F.relu(self.conv1(x)), (1, 1)), 2)
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3, 4)))


class Functional(nn.Module):
    """The classic, and its view."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc1 = nn.Linear(16, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.dropout(x.view(x.size(0), -1), 0.0, training=self.training)
        return self.fc2(self.fc1(x).relu_() * 2)


class Block(nn.Module):
    """A residual block with one ReLU module for two calls."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(4, 4), Block(4, 6, 2), Block(6, 6))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1), 1))


class PreActivated(nn.Module):
    """Norm and ReLU come first; the shortcut is not activated."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x), inplace=True)))))


class DenseLayer(nn.Module):
    """Gets a list of tensors, or one."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, features):
        features = [features] if isinstance(features, torch.Tensor) else features
        return self.conv(self.relu(self.norm(torch.cat(features, 1))))


class Dense(nn.Module):
    """What is linked is concatenated with what is not, normed and linked again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.layers = nn.ModuleList([DenseLayer(4, 3), DenseLayer(7, 3)])
        self.norm = nn.BatchNorm2d(10)
        self.fc = nn.Linear(40, 3)

    def forward(self, x):
        features = [F.relu(self.stem(x))]
        for layer in self.layers:
            features.append(layer(features))
        x = F.relu(self.norm(torch.cat(features, 1)), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Branches(nn.Module):
    """Inception: linked branches concatenated, and a second output in training."""

    def __init__(self):
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU())
        self.branch2 = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.grouped = nn.Conv2d(10, 6, 1, groups=2)
        self.side = nn.Linear(10, 3)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.cat([self.branch1(x), self.branch2(x)], dim=1)
        side = self.side(x.mean([2, 3])) if self.training else None
        return self.fc(F.relu(self.grouped(x)).mean([2, 3])), side


class Excited(nn.Module):
    """Squeeze and excitation: the product gets g(z) alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.fc1, self.fc2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = F.relu(self.conv(x))
        scale = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.out(F.relu(x * scale))


class Joined(nn.Module):
    """Two linked tensors are added as they are; a third is joined from the side."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 5)
        self.out = nn.Linear(5, 6)
        self.last = nn.Linear(10, 3)

    def forward(self, x):
        x, z = self.left(x).relu() + self.right(x).relu(), x
        return self.last(torch.cat([z, F.relu(self.out(x))], -1))


class Shuffled(nn.Module):
    """The channels of two branches are shuffled by views."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = torch.cat((F.relu(self.middle(F.relu(self.conv1(x)))), F.relu(self.conv2(x))), 1)
        n, c, h, w = x.size()
        return self.out(x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w))


# A model, the shape of an input, how many ReLUs are linked, and how many are left.
MODELS = {
    "mlp": (mlp, (5, 4), 2, 0),
    "conv_net": (conv_net, (3, 2, 8, 8), 3, 0),
    "depthwise": (depthwise, (3, 2, 6, 6), 3, 0),
    "grouped": (grouped, (3, 2, 6, 6), 2, 0),
    "norms": (norms, (3, 2, 6, 6), 3, 0),
    "transposed": (transposed, (3, 2, 5), 1, 0),
    "volumes": (Volumes, (3, 2, 6, 6, 6), 2, 0),
    "functional": (Functional, (3, 2, 6, 6), 2, 0),
    "residual": (Residual, (3, 2, 8, 8), 4, 0),
    "pre_activated": (PreActivated, (3, 2, 6, 6), 2, 0),
    "dense": (Dense, (3, 2, 6, 6), 4, 0),
    "branches": (Branches, (3, 2, 6, 6), 3, 0),
    "excited": (Excited, (3, 2, 6, 6), 3, 0),
    "joined": (Joined, (5, 4), 2, 1),
    "shuffled": (Shuffled, (3, 2, 6, 6), 1, 2),
}


def build(model_class, shape):
    """A model in float64 with statistics of its own, and an input."""
    torch.manual_seed(0)
    model = model_class().double()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) / 2)
    return model, torch.randn(shape, dtype=torch.float64)


def quietly_link(model, **options):
    """link_relu with its report of what is left unheard."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="link_relu has left")
        return link_relu(model, **options)


def outputs(model, x):
    """What it returns in training, then in evaluation, as one list."""
    found = []
    for training in (True, False):
        result = copy.deepcopy(model).train(training)(x)
        found += [each for each in (result if isinstance(result, tuple) else (result,)) if each is not None]
    return found


def count_linked(model):
    return sum(isinstance(module, LINKED) for module in model.modules())
