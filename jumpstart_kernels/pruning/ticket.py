"""A sparse network that is pruned once and trained on, without iterations and without rewinding."""

import copy
import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.pruning.initial_weights import check_resettable, fitting_weights, initialize_model
from jumpstart_kernels.pruning.masked_weights import MaskedWeight, find_weights, unmasked
from jumpstart_kernels.pruning.ratios import RATIOS, count_kept
from jumpstart_kernels.pruning.scores import METHODS, choose
from jumpstart_kernels.surgery.sites import Skip, find_skipped


class LayerWeights(NamedTuple):
    """How many weights a layer has, without its bias, and how many of them its mask keeps."""

    weights: int
    kept: int

    @property
    def sparsity(self) -> float:
        """The share that is masked."""
        return 1 - self.kept / self.weights


class Ticket:
    """Masks on the weights of a model, by ``torch.nn.utils.prune``, in place.

    For training dense, pruning once, and training on, without iterations and without rewinding. How far
    that carries, with and without Jumpstart, is measured in docs/paper.md, "Sparse networks".

    >>> ticket = jk.pruning.Ticket(model, 0.9)
    >>> ticket.reinitialize(seed=0)  # or keep the weights: leave this line out
    >>> train(ticket.model)  # with jk.penalty, as before; optimizers that have the parameters stay valid
    >>> model = ticket.remove()

    Linear and convolution layers are masked, transposed ones too; biases, norms, embeddings and the layers
    inside ``nn.MultiheadAttention`` stay dense. A weight that several of these layers share has one mask.
    Masks that ``torch.nn.utils.prune`` has put there before are kept, and the sparsity counts them.

    **A mask gives neither speed nor size**: the weights stay dense tensors, multiplied as before, and while
    it is there it takes memory itself. :meth:`by_permutation` makes the model smaller.

    A model with masks has ``weight_orig`` and ``weight_mask`` in its ``state_dict``. To load one, make a
    ticket of sparsity 0 first. ``copy.deepcopy`` of the ticket copies the model too, even after a forward.

    Args:
        model: any module, or the wrapper of one. Its parameters stay the same objects.
        sparsity: the share of weights without which the layers remain, of all their weights together, in
            ``[0, 1)``. It is met exactly, rounded to a weight. Every layer keeps at least one.
        method: which weights are kept: ``"magnitude"``, the largest, of equals the first; ``"random"``.
        ratios: how the weights are shared out: ``"global"``, by the method, over all layers together, so that
            a layer with smaller weights than the others may starve, which the logger tells;
            ``"layer"``, the same share of each layer; ``"erk"``, by the Erdős-Rényi-Kernel rule of Evci et
            al. (arXiv 1911.11134), which leaves small layers denser.
        skip: layers that stay dense, with everything below them: qualified names of modules, module types,
            modules.
        seed: of ``"random"``.

    Raises:
        TypeError: ``model``, ``sparsity``, ``seed`` or an entry of ``skip`` is of a wrong type.
        ValueError: ``method`` or ``ratios`` is unknown; ``sparsity`` is out of range, leaves fewer weights
            than layers, or more than masks from before have left; an entry of ``skip`` matches nothing; the
            model has no such layer, or one whose weight is lazy, computed by a parametrization, sharded,
            shared with a module of another kind, or NaN if its magnitude counts. The model is as before.

    Source: Frankle, Carbin, *The Lottery Ticket Hypothesis*, arXiv 1803.03635, whose iterations and rewinding
    are left out. Riera Molina, *Training More Efficient Neural Networks*, hdl 2445/227399.
    """

    model: nn.Module
    """The model with the masks."""
    result: Any
    """What :func:`jumpstart_kernels.pruning.permutation_prune` returned, for :meth:`by_permutation`."""
    _parameters: tuple[int, int]  # of the dense and of the small model, by permutation

    def __init__(
        self,
        model: nn.Module,
        sparsity: float,
        *,
        method: str = "magnitude",
        ratios: str = "global",
        skip: Skip = (),
        seed: int = 0,
    ) -> None:
        check_module(model)
        for name, value, allowed in (("method", method, METHODS), ("ratios", ratios, RATIOS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {type(seed).__name__}")
        self.model, self.result = model, None
        self.method, self.ratios, self.seed = method, ratios, seed
        self._weights: list[MaskedWeight] = find_weights(model, find_skipped(model, skip))
        self._removed = False
        self.prune(sparsity)

    @classmethod
    def by_permutation(cls, model: nn.Module, loader: Iterable[Any], **options: Any) -> "Ticket":
        """A ticket of the small model that :func:`jumpstart_kernels.pruning.permutation_prune` makes.

        It has no masks: :attr:`model` is smaller and faster itself, and a copy; ``model`` stays as it is.
        :attr:`result` has the report, and ``save``.

        Args:
            model: the dense model.
            loader: data by which units are chosen, see there.
            **options: those of ``permutation_prune``, such as ``tolerance``.

        Raises:
            TypeError, ValueError: as ``permutation_prune`` does.
        """
        check_module(model)
        pruning: Any = importlib.import_module("jumpstart_kernels.pruning")  # which imports this module
        ticket = object.__new__(cls)
        ticket.result = pruning.permutation_prune(model, loader, **options)
        ticket.model = ticket.result.model
        ticket.method, ticket.ratios, ticket.seed = "permutation", "global", 0
        ticket._weights, ticket._removed = [], False
        ticket._parameters = _count_parameters(model), _count_parameters(ticket.model)
        return ticket

    @property
    def layers(self) -> dict[str, LayerWeights]:
        """The masked layers by name, those that share a weight as one (``"decoder = encoder"``)."""
        self._check_present()
        return {
            weight.name: LayerWeights(weight.parameter.numel(), int(weight.mask.sum()))
            for weight in self._weights
        }

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by name, as in :attr:`layers`; bool, of the weight's shape, True if kept."""
        self._check_present()
        return {weight.name: weight.mask for weight in self._weights}

    @property
    def sparsity(self) -> float:
        """The share of the weights that is masked, or, by permutation, of the parameters that is gone."""
        if self.method == "permutation":
            before, after = self._parameters
            return 1 - after / before
        return self._total().sparsity

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Prune further, with the same method and ratios: what is masked stays masked.

        Args:
            sparsity: of all weights, not of those that are left.

        Raises:
            TypeError: ``sparsity`` is no number.
            ValueError: as for the class. The model is as before.
            RuntimeError: the masks were removed, or there are none, by permutation.
        """
        self._check_present()
        if self.method == "permutation":
            raise RuntimeError("a ticket by permutation has no masks: make one with masks of ticket.model")
        check_sparsity(sparsity)
        kept = count_kept([weight.parameter.numel() for weight in self._weights], sparsity)
        left = sum(int(weight.mask.sum()) for weight in self._weights)
        if kept > left:
            total = self._total()
            raise ValueError(
                f"sparsity must be at least {total.sparsity:g}, that of the masks, got {sparsity:g}"
            )
        masks = choose(self._weights, kept, self.method, self.ratios, self.seed)
        for weight, mask in zip(self._weights, masks, strict=True):
            weight.set_mask(mask)

    def reinitialize(
        self,
        initialize: Callable[[nn.Module], object] | None = None,
        *,
        seed: int | None = None,
        rescale: bool = False,
    ) -> None:
        """Give the model new weights under the same masks. Make a new optimizer: its state is of the old.

        Args:
            initialize: initializes the model that it is given, which has no masks then, in place. By default
                every module's ``reset_parameters()`` is called.
            seed: of PyTorch's generators, which are as before afterwards. None: they go on.
            rescale: whether the weights of each unit are multiplied by √(its weights / those that its mask
                keeps), so that its pre-activation has the variance it has in the dense model (Evci et al.,
                arXiv 2010.03533).

        Raises:
            TypeError: ``initialize`` is no function.
            ValueError: without ``initialize``, a module has parameters of its own but no
                ``reset_parameters()`` that sets them. The model is as before.
            RuntimeError: the masks were removed.
        """
        self._check_present()
        if initialize is not None and not callable(initialize):
            got = type(initialize).__name__
            raise TypeError(f"initialize must be a function, got {got}; a seed is passed as seed=")
        if initialize is None:
            check_resettable(self.model)
        with unmasked(self._weights):
            initialize_model(self.model, initialize, seed)
        if rescale:
            for weight in self._weights:
                weight.rescale()

    def rewind(self, weights: Mapping[str, Tensor]) -> None:
        """Load earlier weights under the masks of now, as the lottery ticket hypothesis has it.

        Args:
            weights: a ``state_dict`` of the model without masks, or with other masks, which are ignored.

        Raises:
            TypeError: it is no mapping.
            ValueError: it does not fit the model. The model is as before.
            RuntimeError: the masks were removed.
        """
        self._check_present()
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a state dict, got {type(weights).__name__}")
        fitting = fitting_weights(self.model, weights)
        with unmasked(self._weights):
            self.model.load_state_dict(fitting)

    def remove(self) -> nn.Module:
        """Take the masks out: what they hid becomes zero. Returns the model, whose layers are as they were.

        A warning says that this makes it neither smaller nor faster. The ticket is of no use then.

        Raises:
            RuntimeError: they were removed before.
        """
        self._check_present()
        if self.method != "permutation":
            total = self._total()
            for weight in self._weights:
                weight.remove_mask()
            if total.kept < total.weights:
                warnings.warn(f"removed, {_neither(total)}", stacklevel=2)
        self._removed = True
        return self.model

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ticket":
        for weight in self._weights:
            weight.refresh()
        ticket = memo[id(self)] = object.__new__(type(self))
        vars(ticket).update(copy.deepcopy(vars(self), memo))
        return ticket

    def __str__(self) -> str:
        if self._removed:
            return "Ticket: the masks are removed"
        if self.method == "permutation":
            before, after = self._parameters
            return f"Ticket: {after:,} of {before:,} parameters are left; the model is smaller\n{self.result}"
        rows = [("layer", "shape", "weights", "kept", "sparsity")]
        for weight, layer in zip(self._weights, self.layers.values(), strict=True):
            rows.append((weight.name, "×".join(map(str, weight.parameter.shape)), *_cells(layer)))
        total = self._total()
        rows.append(("total", "", *_cells(total)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        lines.insert(-1, "-" * len(lines[0]))
        return "\n".join([*lines, f"by {self.method}, ratios {self.ratios}", _neither(total)])

    __repr__ = __str__

    def _total(self) -> LayerWeights:
        layers = self.layers.values()
        return LayerWeights(sum(layer.weights for layer in layers), sum(layer.kept for layer in layers))

    def _check_present(self) -> None:
        if self._removed:
            raise RuntimeError("the masks of this ticket were removed: make a new one")


def check_sparsity(sparsity: float) -> None:
    """Raise unless it is a number in ``[0, 1)``."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)):
        raise TypeError(f"sparsity must be a number, got {type(sparsity).__name__}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity:g}")


def _cells(layer: LayerWeights) -> tuple[str, str, str]:
    return f"{layer.weights:,}", f"{layer.kept:,}", f"{layer.sparsity:.2%}"


def _neither(total: LayerWeights) -> str:
    return (
        f"masks give neither speed nor size: all {total.weights:,} weights are stored and multiplied as "
        f"before, though only {total.kept:,} may differ from 0; Ticket.by_permutation makes a smaller model"
    )


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
