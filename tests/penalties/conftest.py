"""Fixtures of process groups."""

import pytest
from ranks import Ranks


@pytest.fixture(scope="module", params=(2, 4), ids=("two_ranks", "four_ranks"))
def ranks(request):
    ranks = Ranks(request.param)
    yield ranks
    ranks.close()
