"""``looks_linear_``: weights with which a deep ReLU network starts as a linear function."""

from typing import Any

import torch
from torch import nn

from jumpstart_kernels.initialization.following import has_hooks
from jumpstart_kernels.initialization.plan import make_plan
from jumpstart_kernels.initialization.report import LooksLinear, make_report
from jumpstart_kernels.initialization.weights import draw_weight
from jumpstart_kernels.nn.recording import check_module
from jumpstart_kernels.surgery.flow.inputs import check_wrappers, trace_calls
from jumpstart_kernels.surgery.flow.layers import is_matrix_layer
from jumpstart_kernels.surgery.sites import Skip, find_skipped
from jumpstart_kernels.surgery.tracing import Untraceable


def looks_linear_(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    skip: Skip = (),
    generator: torch.Generator | None = None,
) -> LooksLinear:
    """Draw the weights of a whole model so that it starts as a linear function of its input, in place.

    The looks-linear initialization of Balduzzi et al., *The Shattered Gradients Problem*, arXiv 1702.08591,
    which is for concatenated ReLUs; in plain layers, by initially shared parameters, Burkholz, Dubatovka,
    *Initialization of ReLUs for Dynamical Isometry*, arXiv 1806.06362; delta-orthogonal kernels: Xiao et al.,
    *Dynamical Isometry and a Mean Field Theory of CNNs*, arXiv 1806.05393. Units come in pairs ``z`` and
    ``−z``, the first and the second half of a layer's. Behind a ReLU the next layer reads
    ``relu(z) − relu(−z) = z``: its weight is ``[[V, −V], [−V, V]]`` with an orthogonal ``V``, that of a first
    layer ``[[V], [−V]]``. Every unit is positive for some inputs and negative for others, and the layers keep
    lengths and angles as far as their widths allow. Training is free to break the pairs.

    ``torch.fx`` traces the model to find what every layer reads. ``nn.Linear`` and ``nn.Conv1d`` to
    ``nn.Conv3d`` are set: through ReLU, leaky ReLU, SiLU and GELU, Jumpstart and linked ones, pooling,
    dropout, flattening, batch norm, sums and concatenation of units. Biases become zero. ``V`` has rows
    of mean square norm 1, and what is read is divided by its size, so that every layer's ``z`` has the
    mean square of the model's input, for isotropic input; sums count as many times as they have terms. A
    kernel is zero but for its center where the output has all positions of the input; else ``V`` is of
    the whole patch, since a center alone would drop what is beside it. A layer without a ReLU behind it,
    such as the last, has no pairs, nor has one with an odd number of units, or whose pairs no layer would
    read: its weight is ``V`` alone, ``[V, −V]`` for pairs that it reads. ReLUs without pairs count as
    halving the mean square. What is grouped, transposed, parametrized, shared, hooked, or of another kind is
    left as it is, and norms are.

    The model is exactly linear unless something says otherwise in ``notes`` of the report: max pooling and a
    ReLU of a sum with a skip connection, for example, leave it odd, ``f(−x) = −f(x)``. Dropout counts as in
    evaluation: in training it takes out the units of a pair one by one.

    Parameters stay the same objects, in dtype, device and layout; call it before or after
    :func:`~jumpstart_kernels.replace_relu`, which makes no difference.

    Args:
        model: any module that is not yet wrapped (DDP, ``torch.compile``), with weights of any floating
            dtype; drawn in float32 or float64, then rounded. Calls with all values of the flags of its
            forward (``normalize=False``) are traced.
        example_inputs: the arguments of a call of the model, or the only one. It is run on shapes alone,
            which shows where a ``view`` flattens, and which dimension is meant.
        skip: what to leave as it is, as in :func:`~jumpstart_kernels.replace_relu`.
        generator: what to draw from; None: PyTorch's default. With the same state the weights are the same.

    Returns:
        What has been done and why, by the names of the layers; it prints as a line for each.

    Raises:
        TypeError: ``model`` is no module, ``generator`` no ``torch.Generator``, or ``skip`` of a wrong type.
        ValueError: ``model`` is, or has in it, a wrapper or TorchScript, cannot be traced, or has parameters
            that are lazy, on the meta device, or made in inference mode; an entry of ``skip`` matches
            nothing; ``example_inputs`` do not run. The model is as before.
    """
    check_module(model)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    check_wrappers(model)
    skipped = find_skipped(model, skip)
    _check_parameters(model)
    whole = nn.Sequential(model) if is_matrix_layer(model) else model  # a layer alone has no trace of calls
    try:
        graphs = trace_calls(whole, example_inputs)
    except Untraceable as reason:
        raise ValueError(
            f"model must be one that torch.fx can trace: {reason}. Parts of it may be initialized one by "
            "one, best such as begin and end with a layer"
        ) from reason
    plan = make_plan(whole, graphs, skipped)
    if has_hooks(model) and not is_matrix_layer(model):
        plan.notes["the model itself has hooks"] = 1
    # All are drawn before the first is written: an error leaves the model as it was.
    drawn = [(layer, draw_weight(layer, reading, generator)) for layer, reading in plan.readings.items()]
    with torch.no_grad():
        for layer, weight in drawn:
            _write(layer, weight)
    return make_report(model, plan)


def _check_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"model has a lazy parameter, {name}: run a forward first, which gives it a shape"
            )
        if parameter.is_meta:
            raise ValueError(
                f"model has a parameter on the meta device, {name}: call to_empty(device=) first"
            )
        if parameter.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"model has a parameter made in inference mode, {name}: make the model outside of it"
            )


def _write(layer: Any, weight: torch.Tensor) -> None:
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.zero_()
