"""Packages jumpstart_kernels, with the extension (``csrc/``) where torch can be imported, and for that torch.

In an isolated build torch cannot be imported, and the wheel is a pure one: it carries the sources, which are
compiled at first use for the torch that is there then. ``JUMPSTART_BUILD=never`` makes a pure wheel anyway,
``JUMPSTART_BUILD=require`` makes it an error if the extension cannot be built. Metadata is in pyproject.toml.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import setuptools

OLDEST_SETUPTOOLS = 77  # as in pyproject.toml, which says the license by its SPDX name

if int(setuptools.__version__.partition(".")[0]) < OLDEST_SETUPTOOLS:  # without isolation it may be
    raise SystemExit(
        f"jumpstart_kernels needs setuptools {OLDEST_SETUPTOOLS} or later to be built, found "
        f"{setuptools.__version__}: run pip install --upgrade setuptools wheel"
    )

from setuptools.command.build_py import build_py  # noqa: E402

PACKAGE = Path("jumpstart_kernels")


class BuildWithSources(build_py):
    """Puts the sources of the extension into the package, to be compiled at first use."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # where they are found beside the package
            shutil.copytree("csrc", self._sources, dirs_exist_ok=True)

    @property
    def _sources(self) -> Path:
        return Path(self.build_lib, PACKAGE, "csrc")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = () if self.editable_mode else Path("csrc").rglob("*.*")
        return super().get_outputs(include_bytecode) + [
            str(self._sources / path.relative_to("csrc")) for path in copied
        ]


def extension_arguments() -> dict:
    """What setup() needs to build the extension; nothing where it is not to be, or cannot be."""
    setting = os.environ.get("JUMPSTART_BUILD") or "auto"
    if setting not in ("auto", "never", "require"):
        raise SystemExit(f"JUMPSTART_BUILD must be auto, never or require, got {setting!r}")
    if setting == "never":
        return {}
    # By its path: the package itself needs torch.
    spec = importlib.util.spec_from_file_location("recipe", PACKAGE / "building" / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    required = setting == "require"
    try:
        return recipe.extension_arguments(failed=None if required else without_extension)
    except ImportError as error:
        if required:
            raise SystemExit(f"JUMPSTART_BUILD=require, but {error}") from None
        print(f"jumpstart_kernels: the extension will be built at first use ({error})", file=sys.stderr)
        return {}


def without_extension(error: Exception) -> None:
    """Go on with a pure package."""
    print(
        f"jumpstart_kernels: the C++ extension is not built: {error}\n"
        "jumpstart_kernels: the package works without it, only slower; "
        "python -m jumpstart_kernels build tries again and says more",
        file=sys.stderr,
    )
    for older in PACKAGE.glob("_native*.so"):
        older.unlink()  # an editable install would load it


arguments = extension_arguments()
setuptools.setup(
    ext_modules=arguments.get("ext_modules", []),
    cmdclass={"build_py": BuildWithSources, **arguments.get("cmdclass", {})},
)
