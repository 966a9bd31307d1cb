"""Checks of arguments: each says what must hold, what came and, where it can, what to do."""

import math
import numbers
from collections.abc import Iterable


def positive_int(name: str, value: object) -> int:
    """Return `value` as an `int` of at least 1, or raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1. Received: {value!r}.")
    return int(value)


def positive_float(name: str, value: object) -> float:
    """Return `value` as a finite `float` above 0, or raise `ValueError`."""
    number = _finite(name, value, "a finite number above 0")
    if number <= 0:
        raise ValueError(f"`{name}` must be a finite number above 0. Received: {value!r}.")
    return number


def non_negative_float(name: str, value: object) -> float:
    """Return `value` as a finite `float` of at least 0, or raise `ValueError`."""
    number = _finite(name, value, "a finite number of at least 0")
    if number < 0:
        raise ValueError(f"`{name}` must be a finite number of at least 0. Received: {value!r}.")
    return number


def open_probability(name: str, value: object) -> float:
    """Return `value` as a `float` strictly between 0 and 1, or raise `ValueError`."""
    number = _finite(name, value, "strictly between 0 and 1")
    if not 0 < number < 1:
        raise ValueError(f"`{name}` must lie strictly between 0 and 1. Received: {value!r}.")
    return number


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Return `value` when it is one of the `known` names, or raise `ValueError` with the list."""
    names = sorted(known)
    if not isinstance(value, str) or value not in names:
        listed = ", ".join(repr(known_name) for known_name in names)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {value!r}.")
    return value


def _finite(name: str, value: object, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be {wanted}. Received: {value!r}.")
    return float(value)
