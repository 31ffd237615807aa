"""Short samples on one thread, and a stand-in for the authors' checkout."""

from benchmark_fixtures import authors, short_samples  # noqa: F401  (fixtures)
