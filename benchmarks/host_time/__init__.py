"""What the host takes for a call on a GPU, measured without one: ``python -m benchmarks.host_time``."""
