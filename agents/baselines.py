"""Floor and ceiling of a benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.actions import ActionMode
from envs.dialog import Observation
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex, ScoreIndex
from retrieval.text import Vocabulary
from user_simulator.judging import Judge, nearer
from user_simulator.listening import listener_of


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

    Of slates it sees all images. None of them is the target, or the dialog were over; and with a
    judge it also counts against an image that another one on the slate is nearer to it than the
    one the user picked.

    Args:
        gallery: of CSS scenes or of a catalogue's products.
        vocabulary: spells the captions.
        rng: for the choice among equals.
        judge: the user's own judgement (`user_simulator.judge_of`), or None not to read picks.

    Raises:
        ValueError: nobody can read captions about the gallery.
    """

    mode = ActionMode(observe_slate=True)

    def __init__(
        self,
        gallery: Gallery,
        vocabulary: Vocabulary,
        rng: np.random.Generator,
        judge: Judge | None = None,
    ):
        try:
            self._listener = listener_of(gallery)
        except ValueError as error:
            raise ValueError(
                "the oracle reads captions about CSS scenes or a catalogue; this gallery has "
                "neither"
            ) from error
        self.index = ScoreIndex(len(gallery))
        self._row_of = {row.tobytes(): at for at, row in enumerate(gallery.features)}
        self._vocabulary = vocabulary
        self._rng = rng
        self._judge = judge

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
            said = self._listener.read(self._vocabulary.decode(ids.tolist()))
            claims = [claim for claim in said if claim]
            for claim in claims:
                table = self._listener.table
                false_claims[row] += ~claim.holds(table[on_show], table)
            if claims and claims[0].kind != "same":  # it is not the one on show, then
                false_claims[row, on_show] += 1
            if "slate" in observation:
                slate = observation["slate"][row].reshape(-1, len(features))  # (K, F)
                self._see(false_claims[row], slate, on_show)
        return self._rng.random(size, dtype=np.float32) * 0.5 - false_claims, false_claims

    def _see(self, false_claims: np.ndarray, slate: np.ndarray, picked: int) -> None:
        """Count (N,) what a slate (K, F) of which one image was picked tells, in place."""
        rows = [self._row_of[features.tobytes()] for features in slate if features.any()]
        others = [image for image in rows if image != picked]
        if not others:
            return
        false_claims[others] += 1
        if self._judge is not None:
            false_claims += nearer(self._judge, picked, np.array(others), len(false_claims))
