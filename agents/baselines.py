"""Floor and ceiling of a benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.dialog import Observation
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex, ScoreIndex
from retrieval.rendering.claims import read
from retrieval.text import Vocabulary


class RandomAgent:
    """Asks for anything: scores that are fresh random numbers at every turn.

    Args:
        gallery_size: N.
        rng: where the scores come from.
    """

    def __init__(self, gallery_size: int, rng: np.random.Generator):
        self.index = ScoreIndex(gallery_size)
        self._rng = rng

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Scores (B, N)."""
        size = (len(observation["turn"]), self.index.size)
        return self._rng.random(size, dtype=np.float32), state


class ImageOnlyAgent:
    """Never listens: asks again for what is on show.

    Args:
        gallery: searched by its own features.
    """

    def __init__(self, gallery: Gallery):
        self.index = ExactIndex(gallery.features)

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The references' features (B, F) as queries."""
        return observation["reference"], state


class OracleAgent:
    """Knows the attributes of all images and the language: a version-space search.

    Every image keeps a count of the claims made so far that are false of it, given the
    reference they were made about; the fewest win, and among equals one is drawn at random, as
    posterior sampling would. With a truthful user this is exact; a user who errs costs an image
    one count, not its life. Source of the idea: version spaces, Mitchell 1982.

    Args:
        gallery: of CSS scenes.
        vocabulary: spells the captions.
        rng: for the choice among equals.

    Raises:
        ValueError: the gallery is not of CSS scenes.
    """

    def __init__(self, gallery: Gallery, vocabulary: Vocabulary, rng: np.random.Generator):
        if gallery.attributes is None or not gallery.kind.startswith("css"):
            raise ValueError("the oracle reads captions about CSS scenes; this gallery has none")
        self.index = ScoreIndex(len(gallery))
        self._scenes = gallery.attributes.reshape(-1, 9, 3)
        self._row_of = {row.tobytes(): at for at, row in enumerate(gallery.features)}
        self._vocabulary = vocabulary
        self._rng = rng

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Scores (B, N): minus the false claims, and less than one for the draw."""
        size = (len(observation["turn"]), self.index.size)
        false_claims = np.zeros(size, np.float32) if state is None else state.copy()  # (B, N)
        if episode_start is not None:
            false_claims[np.asarray(episode_start)] = 0
        for row, (features, ids) in enumerate(
            zip(observation["reference"], observation["caption"], strict=True)
        ):
            on_show = self._row_of[features.tobytes()]
            claims = [claim for claim in read(self._vocabulary.decode(ids.tolist())) if claim]
            for claim in claims:
                false_claims[row] += ~claim.holds(self._scenes[on_show], self._scenes)
            if claims and claims[0].kind != "same":  # it is not the one on show, then
                false_claims[row, on_show] += 1
        return self._rng.random(size, dtype=np.float32) * 0.5 - false_claims, false_claims
