"""A listener that knows the attributes and the language: judges captions against scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.gallery import Gallery
from retrieval.rendering.claims import is_faithful, read


class SceneListener:
    """Reads captions about a gallery of CSS scenes.

    Raises:
        ValueError: the gallery is not of CSS scenes.
    """

    def __init__(self, gallery: Gallery):
        if gallery.attributes is None or not gallery.kind.startswith("css"):
            raise ValueError("only captions about CSS scenes can be checked against the truth")
        self._scenes = gallery.attributes.reshape(-1, 9, 3)

    def faithful(self, captions: Sequence[str], pairs: np.ndarray) -> np.ndarray:
        """Which captions (B,) claim nothing false of their pairs (B, 2) = reference, target."""
        return np.array(
            [
                is_faithful(caption, self._scenes[reference], self._scenes[target])
                for caption, (reference, target) in zip(captions, pairs, strict=True)
            ]
        )

    def discriminates(
        self, captions: Sequence[str], pairs: np.ndarray, rng: np.random.Generator, others: int = 10
    ) -> np.ndarray:
        """Chance (B,) of picking the target among distractors from reference and caption.

        The listener keeps the images of which the most clauses are true and guesses among
        them. Distractors are random images of the gallery; 1 / (others + 1) is chance.
        """
        chances = np.zeros(len(captions))
        for row, (caption, (reference, target)) in enumerate(zip(captions, pairs, strict=True)):
            wrong = (target + 1 + rng.integers(len(self._scenes) - 1, size=others)) % len(
                self._scenes
            )
            offered = self._scenes[np.concatenate([[target], wrong])]  # (1 + others, 9, 3)
            true = np.zeros(len(offered))
            for claim in read(caption):
                if claim is not None:
                    true += claim.holds(self._scenes[reference], offered)
            best = true == true.max()
            chances[row] = best[0] / best.sum()
        return chances
