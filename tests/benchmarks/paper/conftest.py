"""Made-up files in the formats of the UCI Machine Learning Repository."""

import pytest


@pytest.fixture
def write(tmp_path):
    """``write(name, lines)`` makes a file of these lines; returns its folder."""

    def run(name, lines):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
        return tmp_path

    return run
