"""The certificate of a removal: how far the logits have moved, and how many decisions have flipped."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_LEAST_GAP = 0.05  # of the median gap: no decision counts as closer than this


class Check(NamedTuple):
    """What has become of a model's decisions."""

    flips: int  # samples whose largest logit is another one
    moved: float  # the largest change of a logit; infinite if one is not finite any more
    certified: bool  # whether no logit has moved by half the smallest gap between the two largest


class Decisions:
    """The decisions of a model on its inputs, to which those of a smaller one are compared.

    Args:
        model: the model, in ``eval()``.
        inputs: batches.
        argument: their name in errors.

    Raises:
        TypeError: the model returns no tensor.
        ValueError: it does not run, or returns none of logits, ``[N, classes, *]``, or logits that are not
            finite.
    """

    def __init__(self, model: nn.Module, inputs: list[Tensor], argument: str) -> None:
        self._inputs = inputs
        self._logits = [_logits(_run(model, x, argument), x, argument) for x in inputs]
        top = [each.topk(2, 1).values.double() for each in self._logits]
        gaps = [each.select(1, 0) - each.select(1, 1) for each in top]  # [N, *]
        every = torch.cat([each.flatten() for each in gaps])
        self.smallest_gap = float(every.min())
        """Between the two largest logits."""
        self.count = len(every)
        """Decisions: of samples, or of all positions of a sample."""
        typical = every.median().clamp(min=torch.finfo(every.dtype).tiny)
        smallest = [each.flatten(1).amin(1) if each.dim() > 1 else each for each in gaps]
        self.weights = [(each / typical + _LEAST_GAP).square().reciprocal() for each in smallest]
        """For each batch ``[N]``: how much the logits of a sample count for least squares, that a close
        decision may move less than a clear one."""

    def check(self, model: nn.Module, most: float = math.inf) -> Check | None:
        """Compare the decisions of a model; None as soon as more than ``most`` have flipped."""
        flips, moved = 0, 0.0
        for x, before in zip(self._inputs, self._logits, strict=True):
            after = model(x.clone())
            change = float((after.double() - before.double()).abs().max())
            finite = math.isfinite(change)
            moved = max(moved, change if finite else math.inf)
            if not finite or change >= self.smallest_gap / 2:  # else no decision can have flipped
                changed = after.argmax(1) != before.argmax(1)
                flips += int((changed | ~after.isfinite().all(1)).sum())
            if flips > most:
                return None
        return Check(flips, moved, moved < self.smallest_gap / 2)


def _run(model: nn.Module, x: Tensor, argument: str) -> Any:
    try:
        return model(x.clone())  # which it may overwrite
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"model must run on what {argument} yields, {list(x.shape)} ({reason})") from error


def _logits(output: Any, x: Tensor, argument: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"model must return a tensor of logits, got {type(output).__name__}")
    if output.dim() < 2 or output.shape[1] < 2 or len(output) != len(x) or not output.is_floating_point():
        raise ValueError(
            f"model must return logits [N, classes, ...] with at least two classes, got {list(output.shape)} "
            f"of {output.dtype} for an input of {list(x.shape)}"
        )
    if not output.isfinite().all():
        raise ValueError(f"model must return finite logits on {argument}, got infinite ones or NaN")
    return output


def most_flips(flips: int, count: int, confidence: float = 0.95) -> float:
    """The upper bound of the share of flips on all data of the kind that ``count`` samples are of.

    Clopper and Pearson's, one-sided; without a flip about ``3 / count``, the rule of three.
    """
    if flips >= count:
        return 1.0
    low, high = flips / count, 1.0
    for _ in range(60):
        share = (low + high) / 2
        if _at_most(flips, count, share) > 1 - confidence:
            low = share
        else:
            high = share
    return high


def _at_most(flips: int, count: int, share: float) -> float:
    """The probability of at most so many flips."""
    if share <= 0 or share >= 1:
        return float(share <= 0)
    terms = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(share)
        + (count - k) * math.log1p(-share)
        for k in range(flips + 1)
    ]
    return math.fsum(map(math.exp, terms))
