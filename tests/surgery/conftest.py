"""The models that every test of a round trip runs on."""

import pytest
import torch
from surgery.models import MODELS, build


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def case(request):
    """A model, an input and the options it is replaced with."""
    model, shape, options = request.param
    return build(model), torch.randn(shape, generator=torch.Generator().manual_seed(1)), options
