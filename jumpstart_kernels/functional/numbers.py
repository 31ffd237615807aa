"""Checks of arguments that are plain numbers."""

import math


def check_nonnegative(name: str, number: float) -> float:
    """Raise for anything but a finite, nonnegative number."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {number}")
    return float(number)


def check_ratio(name: str, number: float) -> float:
    """Raise for anything but a number in [0, 1]."""
    if check_nonnegative(name, number) > 1:
        raise ValueError(f"{name} must be in [0, 1], got {number}")
    return float(number)


def check_count(name: str, number: int, least: int = 0) -> int:
    """Raise for anything but an int of at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an int, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
