"""Draws, runs and compares groups of cases, each with its own seed."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import nn

import jumpstart_kernels as jk
from fuzz.cases import Case, Results, define, draw_case, draw_penalty_options
from fuzz.compare import MAX_AMPLIFICATION, Bounds, largest, mismatch, tolerance
from fuzz.definition import Observer, PenaltyOptions
from fuzz.draw import draw_fragment
from fuzz.fragments import Fragment
from fuzz.models import build
from fuzz.modes import MODES, Implementation, Mode, Runner, autocast_context
from jumpstart_kernels.nn.deferred_bias import DeferredBias

REDRAWS = 12  # of a case whose gradients rounding may change; then it is left out
MAX_ELEMENTS = 20_000  # of one input


@dataclass
class Failure:
    """A failed case; ``python -m fuzz --seed SEED --group MODE/INDEX`` runs its group again."""

    mode: str
    seed: int
    group: int
    case: int
    message: str
    details: str


@dataclass
class Tally:
    """The tally of some cases."""

    cases: Counter[str] = field(default_factory=Counter)  # by mode
    seen: Counter[str] = field(default_factory=Counter)  # cases that met something special
    values_only: int = 0  # of the cases: those whose gradients are open, by random ties or by rounding
    redrawn: int = 0
    left_out: int = 0
    failures: list[Failure] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)  # largest error of a mode, in tolerances

    def add(self, other: "Tally") -> None:
        self.cases += other.cases
        self.seen += other.seen
        self.values_only += other.values_only
        self.redrawn += other.redrawn
        self.left_out += other.left_out
        self.failures += other.failures
        for mode, error in other.worst.items():
            self.worst[mode] = max(error, self.worst.get(mode, 0.0))


@dataclass
class Group:
    """A fragment in a mode, with the options that all its cases share."""

    mode: Mode = field(repr=False)
    random: Random = field(repr=False)
    fragment: Fragment
    dtype: torch.dtype
    autocast: torch.dtype | None
    penalty: PenaltyOptions
    shape: list[int]  # forwards in each window
    dynamic: bool
    static_batch: int
    penalty_inside: bool
    fuse_bias: bool  # wherever it can be
    layout: int  # a seed, of the choices that compiled code has for constants

    @property
    def same_bits(self) -> bool:
        """Whether the definition's pre-activations are bitwise equal to ours."""
        return not (self.mode.against_float64 or self.mode.compiler)


def plan(cases: int, modes: list[Mode]) -> list[tuple[str, int, int]]:
    """Groups ``(mode, index, cases)`` for this many cases, distributed over the modes."""
    total = sum(mode.share for mode in modes)
    groups = []
    left = cases
    for i, mode in enumerate(modes):
        count = left if i == len(modes) - 1 else min(left, round(cases * mode.share / total))
        left -= count
        for index in range(math.ceil(count / mode.group)):
            groups.append((mode.name, index, min(mode.group, count - index * mode.group)))
    return groups


def draw_group(mode: Mode, seed: int, index: int) -> Group:
    random = Random(f"{mode.name}/{seed}/{index}")
    limits = mode.limits
    autocast = random.choice(mode.autocast) if mode.autocast else None
    if mode.autocast and mode.compiler is None and random.random() < 0.3:
        limits = limits._replace(checkpoints=True)
    if mode.against_float64 or mode.compiler:
        limits = limits._replace(exact=random.random() < 0.85)
    shape = [random.randint(1, mode.windows)] * mode.windows  # each length compiles anew
    fragment = draw_fragment(random, limits)
    return Group(
        mode=mode,
        random=random,
        fragment=fragment,
        dtype=random.choice(mode.dtypes),
        autocast=autocast,
        penalty=draw_penalty_options(random),
        shape=shape,
        dynamic=random.random() < 0.5,
        static_batch=random.choice([2, 5, 8] if fragment.has_batch_norm else [0, 1, 2, 5, 8]),
        penalty_inside=random.random() < 0.7,
        fuse_bias=random.random() < 0.6 and fragment.keeps_units,
        layout=random.getrandbits(32),
    )


