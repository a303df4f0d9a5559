"""The protocol of a user, and where a user's chances come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


class Draws(Protocol):
    """What a user draws from: anything with the `random` of a NumPy generator."""

    def random(self, size: tuple[int, int]) -> np.ndarray:
        """Uniform numbers in [0, 1) of the given shape (B, M)."""
        ...


class User(Protocol):
    """Someone who has a target image in mind and sees a reference image."""

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """Say how each target differs from its reference.

        Args:
            reference: images on show (B,).
            target: images in mind (B,).
            rng: the source of chance. A user draws one row of numbers per dialog, the same
                number whatever is said, so that a dialog's words depend on its own row alone.

        Returns:
            B captions.
        """
        ...


@runtime_checkable
class UserModel(User, Protocol):
    """A user of whom it can be told how likely they are to say something.

    Who always says the likeliest words may answer by the chances these were chosen by: what is
    nearly said counts for something then.
    """

    def log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: Sequence[str]
    ) -> np.ndarray:
        """ln of the probability (B,) that these words are said of these pairs.

        Args:
            reference: images on show (B,).
            target: images that might be in mind (B,).
            captions: what was said, B of them. A word that the user never says counts nothing.
        """
        ...


class RowDraws:
    """One generator per dialog: dialog b of a batch speaks as it would on its own.

    Example:
        >>> rows = RowDraws([np.random.default_rng(1), np.random.default_rng(2)])
        >>> alone = np.random.default_rng(2).random((1, 3))
        >>> bool((rows.random((2, 3))[1] == alone[0]).all())
        True
    """

    def __init__(self, generators: Sequence[np.random.Generator]):
        self.generators = generators

    def random(self, size: tuple[int, int]) -> np.ndarray:
        """Row b comes from generator b; `size` is (B, M)."""
        draws = np.empty(size)  # (B, M)
        for generator, row in zip(self.generators, draws, strict=True):
            generator.random(out=row)
        return draws


class SharedDraws:
    """Common random numbers: each row of draws serves `copies` rows in a row of the batch."""

    def __init__(self, rng: Draws, copies: int):
        self.rng = rng
        self.copies = copies

    def random(self, size: tuple[int, int]) -> np.ndarray:
        """(B, M) draws in which rows c, c+1, ..., c+copies-1 of a group are equal."""
        return np.repeat(self.rng.random((size[0] // self.copies, size[1])), self.copies, axis=0)
