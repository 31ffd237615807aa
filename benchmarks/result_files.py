"""Load the stored results, ``results/{cpu,cuda}_{KINDS}.json``, if they exist."""

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "results"
DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU"}
KINDS = ("operator", "sweep", "steps", "kernels", "bias", "linked")  # kernels: only on a GPU

Record = dict[str, Any]


class Results(NamedTuple):
    """Results of one device type. ``docs/benchmarks.md`` describes the fields."""

    operator: Record | None
    sweep: Record | None
    steps: Record | None
    kernels: Record | None
    bias: Record | None
    linked: Record | None

    def cases(self, *, bias: bool = False) -> list[Record]:
        """The cases of the operator, without or with a bias; empty if it was not measured."""
        files = [record for record in (self.operator, self.bias) if record is not None]
        return [case for record in files for case in record["cases"] if has_bias(case) == bias]

    def networks(self) -> list[Record]:
        return [] if self.steps is None else self.steps["networks"]

    def machine(self) -> Record | None:
        """The machine on which they were measured."""
        return next((record["machine"] for record in self if record is not None), None)


def is_healthy(case: Record) -> bool:
    """Whether no unit of the input was made dead or linear: so in files from before there was a choice."""
    return case.get("health", "healthy") == "healthy"


def has_bias(case: Record) -> bool:
    """Whether a bias is added to the input: in no file from before there was a choice."""
    return case.get("bias", False)


def optimizer_of(network: Record) -> str:
    """The optimizer of a training step: SGD in files from before there was a choice."""
    return network.get("optimizer", "sgd")


def load(device_type: str, folder: Path = FOLDER) -> Results:
    """The results of ``"cpu"`` or ``"cuda"`` in ``folder``."""
    return Results(*(_read(folder / f"{device_type}_{kind}.json") for kind in KINDS))


def _read(path: Path) -> Record | None:
    return json.loads(path.read_text()) if path.is_file() else None
