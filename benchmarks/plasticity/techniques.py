"""The techniques that are compared, and what each is tried with."""

from dataclasses import dataclass, replace

from benchmarks.plasticity.continual_backprop import ContinualBackprop
from benchmarks.plasticity.upkeep import L2, L2Init, ReDo, ShrinkAndPerturb, Upkeep

LAMS = (0.1, 1.0, 10.0)
COMBINED = "jumpstart_best"
"""Jumpstart on top of the best of the others, which tuning decides."""


@dataclass(frozen=True)
class Technique:
    """How networks are built and trained."""

    title: str
    upkeep: type[Upkeep] = Upkeep
    strengths: tuple[float, ...] = (0.0,)
    """That are tried."""
    strength: str = ""
    """What the strength is."""
    linked: bool = False
    normalized: bool = False
    penalized: bool = False
    """Whether the Jumpstart penalty joins the loss."""
    lams: tuple[float, ...] = (0.0,)
    """Weights of the penalty that are tried."""


TECHNIQUES = {
    "backprop": Technique("backpropagation"),
    "l2": Technique("L2", L2, (1e-4, 1e-3, 1e-2), "weight of the penalty"),
    "l2_init": Technique("L2 Init", L2Init, (1e-3, 1e-2, 1e-1), "weight of the penalty"),
    "shrink_and_perturb": Technique(
        "Shrink and Perturb", ShrinkAndPerturb, (1e-4, 1e-3, 1e-2), "fraction of every 10 steps"
    ),
    "redo": Technique("ReDo", ReDo, (0.025, 0.1), "threshold of dormancy"),
    "continual_backprop": Technique(
        "continual backpropagation", ContinualBackprop, (1e-4, 1e-3), "replacement rate"
    ),
    "linked": Technique("linked ReLU", linked=True),
    "layer_norm": Technique("LayerNorm", normalized=True),
    "jumpstart": Technique("Jumpstart", penalized=True, lams=LAMS),
    "jumpstart_l2_init": Technique(
        "Jumpstart + L2 Init",
        L2Init,
        (1e-3, 1e-2, 1e-1),
        "weight of the penalty",
        penalized=True,
        lams=LAMS[1:],
    ),
}


def combined(name: str, strength: float) -> Technique:
    """Jumpstart on top of another technique, with the strength that suits that one."""
    base = TECHNIQUES[name]
    title = f"Jumpstart + {base.title}"
    return replace(base, title=title, strengths=(strength,), penalized=True, lams=LAMS)
