"""Users without chance, for tests that work answers out by hand."""

from typing import Any

import numpy as np

from user_simulator.base import Draws


class Half:
    """Chances that are all one half."""

    def random(self, size: tuple[int, int]) -> np.ndarray:
        """(B, M) halves."""
        return np.full(size, 0.5)


class Steady:
    """The attribute user, who says the same of the same images every time; a model of itself.

    Args:
        user: who speaks.
        own, other: ln of how likely it thinks what it would say, and anything else.
    """

    def __init__(self, user: Any, own: float = -0.01, other: float = -9.0):
        self.user = user
        self._own, self._other = own, other

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """True captions without chance."""
        said: list[str] = self.user.describe(reference, target, Half())
        return said

    def log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: list[str]
    ) -> np.ndarray:
        """One number for what it says, another for anything else."""
        own = self.describe(reference, target, Half())
        alike = [a == b for a, b in zip(own, captions, strict=True)]
        return np.where(alike, self._own, self._other)
