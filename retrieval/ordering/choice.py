"""From an order of one's own to one of the candidates: the Levenshtein ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def ratio(one: Sequence[object], other: Sequence[object]) -> float:
    """How alike two sequences are: twice the longest common subsequence over both lengths.

    Equal to (n + m - d) / (n + m) with d the fewest insertions and deletions that lead from one
    to the other, which is what python-Levenshtein calls `ratio`; two empty ones are equal.

    Example:
        >>> ratio("41253", "41523"), ratio("12345", "54321")
        (0.8, 0.2)
    """
    total = len(one) + len(other)
    return 2 * _common(one, other) / total if total else 1.0


def choose(order: Sequence[object], candidates: Sequence[Sequence[T]]) -> Sequence[T]:
    """The candidate most like an order; the first of equals, as published.

    Example:
        >>> choose("41523", ["12345", "41253", "14523"])
        '41253'
    """
    return max(candidates, key=lambda candidate: ratio(order, candidate))


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(other) + 1)  # of what was read of `one` and each beginning of `other`
    for item in one:
        diagonal = 0
        for at, against in enumerate(other, start=1):
            above = best[at]
            best[at] = diagonal + 1 if item == against else max(above, best[at - 1])
            diagonal = above
    return best[-1]
