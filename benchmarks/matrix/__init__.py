"""The tests under every PyTorch that the metadata promises: the oldest, the pinned and the newest."""