def run_group(
    name: str,
    seed: int,
    index: int,
    cases: int,
    implementation: Callable[[], Implementation] = Implementation,
) -> Tally:
    """Run and compare the cases of one group."""
    group = draw_group(MODES[name], seed, index)
    tally = Tally()
    number = 0
    try:
        runner = _prepare(group, implementation())
        backend = group.mode.backend
        with nullcontext() if backend is None else jk.use_backend(backend), _compiler_settings(group.mode):
            for number in range(cases):
                message = _run_case(group, runner, tally)
                if message is not None:
                    tally.failures.append(Failure(name, seed, index, number, message, repr(group)))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        tally.failures.append(Failure(name, seed, index, number, reason, repr(group)))
    return tally


def _prepare(group: Group, implementation: Implementation) -> Runner:
    mode = group.mode
    if mode.compiler is not None:
        torch._dynamo.reset()
    torch.manual_seed(0)
    model = build(group.fragment, group.dtype)
    with warnings.catch_warnings(), _quiet():
        # Each fragment's ReLUs can all be replaced; one may have none but JumpstartReLUs of its own.
        warnings.filterwarnings("error", message="replace_relu could not")
        warnings.filterwarnings("ignore", message="replace_relu found no ReLU")
        model = implementation.prepare(model, _options(group))
    return Runner(model, implementation, mode, group.autocast, group.dynamic, group.penalty_inside)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of guessed unit dimensions, and of biases that stay."""
    logger = logging.getLogger("jumpstart_kernels")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _options(group: Group) -> dict[str, Any]:
    """Those of ``replace_relu``."""
    options = {**group.fragment.options.keywords(), "fuse_bias": group.fuse_bias}
    return {**options, "unit_dim": "auto"} if group.fuse_bias else options


def fused_layers(model: nn.Module) -> list[bool]:
    """Of the linear layers and convolutions in order, whether an activation adds the bias."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    return [isinstance(layer, DeferredBias) and layer.deferred_bias() is not None for layer in layers]


def _compiler_settings(mode: Mode) -> AbstractContextManager:
    """The setting that PyTorch requires when a layer records inside a compiled checkpoint."""
    if mode.compiler is None or not mode.limits.checkpoints:
        return nullcontext()
    return torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)


def _run_case(group: Group, runner: Runner, tally: Tally) -> str | None:
    """Draw, define, run and compare one case; returns what is wrong with it."""
    dtype = torch.float64 if group.mode.against_float64 else group.dtype
    names = [name for name, _ in runner.model.named_parameters()]
    fused = fused_layers(runner.model)
    for _ in range(REDRAWS):
        case = _draw(group, runner.model)
        context = autocast_context(group.autocast)
        expected, observer = define(group.fragment, case, names, dtype, context, fused)
        if _is_sound(expected, observer) and (group.same_bits or _is_decided(group, case, observer)):
            break
        tally.redrawn += 1
    else:
        tally.left_out += 1
        return None
    actual = runner.run(case, group.dtype)
    if group.mode.injected:
        expected = {name: value for name, value in expected.items() if not name.startswith("penalty")}
    # Layers whose inputs have other strides may round otherwise, and decide a tie of theirs otherwise.
    same_bits = group.same_bits and all(
        torch.equal(actual[name], value) for name, value in expected.items() if name.startswith("output")
    )
    known = not observer.unspecified
    known &= same_bits or not group.same_bits or _is_decided(group, case, observer)
    bounds = _bounds(group, runner.model, case, observer, same_bits)
    message, error = mismatch(actual, expected, bounds, known)
    tally.cases[group.mode.name] += 1
    tally.values_only += not known
    tally.seen.update({name: 1 for name, count in observer.seen.items() if count})
    tally.seen.update(_features(group, case))
    tally.seen["fused bias"] += any(fused)
    tally.worst[group.mode.name] = max(error, tally.worst.get(group.mode.name, 0.0))
    return message


