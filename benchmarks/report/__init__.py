"""The figures and tables of README.md and docs/benchmarks.md, from the stored results."""
