"""Hooks that stay behind when a module is copied or pickled."""

from collections.abc import Callable
from typing import Any


class Hook:
    """A hook for a module; its copies, in copies and pickles of the module, do nothing."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        if self._call is not None:
            self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, ()
