"""The ways to a sparse network that the experiment compares, and what each costs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from torch import Tensor, nn

from benchmarks.paper.stack_training import Run
from benchmarks.paper.sweep import Record
from jumpstart_kernels.pruning import Ticket

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.993)
ROUNDS = (0.3, 0.5, 0.65, 0.8, 0.86, 0.9, 0.93, 0.95, 0.968, 0.98, 0.988, 0.993)
"""Of the iterative pruning: each takes 29 to 43 % of the weights that are left."""
HEAD = "classifier"
"""Stays dense: its weights begin smaller than the others, and would be the first to go, all of them."""
OTHER_SEED = 1000  # added to a seed for the new weights of its networks
ARMS = {
    "iterative": "iterative, rewound",
    "rewound": "one shot, rewound",
    "kept": "one shot, weights kept",
    "reinitialized": "one shot, new weights",
    "rescaled": "one shot, new weights, rescaled",
    "random": "random",
}
"""Titles by name. Kept: the trained weights are trained on. Random: ERK ratios, before any training."""
CHOICE = "choice of λ"
"""Instead of an arm, for the networks by which λ is chosen."""
TRIED = (("rescaled",), (0.9, 0.98))
"""Arms and sparsities of these, beside the dense networks."""
NO_REWINDING = ("kept", "reinitialized", "rescaled")
"""One shot, without the initial weights."""


Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Member:
    """A network to train, and how it came about."""

    run: Run
    network: nn.Module
    ticket: Ticket | None = None
    """With its masks; None for a dense network."""
    arm: str = "dense"
    sparsity: float = 0.0
    trainings: int = 1
    """How many lead to it, this one included."""


Train = Callable[[Sequence[Member]], list[Record]]


def compare(
    runs: Sequence[Run],
    build: Callable[[Run, bool], nn.Module],
    train: Train,
    arms: Sequence[str] = tuple(ARMS),
    sparsities: Sequence[float] = SPARSITIES,
) -> list[Record]:
    """Train dense networks, and from each the sparse ones of every arm and sparsity.

    Args:
        runs: the dense networks.
        build: makes the network of a run, with initial weights of its seed, or, if True, with others of it.
        train: trains networks in place and returns what each has come to.
        arms: keys of :data:`ARMS`.
        sparsities: of the hidden layers' weights; values of :data:`ROUNDS`.

    Returns:
        What ``train`` returned, with the run, the arm, the sparsity and the number of trainings up to it.
    """
    dense = [Member(run, build(run, False)) for run in runs]
    starts: list[Weights] = [copy.deepcopy(member.network.state_dict()) for member in dense]
    fresh: list[Weights] = [build(run, True).state_dict() for run in runs]
    records = _train(dense, train)
    members = []
    for arm in arms:
        for sparsity in sparsities if arm != "iterative" else ():
            for each in zip(dense, starts, fresh, strict=True):
                ticket, trainings = make_ticket(arm, *each, sparsity), trainings_of(arm, sparsity)
                members.append(Member(each[0].run, ticket.model, ticket, arm, sparsity, trainings))
    records += _train(members, train)
    if "iterative" in arms:
        records += _iterate(dense, starts, train, sparsities)
    return records


def choose_lam(
    runs: Sequence[Run], build: Callable[[Run, bool], nn.Module], train: Train
) -> tuple[float, list[Record]]:
    """The λ with the highest mean accuracy on the validation rows, of dense networks and of :data:`TRIED`.

    Args:
        runs: for every seed and λ.
        build: as for :func:`compare`.
        train: likewise.

    Returns:
        The λ, and the records of the choice; nothing is trained if there is but one λ.
    """
    lams = list(dict.fromkeys(run.lam for run in runs))
    if len(lams) == 1:
        return lams[0], []
    records = compare(runs, build, train, *TRIED)
    means = {
        lam: fmean(each["validation_accuracy"] for each in records if each["lam"] == lam) for lam in lams
    }
    return max(means, key=means.__getitem__), [record | {"arm": CHOICE} for record in records]


def make_ticket(arm: str, dense: Member, start: Weights, fresh: Weights, sparsity: float) -> Ticket:
    """A pruned copy of a dense network, with the weights from which it is trained on.

    Args:
        arm: of :data:`ARMS`, any but the iterative one.
        dense: trained.
        start: the ``state_dict`` with which it began.
        fresh: another with which it could have begun.
        sparsity: of the hidden layers' weights.
    """
    network = copy.deepcopy(dense.network)
    if arm == "random":
        network.load_state_dict(start)
        return Ticket(network, sparsity, method="random", ratios="erk", skip=[HEAD], seed=dense.run.seed)
    ticket = Ticket(network, sparsity, skip=[HEAD])
    if arm == "rewound":
        ticket.rewind(start)
    elif arm != "kept":
        ticket.reinitialize(lambda model: model.load_state_dict(fresh), rescale=arm == "rescaled")
    return ticket


def _iterate(
    dense: Sequence[Member], starts: Sequence[Weights], train: Train, sparsities: Sequence[float]
) -> list[Record]:
    """Prune, rewind and train, round by round up to the highest of the sparsities."""
    records = []
    tickets = [Ticket(copy.deepcopy(member.network), 0, skip=[HEAD]) for member in dense]
    for sparsity in (round_ for round_ in ROUNDS if round_ <= max(sparsities)):
        for ticket, start in zip(tickets, starts, strict=True):
            ticket.prune(sparsity)
            ticket.rewind(start)
        trainings = trainings_of("iterative", sparsity)
        members = [
            Member(one.run, ticket.model, ticket, "iterative", sparsity, trainings)
            for one, ticket in zip(dense, tickets, strict=True)
        ]
        found = _train(members, train)
        records += found if sparsity in sparsities else []
    return records


def _train(members: Sequence[Member], train: Train) -> list[Record]:
    return [
        {
            "arm": member.arm,
            "sparsity": member.sparsity,
            "trainings": member.trainings,
            **asdict(member.run),
            **found,
        }
        for member, found in zip(members, train(members), strict=True)
    ]


def trainings_of(arm: str, sparsity: float) -> int:
    """How many trainings lead to an arm's result, the dense one and the last included."""
    if arm == "iterative":
        return 2 + ROUNDS.index(sparsity)
    return 1 if arm == "random" else 2
