"""Removals from a model, each repaired by least squares and kept only if its certificate holds."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import is_pruned

from jumpstart_kernels.pruning.capture import Products, inputs_of, observe, rows_of
from jumpstart_kernels.pruning.certificate import Check, Decisions
from jumpstart_kernels.pruning.network import Network, Saved
from jumpstart_kernels.pruning.repair import Map, fit, unexplained
from jumpstart_kernels.pruning.unit_sets import Reader, Structure, UnitSet
from jumpstart_kernels.surgery.flow.inputs import check_wrappers, trace_calls
from jumpstart_kernels.surgery.flow.layers import is_transposed, shows_border
from jumpstart_kernels.surgery.flow.units import Value
from jumpstart_kernels.surgery.tracing import Untraceable

CONSTANT = 1e-10  # of the mean square of a channel: less variance is rounding


class Look(NamedTuple):
    """What the units of a set, and the layers that read them, do on the data."""

    values: list[Tensor]  # of each activation: [units, rows]
    input: Tensor | None  # what the only layer that makes them reads: [channels, rows]
    products: dict[str, Products]  # by layer that reads them
    codes: dict[str, Tensor]  # of the channels in these


class Reduction:
    """A model that gets smaller, while its decisions on the data stay as they are.

    Args:
        model: the model; it is left as it is.
        loader: yields batches, see :func:`~jumpstart_kernels.pruning.permutation_prune`.
        max_flips: how many decisions may change.
        positions: of a sample's positions in a convolution, so many are looked at in all samples together.

    Raises:
        ValueError: the model cannot be traced, or its decisions differ from call to call; see also
            :class:`Decisions` and :func:`inputs_of`.
        TypeError: see these.
    """

    def __init__(
        self, model: nn.Module, loader: Iterable[Any], max_flips: int = 0, positions: int = 50_000
    ) -> None:
        check_wrappers(model)
        self.inputs = inputs_of(loader, "loader", model)
        try:
            self.given = copy.deepcopy(model).eval()
        except Exception as error:
            masks = "it has masks of torch.nn.utils.prune, which must be removed first"
            raise ValueError(f"model cannot be copied: {masks if is_pruned(model) else error}") from error
        with torch.no_grad():
            self.decisions = Decisions(self.given, self.inputs, "loader")
        first = self.inputs[0][:1]
        try:
            graphs = trace_calls(self.given, first.repeat(2, *[1] * (first.dim() - 1)))
        except Untraceable as reason:
            raise ValueError(f"model cannot be traced: {reason}") from reason
        self.structure = Structure(self.given, [graphs[0], *graphs[2:], graphs[1]])
        self.network = Network(self.given, self.structure)
        self.max_flips = max_flips
        self.removals = 0
        """How many attempts have been kept."""
        self.samples = sum(map(len, self.inputs))
        self._limit = max(1, positions // self.samples)
        with torch.no_grad():
            self.last = self.decisions.check(self.network.model)
        assert self.last is not None
        if self.last.flips:
            raise ValueError(
                "model must decide the same in every call in eval(): "
                f"{self.last.flips} of {self.decisions.count} decisions differ between two"
            )

    @torch.no_grad()
    def look(self, units: UnitSet) -> Look:
        """Run the data through the model to where the units of a set are read."""
        network = self.network
        values: list[list[Tensor]] = [[] for _ in units.sites]
        inputs: list[Tensor] = []
        wanted = {}
        for site, seen in zip(units.sites, values, strict=True):
            channels = network.channels_of(units, site.value)[0]
            wanted[site.node] = self._appending(seen, site.value, channels)
        if units.input is not None:
            wanted[units.node] = self._appending(inputs, units.input, slice(None))
        products, codes = self._products(units, wanted)
        by_unit = [torch.cat(seen).T.contiguous() for seen in values]
        return Look(by_unit, torch.cat(inputs).T.contiguous() if inputs else None, products, codes)

    @torch.no_grad()
    def attempt(self, units: UnitSet, look: Look, removed: Tensor, repair: bool = True) -> Check | None:
        """Remove units if the certificate holds; None if it does not.

        Args:
            units: their set.
            look: at it.
            removed: the units, numbered as in the given model.
            repair: whether what is left stands in for them. Dead units need at most a constant in their
                place; those of which something else than a ReLU shows more are none.
        """
        if not repair and not self._are_constant(units, look, removed):
            return None
        saved = self.network.saved(units)
        self.remove(units, look, removed, repair)
        return self._keep_or_restore(units, saved)

    @torch.no_grad()
    def remove(self, units: UnitSet, look: Look, removed: Tensor, repair: bool = True) -> None:
        """Remove units, whatever becomes of the decisions. The arguments are those of :meth:`attempt`."""
        network = self.network
        left = network.left[units]
        left = left[~torch.isin(left, removed)]
        maps = {}
        for reader in network.readers_of(units):
            channels = self._channels_left(units, look.codes[reader.layer], left)
            squares, _ = _moments(look.products[reader.layer], channels)
            if repair or bool(squares.any()):
                maps[reader.layer] = self._map(reader, look.products, look.codes, channels)
            elif reader.layer in network.maps:
                before = network.maps[reader.layer]
                channels = self._channels_left(units, network.codes(reader.value), left)
                maps[reader.layer] = before._replace(matrix=before.matrix[channels])
        network.remove(units, left, maps)

    @torch.no_grad()
    def attempt_bypass(self, units: UnitSet) -> Check | None:
        """Take out the layer that makes these units, if the certificate holds; None if it does not."""
        network = self.network
        saved = network.saved(units)
        network.bypassed[units] = None
        zeros = {}  # of the right shape, until it is known what to read
        for reader in network.readers_of(units):
            now, before = network.codes(reader.value), network.codes(reader.value, given=True)
            matrix = torch.zeros(len(now), len(before), dtype=torch.float64, device=now.device)
            zeros[reader.layer] = Map(matrix, matrix.new_zeros(len(before)))
        network.bypass(units, zeros)
        products, codes = self._products(units, {})
        maps = {}
        for reader in network.readers_of(units):
            channels = torch.arange(len(codes[reader.layer]), device=codes[reader.layer].device)
            maps[reader.layer] = self._map(reader, products, codes, channels)
        network.bypass(units, maps)
        try:
            return self._keep_or_restore(units, saved)
        except Exception:  # the forward needs more of the layer than its call
            network.restore(units, saved)
            return None

    def too_few(self, look: Look) -> str:
        """Why the data say too little about a set; "" if they say enough."""
        for layer, products in look.products.items():
            assert products.own is not None
            channels = len(products.own) - 1
            if products.rows <= channels:
                return f"{products.rows} samples are too few for the {channels} inputs of {layer}"
        return ""

    def harm(self, units: UnitSet, look: Look) -> Tensor:
        """What the layers behind would miss of each unit that is left, ``[left]``: a sum of squares."""
        network = self.network
        total = torch.zeros(len(network.left[units]), dtype=torch.float64, device=self.inputs[0].device)
        for reader in network.readers_of(units):
            channels = self._channels_left(units, look.codes[reader.layer], network.left[units])
            constant = self._takes_constant(reader.layer)
            missing = unexplained(look.products[reader.layer], constant, channels)
            layer: Any = self.network.model.get_submodule(reader.layer)
            columns = layer.weight.detach().double().movedim(0 if is_transposed(layer) else 1, 0)
            weights = columns.unflatten(0, (-1, reader.factor)).flatten(1).square().sum(1)
            for channels in network.channels_of(units, reader.value):
                total += (missing * weights)[channels]
        return total

    def _are_constant(self, units: UnitSet, look: Look, removed: Tensor) -> bool:
        """Whether all that reads these units sees constants."""
        left = self.network.left[units]
        left = left[~torch.isin(left, removed)]
        for layer, products in look.products.items():
            squares, variances = _moments(products, self._channels_left(units, look.codes[layer], left))
            if bool((variances > CONSTANT * squares).any()):
                return False
        return True

    def _channels_left(self, units: UnitSet, codes: Tensor, left: Tensor) -> Tensor:
        """The channels that are of another set, or units that are left."""
        numbers = self.network.units_of(units, codes)
        return ((numbers < 0) | torch.isin(numbers, left)).nonzero().flatten()

    def _products(
        self, units: UnitSet, others: dict[str, Callable[[Tensor], None]]
    ) -> tuple[dict[str, Products], dict[str, Tensor]]:
        """Of the layers that read a set, and which channels these are; ``others`` see other nodes."""
        network, graph = self.network, self.structure.graph
        products = {reader.layer: Products() for reader in network.readers_of(units)}
        for x, weights in zip(self.inputs, self.decisions.weights, strict=True):
            now: dict[str, Tensor] = {}
            observe(network.model, graph, x, {**others, **self._storing(now, units, given=False)})
            before = now
            if network.is_changed:
                before = {}
                observe(self.given, graph, x, self._storing(before, units, given=True))
            for layer, each in products.items():
                each.add(now[layer], before[layer], weights)
        return products, {reader.layer: network.codes(reader.value) for reader in network.readers_of(units)}

    def _storing(
        self, rows: dict[str, Tensor], units: UnitSet, given: bool
    ) -> dict[str, Callable[[Tensor], None]]:
        """By node: what stores what a layer reads."""

        def storing(layer: str, value: Value) -> Callable[[Tensor], None]:
            channels = len(self.network.codes(value, given))

            def store(x: Tensor) -> None:
                rows[layer] = rows_of(x, value, channels, self._limit).clone()

            return store

        readers = self.network.readers_of(units)
        return {reader.node: storing(reader.layer, reader.value) for reader in readers}

    def _appending(self, seen: list[Tensor], value: Value, kept: Any) -> Callable[[Tensor], None]:
        channels = len(self.network.codes(value))

        def append(x: Tensor) -> None:
            rows = rows_of(x, value, channels, self._limit)[:, kept]
            seen.append(rows.to(torch.promote_types(x.dtype, torch.float32), copy=True))

        return append

    def _map(
        self, reader: Reader, products: dict[str, Products], codes: dict[str, Tensor], channels: Tensor
    ) -> Map:
        given = self.network.codes(reader.value, given=True)
        same = codes[reader.layer][channels][:, None] == given
        return fit(products[reader.layer], channels, same, self._takes_constant(reader.layer))

    def _takes_constant(self, name: str) -> bool:
        """Whether a constant input is the same as a bias: no padding shows its border."""
        layer: Any = self.given.get_submodule(name)
        return layer.bias is not None and not shows_border(layer)

    def _keep_or_restore(self, units: UnitSet, saved: Saved) -> Check | None:
        check = self.decisions.check(self.network.model, self.max_flips)
        if check is None:
            self.network.restore(units, saved)
        else:
            self.last = check
            self.removals += 1
        return check


def _moments(products: Products, left: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square and variance of the channels that are not left, up to a factor."""
    assert products.own is not None
    gone = torch.ones(len(products.own) - 1, dtype=torch.bool, device=left.device)
    gone[left] = False
    squares = products.own.diagonal()[:-1][gone] * products.own[-1, -1]
    return squares, squares - products.own[:-1, -1][gone].square()
