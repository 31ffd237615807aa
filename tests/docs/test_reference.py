"""Every public name has its place in the reference: a new one fails here until a page documents it."""

import importlib
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

import jumpstart_kernels
from jumpstart_kernels import functional, nn, plots, pruning, recycling, schedules

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
DIRECTIVE = re.compile(
    r"^\.\. (?:auto(?:class|data|exception|function|module)|py:data):: ([\w.]+)", re.MULTILINE
)
INTEGRATIONS = {"lightning": "lightning", "tensorboard": "tensorboard", "transformers": "transformers"}


def undocumented(module: ModuleType, names: Iterable[str]) -> list[str]:
    """The names that no page documents, under this name or another one of the same object."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    documented = DIRECTIVE.findall(pages)
    missing = [name for name in names if f"{module.__name__}.{name}" not in documented]
    if missing:
        importable = [name for name in documented if ".integrations." not in name]
        objects = {id(pkgutil.resolve_name(name)) for name in importable}
        missing = [name for name in missing if id(getattr(module, name)) not in objects]
    return missing


@pytest.mark.parametrize(
    "module",
    [jumpstart_kernels, functional, nn, plots, pruning, recycling, schedules],
    ids=lambda module: module.__name__,
)
def test_public_names_are_documented(module):
    assert undocumented(module, module.__all__) == []


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_integrations_are_documented(name):
    pytest.importorskip(INTEGRATIONS[name])
    module = importlib.import_module(f"jumpstart_kernels.integrations.{name}")
    public = [
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    assert public
    assert undocumented(module, public) == []


def test_all_integrations_are_known():
    modules = {module.name for module in pkgutil.iter_modules(jumpstart_kernels.integrations.__path__)}
    assert modules - {"observer"} == set(INTEGRATIONS)  # which no page documents: the others stand on it


def test_new_name_is_missed(monkeypatch):
    monkeypatch.setattr(functional, "jumpstart_something", lambda x: x, raising=False)
    assert undocumented(functional, [*functional.__all__, "jumpstart_something"]) == ["jumpstart_something"]
