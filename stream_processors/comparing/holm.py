"""PURE. Many p-values at once, held to one family-wise error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name")


def adjusted(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Each p-value as Holm's step-down counts it, the smallest first: what is at most `alpha` is rejected at that error.

    The k-th smallest of m counts (m - k + 1) times, at most 1, and never less than the one before it. Holds under any
    dependence. Cost O(m log m). Holm 1979, Scandinavian Journal of Statistics 6:65.

    >>> adjusted({"a": 0.02, "b": 0.0625, "c": 0.001})
    {'c': 0.003, 'a': 0.04, 'b': 0.0625}
    """
    found: dict[Name, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        worst = max(worst, min(1.0, p_values[name] * (len(p_values) - rank)))
        found[name] = worst
    return found