def _draw(group: Group, model: nn.Module) -> Case:
    random, mode = group.random, group.mode
    styles = list(mode.styles)
    if not group.same_bits:
        styles.remove("tied")
        if not group.fragment.is_exact:
            styles.remove("grid")
    if mode.compiler is None:  # compiled code has them for constants
        group.penalty = draw_penalty_options(random)
        if mode.injected and group.penalty.reduction == "norm":  # cannot be injected
            group.penalty = group.penalty._replace(reduction="squared")
        group.shape = [random.randint(1, mode.windows) for _ in range(random.randint(1, mode.windows))]
        group.layout = random.getrandbits(32)
    case = draw_case(
        random,
        group.fragment,
        model,
        Random(group.layout),
        style=random.choice(styles),
        batches=[[_batch(group) for _ in range(forwards)] for forwards in group.shape],
        dtype=group.dtype,
        penalty_options=group.penalty,
        freeze=mode.compiler is None and random.random() < 0.1,
    )
    case.gradient_penalty = mode.gradient_penalty
    case.distract = mode.windows > 1 and random.random() < 0.5
    return case


def _batch(group: Group) -> int:
    random = group.random
    compiled = group.mode.compiler is not None
    if compiled and not group.dynamic:
        return group.static_batch
    smallest = 2 if group.fragment.has_batch_norm or compiled else 1
    if smallest == 1 and random.random() < 0.06:
        return 0
    largest = max(2, min(group.mode.limits.max_batch, MAX_ELEMENTS // math.prod(group.fragment.input_size)))
    if random.random() < 0.1:
        return min(largest, random.randint(20, 99))
    return min(largest, random.randint(smallest, 9))


def _bounds(group: Group, model: nn.Module, case: Case, observer: Observer, same_bits: bool) -> Bounds:
    sizes = [parameter.numel() for parameter in model.parameters()]
    sizes += [x.numel() for window in case.windows for x in window]
    bound = tolerance(group.fragment, max(sizes), group.autocast or group.dtype, observer.slope)
    if same_bits:  # the statistics are the same numbers, their sums alone are rounded
        return Bounds(bound, tolerance(group.fragment, max(sizes), group.dtype), bound)
    return Bounds(bound, bound, bound, observer.magnitude)


def _is_sound(expected: Results, observer: Observer) -> bool:
    """Whether the results are meaningful numbers."""
    finite = all(math.isfinite(largest(value)) for value in expected.values())
    return finite and observer.slope <= MAX_AMPLIFICATION


def _is_decided(group: Group, case: Case, observer: Observer) -> bool:
    """Whether rounding cannot change which elements get the gradients."""
    info = torch.finfo(group.dtype)
    fan_in = max((p[0].numel() for p in case.parameters if p.dim() > 1), default=1)
    if observer.closest < tolerance(group.fragment, fan_in, group.dtype, observer.slope):
        return False
    if observer.coincides and not group.fragment.is_exact and group.mode.compiler != "aot_eager":
        return False
    # Grids are of halves: in float32 their sums are exact below 2 ** 23, and half of that is asked for.
    return case.style != "grid" or 4 * observer.largest < 2 / info.eps


def _features(group: Group, case: Case) -> dict[str, int]:
    batches = {x.shape[0] for window in case.windows for x in window}
    features = {f"{type(layer).__name__}" for layer in group.fragment.every_layer()}
    features |= {
        getattr(layer, "form", "") or getattr(layer, "how", "") for layer in group.fragment.every_layer()
    }
    features |= {f"style {case.style}", f"reduction {case.penalty.reduction}", str(group.dtype)}
    features |= {f"batch of {size}" for size in batches & {0, 1}}
    for layer in group.fragment.every_layer():
        options = getattr(layer, "options", None)
        if options is not None:
            features |= {f"points {options.points}", f"ties {options.tie_breaking}"}
    slots = [layer.slot for layer in group.fragment.every_layer() if hasattr(layer, "slot")]
    features |= {"shared ReLU"} if len(slots) > len(set(slots)) else set()
    return dict.fromkeys(features - {""}, 1)
