"""A program: compile small cases for an absent GPU, or launch them on a stub of its driver.

It prints how many kernels Triton found in its cache, and how many it compiled.
"""

import sys

from triton import knobs
from triton.runtime.driver import driver

from benchmarks.gpu_package import absent, cases
from jumpstart_kernels.bench.cases import Case
from jumpstart_kernels.ops.triton.launch import Launch

CASES = [Case((33, 7)), Case((3, 5, 9, 7), "bfloat16", "channels_last", bias=True)]
launch = Launch.__call__


class Utilities:
    def load_binary(self, *arguments):
        return "module", "function", 0, 0, 1024  # then registers, spills, most threads

    def get_device_properties(self, device):
        return {"max_shared_mem": 2**17}


class Present(absent.Absent):
    """A driver whose launches do nothing."""

    utils = Utilities()

    def launcher_cls(self, source, metadata):
        return lambda *arguments: None


def main(task):
    counts = {True: 0, False: 0}

    def count(*, cache_hit, **_):
        counts[cache_hit] += 1

    knobs.compilation.listener = count
    absent.install()
    if task == "launch":
        driver.set_active(Present())
        Launch.__call__ = launch
    for case in CASES if task == "compile" else reversed(CASES):  # what is found depends on no order
        cases.run(case)
    print(counts[True], counts[False])


if __name__ == "__main__":
    main(sys.argv[1])
