"""Tests with the oldest, the pinned and the newest supported PyTorch."""
