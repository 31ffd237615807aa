import pytest

from jumpstart_kernels.ops import native


@pytest.fixture(params=native.instruction_sets() or [pytest.param("", marks=pytest.mark.skip)])
def instruction_set(request):
    """Each that this processor supports, in use."""
    before = native.instruction_set()
    native.extension().use_instruction_set(request.param)
    yield request.param
    native.extension().use_instruction_set(before)
