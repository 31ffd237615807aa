"""Benchmarks of training steps and whole trainings, the stored results, and the docs made from them."""
