"""Models to recycle units of, and data for them."""

import torch
import torch.nn.functional as F
from torch import nn

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


IMAGES = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def alive(model):
    """With weights by which no unit is dormant, before some are made so."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            nn.init.normal_(module.weight, 0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.uniform_(module.bias, 0.5, 1)
    return model.double()


def mlp(activation=nn.ReLU):
    torch.manual_seed(0)
    return alive(nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)))


class Cat(nn.Module):
    """Two layers whose units are concatenated, one of them twice, for two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 5)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.c, self.d = nn.Linear(11, 3), nn.Linear(5, 3)

    def forward(self, x):
        a, b = self.relu_a(self.a(x)), self.relu_b(self.b(x))
        return self.c(torch.cat([a, b, a], 1)) + self.d(b)


class Shared(nn.Module):
    """One activation, called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(self.b(self.relu(self.a(x)))))


class Dense(nn.Module):
    """Units that two norms and activations see, alone and among others."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(6), nn.BatchNorm2d(10)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(10, 3)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(self.relu_a(self.norm_a(x)))], 1)
        return self.fc(self.relu_b(self.norm_b(x)).mean((2, 3)))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(20, 4),
        nn.ReLU(),
        nn.Linear(4, 3),
    )


def transposed():
    return nn.Sequential(
        *(
            nn.ConvTranspose2d(2, 6, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, 2),
            nn.ReLU(),
            nn.Conv2d(4, 3, 1),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def other_norms():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        *(nn.GroupNorm(4, 4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(2, 4, 3), nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))
