"""Being called around every forward of a model, whatever it is wrapped in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from jumpstart_kernels.nn import records


class Forwards:
    """Calls back at the begin and the end of every outermost forward of a model, until it is detached.

    Forwards inside others, recomputations of checkpointing, and what only traces, exports, transforms or
    captures the model are passed over.

    Args:
        model: what is called.
        begin: called before a forward.
        end: called after it.
        abandon: called instead of ``end`` if it has failed.
    """

    def __init__(
        self,
        model: nn.Module,
        begin: Callable[[], None],
        end: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        self._model = model
        self._begin, self._end, self._abandon = begin, end, abandon
        self._depth = 0  # of forwards within one another
        self._detach: list[Callable[[], None]] = [
            model.register_forward_pre_hook(_Hook(self._enter)).remove,
            model.register_forward_hook(_Hook(self._complete)).remove,
            model.register_forward_hook(_Hook(self._leave), always_call=True).remove,
        ]
        self._surround_compiled_call()

    def detach(self) -> None:
        """Call back no more; a forward that is under way is abandoned."""
        self._close(self._abandon)
        while self._detach:
            self._detach.pop()()

    def begin_batch(self) -> None:
        """Take all that runs until :meth:`end_batch` as one forward, and abandon one that is under way."""
        self._close(self._abandon)
        if self._detach:
            self._depth = 1
            self._begin()

    def end_batch(self) -> None:
        """End it; no effect without one."""
        if self._depth == 1:
            self._close(self._end)

    def _close(self, callback: Callable[[], None]) -> None:
        under_way, self._depth = self._depth > 0, 0
        if under_way:
            callback()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not _passed_over(args):
            self._depth += 1
            if self._depth == 1:
                self._begin()

    def _complete(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._depth == 1 and not _passed_over(args):
            self._close(self._end)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # It also runs behind a forward that has ended, that failed, or before which another hook did.
        if self._depth > 1 and not _passed_over(args):
            self._depth -= 1
        elif self._depth == 1 and not _passed_over(args):
            self._close(self._abandon)

    def _surround_compiled_call(self) -> None:
        """Be called around what ``model.compile()`` has compiled, too: hooks are inside, and passed over."""
        compiled = self._model._compiled_call_impl
        if compiled is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter(self._model, ())
            try:
                output = compiled(*args, **kwargs)
                self._complete(self._model, (), output)
                return output
            finally:
                self._leave(self._model, (), None)

        def restore() -> None:
            if self._model._compiled_call_impl is call:
                self._model._compiled_call_impl = compiled

        self._model._compiled_call_impl = call
        self._detach.append(restore)


class _Hook:
    """A hook whose copies, in copies and pickles of a module, do nothing."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        if self._call is not None:
            self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


def _passed_over(args: tuple[Any, ...]) -> bool:
    """Whether a forward is none that computes a batch here and now."""
    return (
        torch.compiler.is_compiling()
        or records.recomputing()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or any(isinstance(each, fx.Proxy) for each in args)
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )
