"""Small real data sets that come with scikit-learn, ready to train on."""

import importlib
from typing import NamedTuple

import torch
from torch import Tensor

TITLES = {"wine": "Wine", "breast_cancer": "Breast Cancer", "digits": "Digits"}


class Data(NamedTuple):
    """A classification data set, split and standardized. Inputs are float32, labels int64."""

    title: str
    x_train: Tensor  # [N, features]
    y_train: Tensor  # [N]
    x_test: Tensor
    y_test: Tensor

    @property
    def features(self) -> int:
        return self.x_train.shape[1]

    @property
    def classes(self) -> int:
        return int(self.y_train.max()) + 1

    @property
    def chance(self) -> float:
        """Test accuracy of always predicting the most frequent class of the training split."""
        return accuracy(self.y_train.bincount().argmax(), self.y_test)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of correct predictions of ``[N]`` labels."""
    return torch.eq(predicted, labels).float().mean().item()


def check_name(name: str) -> None:
    """Raise for an unknown data set."""
    if name not in TITLES:
        raise ValueError(f"datasets must be one of {', '.join(map(repr, TITLES))}, got {name!r}")


def load_data(name: str, seed: int) -> Data:
    """A data set with a stratified third as test split, standardized on its training split.

    Args:
        name: ``"wine"``, ``"breast_cancer"`` or ``"digits"``.
        seed: for the split.

    Raises:
        ValueError: unknown name.
        ImportError: scikit-learn is not installed.
    """
    check_name(name)
    datasets = importlib.import_module("sklearn.datasets")
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = (torch.from_numpy(scaler.transform(part)).float() for part in (x_train, x_test))
    return Data(TITLES[name], x_train, torch.from_numpy(y_train), x_test, torch.from_numpy(y_test))
