"""How csrc/cpu splits inputs into tasks, at sizes too large to allocate."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="takes g++, which is not here")

SOURCE = """
#include "cpu/statistics.h"

extern "C" int64_t ranges(const jumpstart::Layout* layout, bool position_points, int64_t threads,
                          int64_t* to) {
  float extrema = 0;
  const jumpstart::Statistics<float> statistics{0, 0, &extrema, nullptr, nullptr};
  std::vector<char> memory;
  jumpstart::Tasks<float> tasks(*layout, position_points, threads, statistics, [&](size_t bytes) {
    memory.resize(bytes);
    return static_cast<void*>(memory.data());
  });
  for (const auto& task : tasks.partials()) {
    *to++ = task.begin;
    *to++ = task.end;
    *to++ = task.continues;
  }
  return static_cast<int64_t>(tasks.partials().size());
}
"""


class Layout(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("samples", "rows", "units", "inner")]
    _fields_ += [("channels_last", ctypes.c_bool)]


@functools.cache
def library():
    with tempfile.TemporaryDirectory() as folder:
        source, compiled = Path(folder) / "tasks.cpp", Path(folder) / "tasks.so"
        source.write_text(SOURCE)
        command = ["g++", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
        done = subprocess.run(
            [*command, str(source), "-o", str(compiled)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(compiled))
    loaded.ranges.restype = ctypes.c_int64
    return loaded


def tasks(layout, position_points, threads):
    """``(begin, end, continues)`` of each."""
    to = (ctypes.c_int64 * 3000)()
    count = library().ranges(
        ctypes.byref(Layout(*layout, False)), ctypes.c_bool(position_points), ctypes.c_int64(threads), to
    )
    return [tuple(to[3 * i : 3 * i + 3]) for i in range(count)]


# Samples, rows, units, inner; whether points are positions.
LAYOUTS = {
    "rows": ((2**19 + 24, 1, 4096, 1), False),
    "one_column": ((2**31 + 3, 1, 1, 1), False),
    "one_column_of_five_billion": ((5 * 10**9, 1, 1, 1), False),
    "units_last": ((4, 2**30 + 8, 2, 1), False),
    "units_last_positions": ((4, 2**30 + 8, 2, 1), True),
    "planes": ((2**21 + 1, 1, 2048, 2), False),
    "planes_positions": ((2**21 + 1, 1, 2048, 2), True),
    "one_plane": ((1, 1, 1, 2**32), False),
}


@pytest.mark.parametrize("threads", (0, 1, 2, 64, 999))
@pytest.mark.parametrize(("layout", "position_points"), LAYOUTS.values(), ids=LAYOUTS)
def test_places_within_a_task_fit_into_32_bits(layout, position_points, threads):
    samples, rows, units, inner = layout
    matrix_rows = samples * rows * (units if inner > 1 else 1)
    found = tasks(layout, position_points, threads)
    assert len(found) >= min(threads, matrix_rows // 16)
    assert found[0][0] == 0 and found[-1][1] == matrix_rows
    for (_, end, _), (begin, _, continues) in zip(found, found[1:], strict=False):
        assert begin == end
        in_group = position_points and inner > 1  # then a task has whole groups
        rows_per_point = 1 if position_points else matrix_rows // samples
        assert continues == (not in_group and begin % rows_per_point != 0)
        assert not in_group or begin % units == 0
    for begin, end, _ in found:
        assert 0 < end - begin < 2**31


def test_small_activations_are_one_task_for_each_thread():
    assert len(tasks((256, 1, 64, 1), False, 2)) == 2
    assert len(tasks((1, 1, 64, 100), False, 7)) == 7
    assert tasks((5, 1, 64, 1), False, 8) == [(0, 5, 0)]
