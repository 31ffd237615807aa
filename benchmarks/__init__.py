"""Benchmarks of the whole: training steps, the stored results, and what the docs make of them."""
