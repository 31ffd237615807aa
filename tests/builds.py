"""What takes long to build, once a run: pytest's workers share it."""

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path("conftest.py sets that of the run")


def build_all(names: Sequence[str], build: Callable[[str, Path], object]) -> list[Path]:
    """The files of these names, which ``build(name, path)`` writes unless another worker does or did."""
    for wait in (False, True):  # what another builds comes last
        for name in names:
            _build(name, build, wait)
    return [FOLDER / name for name in names]


def _build(name: str, build: Callable[[str, Path], object], wait: bool) -> None:
    path, partial = FOLDER / name, FOLDER / f"{name}.partial"
    with open(FOLDER / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return
        if not path.exists():
            build(name, partial)
            os.replace(partial, path)
