"""``building/recipe.py``: what ``setup.py build_ext --inplace`` leaves beside the package."""

from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="it builds the extension")

from jumpstart_kernels.building import recipe


def test_the_record_goes_with_the_extension(tmp_path, monkeypatch):
    """Without it an extension would be loaded into any torch."""
    from setuptools import Distribution

    monkeypatch.chdir(tmp_path)
    described = {"name": "jumpstart_kernels", "packages": ["jumpstart_kernels"]}
    command = Distribution(described | recipe.extension_arguments()).get_command_obj("build_ext")
    command.build_lib, command.inplace = "built", True
    command.ensure_finalized()
    extension = Path(command.get_ext_filename(recipe.NAME))
    for path in (extension, extension.with_name(recipe.RECORD)):
        (tmp_path / "built" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "built" / path).write_text(path.name)
    (tmp_path / "jumpstart_kernels").mkdir()
    command.copy_extensions_to_source()
    for path in (extension, extension.with_name(recipe.RECORD)):
        assert (tmp_path / path).read_text() == path.name
