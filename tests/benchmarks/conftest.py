"""Short samples on one thread, a stand-in for the authors' checkout, and a folder of made-up results."""

from benchmark_fixtures import authors, short_samples  # noqa: F401  (fixtures)
from made_up_results import folder  # noqa: F401  (a fixture)
