"""Being called around every forward of a model, whatever it is wrapped in."""

import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from jumpstart_kernels.nn import records
from jumpstart_kernels.usage.hooks import Hook


class Forwards:
    """Calls back at the begin and the end of every outermost forward of a model, until it is detached.

    Forwards inside others, those of a thread while another one runs the model, recomputations of
    checkpointing, and what only traces, exports, transforms or captures the model are passed over.

    Args:
        model: what is called.
        begin: called before a forward.
        end: called after it.
        abandon: called instead of ``end`` if it has failed; after an exception that is no ``Exception``, such
            as ``KeyboardInterrupt``, only when the model is called again.
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
        self._thread = 0  # that runs the outermost
        self._frame: FrameType | None = None  # that lives as long as the outermost; None for a batch
        self._detach: list[Callable[[], None]] = [
            model.register_forward_pre_hook(Hook(self._enter)).remove,
            model.register_forward_hook(Hook(self._complete)).remove,
            model.register_forward_hook(Hook(self._leave), always_call=True).remove,
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
            self._open(None)

    def end_batch(self, failed: bool = False) -> None:
        """End it; no effect without one."""
        if self._depth == 1 and self._frame is None:
            self._close(self._abandon if failed else self._end)

    def _open(self, frame: FrameType | None) -> None:
        self._depth, self._thread, self._frame = 1, threading.get_ident(), frame
        _under_way.append(self)
        self._begin()

    def _close(self, callback: Callable[[], None]) -> None:
        if self._depth:
            self._depth, self._frame = 0, None
            _under_way.remove(self)
            callback()

    def _is_stale(self) -> bool:
        """Whether the forward under way has ended without a call of its hooks."""
        frame = sys._current_frames().get(self._thread)
        if self._frame is None:
            return frame is None  # a batch of a thread that has ended
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is None

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_dynamo_compiling():
            _note_traced()
        elif not _passed_over(args):
            if self._depth and self._is_stale():
                self._close(self._abandon)
            if self._depth == 0:
                self._open(_caller())
            elif self._thread == threading.get_ident():
                self._depth += 1

    def _complete(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._depth == 1 and self._is_outermost(args):
            self._close(self._end)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # It also runs behind a forward that has ended, that failed, or before which another hook did.
        if self._depth > 1 and self._is_own(args):
            self._depth -= 1
        elif self._depth == 1 and self._is_outermost(args):
            self._close(self._abandon)

    def _is_own(self, args: tuple[Any, ...]) -> bool:
        return (
            not torch.compiler.is_dynamo_compiling()
            and self._thread == threading.get_ident()
            and not _passed_over(args)
        )

    def _is_outermost(self, args: tuple[Any, ...]) -> bool:
        return self._frame is not None and self._is_own(args)

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


def _caller() -> FrameType:
    """The frame that has called into this file: that of the module's call."""
    frame: Any = sys._getframe()
    while frame.f_code.co_filename in _OWN_FILES:
        frame = frame.f_back
    return frame


_OWN_FILES = (__file__, sys.modules[Hook.__module__].__file__)
_under_way: list[Forwards] = []  # of all models


def _note_traced() -> None:
    """Warn that compiled code runs without hooks, when it is traced."""
    if not _under_way and not torch.compiler.is_exporting():
        warnings.warn(
            "a model that jumpstart_kernels.watch() watches is being compiled, and will not be observed: "
            "watch what torch.compile(model) returns, or the model after model.compile(), or put "
            "`with watch.batch():` around the compiled code that calls it",
            stacklevel=2,
        )


# What torch.compiler.assume_constant_result does, without importing the compiler: called once, in tracing.
_note_traced._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _passed_over(args: tuple[Any, ...]) -> bool:
    """Whether a forward is none that computes a batch here and now."""
    return (
        records.recomputing()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or any(isinstance(each, fx.Proxy) for each in args)
        or any("Fake" in type(mode).__name__ for mode in _get_current_dispatch_mode_stack())
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )
