"""Load the stored results, ``results/{cpu,cuda}_{operator,sweep,steps,kernels}.json``, if they exist."""

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "results"
DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU"}
KINDS = ("operator", "sweep", "steps", "kernels")  # kernels: only on a GPU

Record = dict[str, Any]


class Results(NamedTuple):
    """Results of one device type. ``docs/benchmarks.md`` describes the fields."""

    operator: Record | None
    sweep: Record | None
    steps: Record | None
    kernels: Record | None

    def cases(self) -> list[Record]:
        """The cases of the operator; empty if it was not measured."""
        return [] if self.operator is None else self.operator["cases"]

    def networks(self) -> list[Record]:
        return [] if self.steps is None else self.steps["networks"]

    def machine(self) -> Record | None:
        """The machine on which they were measured."""
        return next((record["machine"] for record in self if record is not None), None)


def is_healthy(case: Record) -> bool:
    """Whether no unit of the input was made dead or linear: so in files from before there was a choice."""
    return case.get("health", "healthy") == "healthy"


def optimizer_of(network: Record) -> str:
    """The optimizer of a training step: SGD in files from before there was a choice."""
    return network.get("optimizer", "sgd")


def load(device_type: str, folder: Path = FOLDER) -> Results:
    """The results of ``"cpu"`` or ``"cuda"`` in ``folder``."""
    return Results(*(_read(folder / f"{device_type}_{kind}.json") for kind in KINDS))


def _read(path: Path) -> Record | None:
    return json.loads(path.read_text()) if path.is_file() else None
