"""What is compared on CIFAR-10: ways to train a network as deep as ResNet-50, with skips and without.

A new technique is a line in ``TECHNIQUES``.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

OPTIMIZERS: dict[str, tuple[float, ...]] = {
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "muon": (5e-4, 1.5e-3, 5e-3, 1.5e-2, 5e-2),
}
"""The learning rates that are tried with each."""
LAMS = (0.01, 0.1, 1.0)
"""The penalty weights that are tried with each."""


@dataclass(frozen=True)
class Penalty:
    """What a technique penalizes."""

    units: str = "pixels"
    """Of what a unit's extrema are: all values; ``"sample_means"``, the mean of each sample; or
    ``"quantiles"``, of all values, but so that a share ``quantile`` of them has to reach the margin."""
    points: str = "sample"
    margin: float = 1.0
    quantile: float = 0.1
    warm_up: float = 0.0
    """In a share of the steps λ rises linearly."""


@dataclass(frozen=True)
class Technique:
    """One way to train a network."""

    title: str
    group: str
    """``"peer"``, ``"penalty"``, ``"initialization"`` or ``"together"``: where the tables show it."""
    optimizer: str = "adamw"
    initialization: str = "he_fan_out"
    activation: str = "relu"
    batch_norm: bool = False
    skips: bool = False
    fixup: bool = False
    bias: bool = True
    """Of convolutions without BatchNorm."""
    penalty: Penalty | None = None
    further_rates: tuple[float, ...] = ()
    """Learning rates beyond the optimizer's, where its highest was the best."""

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Those to try."""
        return OPTIMIZERS[self.optimizer] + self.further_rates

    @property
    def lams(self) -> tuple[float, ...]:
        """The penalty weights to try."""
        return (0.0,) if self.penalty is None else LAMS

    def described(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


PLAIN = Technique("plain", "peer")
JUMPSTART = Technique("Jumpstart", "penalty", penalty=Penalty())
BATCH_NORM_SKIPS = Technique("BatchNorm and skips", "peer", batch_norm=True, skips=True)
BATCH_NORM = Technique("BatchNorm", "peer", batch_norm=True)
TAT = Technique("TAT", "peer", activation="leaky_relu", initialization="delta_orthogonal")
SELU = Technique("SELU, LSUV", "peer", activation="selu", initialization="lsuv")
LINKED = Technique("linked ReLU", "peer", activation="linked_relu", initialization="he_fan_in")
FIXUP = Technique("Fixup, with skips", "peer", skips=True, fixup=True, initialization="fixup")
LOOKS_LINEAR = Technique("looks-linear", "initialization", initialization="looks_linear")


def with_penalty(technique: Technique, **options: Any) -> Technique:
    """The same with Jumpstart on top."""
    return replace(technique, title=f"{technique.title} + Jumpstart", penalty=Penalty(**options))


def _jumpstart(
    title: str, group: str = "penalty", penalty: Penalty | None = None, **changes: Any
) -> Technique:
    title = f"{JUMPSTART.title}, {title}"
    return replace(JUMPSTART, title=title, group=group, penalty=penalty or Penalty(), **changes)


_TRAINED_BY_ALL: dict[str, Technique] = {
    "batch_norm_skips": BATCH_NORM_SKIPS,
    "plain": PLAIN,
    "jumpstart": JUMPSTART,
    "looks_linear": LOOKS_LINEAR,
}
_TRAINED_BY_TWO: dict[str, Technique] = {
    "looks_linear_jumpstart": replace(with_penalty(LOOKS_LINEAR), group="together"),
    "tat": TAT,
    "tat_jumpstart": with_penalty(TAT),
}
_TRAINED_BY_ADAMW: dict[str, Technique] = {
    "sample_means": _jumpstart("units over samples' means", penalty=Penalty(units="sample_means")),
    "quantiles": _jumpstart("units over quantiles", penalty=Penalty(units="quantiles")),
    "positions": _jumpstart("points are positions", penalty=Penalty(points="position")),
    "margin_0.3": _jumpstart("margin 0.3", penalty=Penalty(margin=0.3)),
    "lam_warm_up": _jumpstart("λ rises over a third", penalty=Penalty(warm_up=1 / 3)),
    "delta_orthogonal": _jumpstart("delta-orthogonal", "initialization", initialization="delta_orthogonal"),
    "he_fan_in": _jumpstart("He, fan in", "initialization", initialization="he_fan_in"),
    "lsuv": _jumpstart("LSUV", "initialization", initialization="lsuv"),
    "no_bias": _jumpstart("no bias, as published", "initialization", bias=False),
}
_TRAINED_BY_MUON: dict[str, Technique] = {
    "batch_norm": BATCH_NORM,
    "batch_norm_jumpstart": with_penalty(BATCH_NORM),
    "selu": SELU,
    "selu_jumpstart": with_penalty(SELU),
    "linked": LINKED,
    "linked_jumpstart": with_penalty(LINKED),
    "fixup": FIXUP,
}


def _by(optimizers: tuple[str, ...], techniques: dict[str, Technique]) -> dict[str, Technique]:
    return {
        f"{name}_{optimizer}": replace(technique, optimizer=optimizer)
        for name, technique in techniques.items()
        for optimizer in optimizers
    }


TECHNIQUES: dict[str, Technique] = {
    **_by(("adamw", "muon", "sgd"), _TRAINED_BY_ALL),
    **_by(("adamw", "muon"), _TRAINED_BY_TWO),
    **_by(("adamw",), _TRAINED_BY_ADAMW),
    **_by(("muon",), _TRAINED_BY_MUON),
}
"""By name, those first that matter most."""
TECHNIQUES["batch_norm_skips_muon"] = replace(TECHNIQUES["batch_norm_skips_muon"], further_rates=(0.15, 0.5))
