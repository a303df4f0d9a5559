"""Choices made one after another from a row of uniform numbers, so that sentences depend on it
alone.

Plain functions: a sentence is some seventeen choices, and sentences are a good part of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Draw = Callable[[], float]
"""Gives the next number of a row."""


def drawing(draws: Sequence[float] | np.ndarray) -> Draw:
    """What gives the numbers of a row, in [0, 1), one by one."""
    # plain numbers: NumPy's own take several times as long one by one
    return iter(draws.tolist() if isinstance(draws, np.ndarray) else draws).__next__


def pick(options: Sequence[T], draw: Draw) -> T:
    """One of the options, each as likely."""
    return options[int(draw() * len(options))]


def pick_weighted(options: Sequence[T], weights: Sequence[float], draw: Draw) -> T:
    """One of the options, in proportion to their weights."""
    at = draw() * sum(weights)
    for place, weight in enumerate(weights):
        at -= weight
        if at < 0:
            return options[place]
    return options[-1]
