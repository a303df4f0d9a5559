"""A user who sometimes misspeaks."""

from __future__ import annotations

import numpy as np

from user_simulator.base import Draws, User


class NoisyUser:
    """Wraps a user who, with probability p, describes another image than the one in mind.

    Only the words slip: which of several images is nearest this user judges as the one wrapped.

    Args:
        user: who speaks.
        probability: share of captions that are about a random wrong image.
        gallery_size: N, the images that a slip may be about.

    Raises:
        ValueError: the probability is not in [0, 1].
    """

    def __init__(self, user: User, probability: float, gallery_size: int):
        if not 0 <= probability <= 1:
            raise ValueError(f"expected a probability in [0, 1], got {probability}")
        self.user = user
        self.probability = probability
        self.gallery_size = gallery_size

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """Captions of which a share is about wrong targets; see `User.describe`."""
        draws = rng.random((len(target), 2))  # (B, 2): whether to slip, and towards what
        other = (target + 1 + (draws[:, 1] * (self.gallery_size - 1)).astype(np.int64)) % (
            self.gallery_size
        )  # never the target itself
        meant = np.where(draws[:, 0] < self.probability, other, target)
        return self.user.describe(reference, meant, rng)
