"""``setup.py`` on a machine whose setuptools is too old."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("version", ["65.5.0", "76.1", "77.0.3"])
def test_an_old_setuptools_is_told_in_one_line(version, tmp_path):
    stub = f"__version__ = {version!r}\ndef setup(**_):\n    print('set up')\n"
    command = tmp_path / "setuptools" / "command"
    command.mkdir(parents=True)
    (tmp_path / "setuptools" / "__init__.py").write_text(stub)
    (command / "build_py.py").write_text("class build_py: pass")
    (tmp_path / "torch.py").write_text("raise ImportError('none here')")  # nothing is to be built
    done = subprocess.run(
        [sys.executable, str(ROOT / "setup.py"), "--version"],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if version.startswith("77"):
        assert (done.returncode, done.stdout) == (0, "set up\n")
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"jumpstart_kernels needs setuptools 77 or later to be built, found {version}: "
            "run pip install --upgrade setuptools wheel\n"
        )
