"""Trains the demo's network plain and with Jumpstart, and keeps what the instruments show of it."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.result_files import Record
from jumpstart_kernels.demo.data import Data, accuracy, load_data
from jumpstart_kernels.demo.training import LEARNING_RATE, WEIGHT_DECAY, build_network, train_step
from jumpstart_kernels.pruning import PruneReport, permutation_prune

EPOCHS = 400
LAM = 0.2
EPOCHS_PER_COSINE = 5
TOLERANCE = 0.1
WATCH: dict[str, Any] = {"every": 2, "samples": 0, "warn_dead": None, "warn_linear": None}
WINDOWS = 40  # of observed forwards, over the training
WATCHED = ("forward", "unit_dead_ratio", "unit_dormant_ratio")
PLAIN, JUMPSTART = "plain", "Jumpstart"


def measure(epochs: int | None = None) -> Record:
    """The record of both networks, in numbers and lists."""
    epochs = EPOCHS if epochs is None else epochs
    data = load_data("wine", seed=0)
    torch.manual_seed(0)
    plain = build_network(data.features, data.classes)
    jumpstart = jk.replace_relu(copy.deepcopy(plain))
    return {
        "epochs": epochs,
        "networks": {
            PLAIN: measure_network(plain, data, epochs, lam=0.0),
            JUMPSTART: measure_network(jumpstart, data, epochs, lam=LAM),
        },
    }


def measure_network(model: nn.Module, data: Data, epochs: int, lam: float) -> Record:
    """Train a network, and keep what each plot needs."""
    watch = jk.watch(model, window=max(1, epochs // WATCH["every"] // WINDOWS), **WATCH)
    records = train(model, data, epochs, lam)
    watch.remove()
    usage = jk.unit_usage(model, [data.x_train])
    extrema = jk.layer_extrema(model, data.x_train)
    points = dict(zip(usage.point_layers, usage.point_status.T, strict=True))
    return {
        "unit_status": _lists(usage.unit_status),
        "point_status": _lists(points),
        "unit_max": _lists({name: layer.unit_max for name, layer in extrema.items()}),
        "unit_min": _lists({name: layer.unit_min for name, layer in extrema.items()}),
        "penalty": {name: list(terms) for name, terms in jk.penalty_by_layer(extrema).items()},
        "records": records,
        "watch": [{name: window[name] for name in WATCHED} for window in watch.history],
        "pruned": asdict(prune(model, data)),
    }


def _lists(layers: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in layers.items()}


def train(model: nn.Module, data: Data, epochs: int, lam: float) -> list[dict[str, Any]]:
    """Full-batch training; returns a record per epoch, some with the cosines, after one of the start."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    records: list[dict[str, Any]] = [{"epoch": 0, "cosines": jk.sample_cosines(model, data.x_train)}]
    for epoch in range(epochs):
        train_step(model, optimizer, data.x_train, data.y_train, lam)
        model.eval()
        with torch.no_grad():
            hits = accuracy(model(data.x_test).argmax(1), data.y_test)
        model.train()
        records.append({"epoch": epoch + 1, "test accuracy": hits})
        if (epoch + 1) % EPOCHS_PER_COSINE == 0:
            records[-1]["cosines"] = jk.sample_cosines(model, data.x_train)
    return records


def prune(model: nn.Module, data: Data) -> PruneReport:
    """What of a network is redundant for its training data; printed as well."""
    result = permutation_prune(model, [data.x_train], tolerance=TOLERANCE, unseen=[data.x_test])
    print(result.report)
    return result.report
