"""The C++ extension, from its sources to a file that can be loaded.

:mod:`~jumpstart_kernels.building.recipe` says how it is compiled, for ``setup.py`` as for a build at first
use, :mod:`~jumpstart_kernels.building.toolchain` with what and for which torch, and
:mod:`~jumpstart_kernels.building.cache` keeps what was built at first use.
"""
