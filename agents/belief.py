"""Which image is meant, by how likely a user would have said what was heard: Bayes' rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.state import NOTHING
from retrieval.index import top_k
from user_simulator.base import UserModel

CERTAIN = 1e9  # above every score: what must be among the images that are weighed


@dataclass(frozen=True)
class Weighing:
    """How a belief hears.

    Args:
        pool: images that are weighed at each turn, those that the tracker thinks likeliest.
        slips: share of sentences that are taken to be about some other image. It bounds what one
            sentence can say against an image, so it is also how far a model that does not speak
            quite as the user does is trusted.
        strangers: random images that tell how likely a sentence is when it is a slip.

    Raises:
        ValueError: a share outside [0, 1), or nothing to weigh.
    """

    pool: int = 64
    slips: float = 0.2
    strangers: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.slips < 1:
            raise ValueError(f"expected a share of slips in [0, 1), got {self.slips}")
        if min(self.pool, self.strangers) < 1:
            raise ValueError(
                f"expected at least 1 image to weigh and 1 stranger, got {self.pool} and "
                f"{self.strangers}"
            )


class Heard(NamedTuple):
    """What B dialogs have heard in S turns, and what it says of the images weighed so far."""

    reference: np.ndarray  # (B, S) images on show, -1 before the dialog began
    captions: np.ndarray  # (B, S) str
    slip: np.ndarray  # (B, S) ln of how likely the words are of a random image
    evidence: np.ndarray  # (B, N) sums over the turns that were weighed
    turns: np.ndarray  # (B, N) how many of the S turns were

    def forget(self, rows: np.ndarray) -> Heard:
        """With the dialogs of a mask (B,) begun anew, and no turn that none of them remembers."""
        reference = np.where(rows[:, None], NOTHING, self.reference)
        gone = int((reference == NOTHING).all(0).sum())  # the oldest ones
        return Heard(
            reference[:, gone:],
            self.captions[:, gone:],
            self.slip[:, gone:],
            np.where(rows[:, None], 0.0, self.evidence),
            np.where(rows[:, None], 0, np.maximum(self.turns - gone, 0)),
        )


class Belief:
    r"""What is known of the target from a tracker's scores and a model of the user.

    .. math:: b(g) \propto e^{s(g)} \prod_t \left[ (1 - \epsilon) \, p(c_t | r_t, g) +
        \epsilon \, p(c_t | r_t) \right]

    with s the tracker's scaled scores, c and r the words and the image on show of turn t, p the
    user model's probability of the words if g were meant, p(c | r) its mean over random images:
    a slip speaks of any of them. Bayes' rule with a learnt likelihood; the tracker, who has heard
    the same words, is the prior and says what is worth weighing: the other images keep its order,
    below these.

    An image's earlier turns are weighed when it is first among the likeliest, so each pair of an
    image and a turn is weighed once.

    Args:
        model: of the user.
        size: N, of the gallery.
        how: how to hear.
        rng: draws the strangers.
    """

    def __init__(self, model: UserModel, size: int, how: Weighing, rng: np.random.Generator):
        self.model = model
        self.size = size
        self.how = how
        self._rng = rng

    def hear(self, heard: Heard | None, reference: np.ndarray, captions: list[str]) -> Heard:
        """Remember what was said (B,) of the images on show (B,)."""
        count, strangers = len(reference), self.how.strangers
        other = self._rng.integers(self.size, size=(count, strangers))
        of_others = self._log_likelihood(
            np.repeat(reference, strangers), other.reshape(-1), np.repeat(captions, strangers)
        ).reshape(count, strangers)
        slip = np.logaddexp.reduce(of_others, axis=1) - np.log(strangers)
        told = np.array(captions, dtype=object)
        if heard is None:
            nothing = np.zeros((count, self.size))
            return Heard(
                reference[:, None], told[:, None], slip[:, None], nothing, nothing.astype(np.int16)
            )
        return heard._replace(
            reference=np.column_stack([heard.reference, reference]),
            captions=np.column_stack([heard.captions, told]),
            slip=np.column_stack([heard.slip, slip]),
        )

    def weigh(
        self, prior: np.ndarray, heard: Heard, always: np.ndarray
    ) -> tuple[np.ndarray, Heard]:
        """The belief, as logits (B, N), and what was learnt on the way.

        Args:
            prior: the tracker's scaled scores (B, N); -infinity rules an image out.
            heard: all turns, the last one included.
            always: images to weigh in any case, a mask (B, N).
        """
        pool = top_k(np.where(always, CERTAIN, prior), self.how.pool)  # (B, P)
        evidence = np.take_along_axis(heard.evidence, pool, 1)
        turns = np.take_along_axis(heard.turns, pool, 1)
        for turn in range(heard.reference.shape[1]):
            begun = heard.reference[:, [turn]] != NOTHING
            rows, columns = np.nonzero((turns == turn) & begun)
            meant = self._log_likelihood(
                heard.reference[rows, turn], pool[rows, columns], heard.captions[rows, turn]
            )
            with np.errstate(divide="ignore"):  # no slips: ln 0
                slipped = np.log(self.how.slips) + heard.slip[rows, turn]
            evidence[rows, columns] += np.logaddexp(np.log1p(-self.how.slips) + meant, slipped)
            turns[turns == turn] += 1
        heard = heard._replace(evidence=heard.evidence.copy(), turns=heard.turns.copy())
        np.put_along_axis(heard.evidence, pool, evidence, 1)
        np.put_along_axis(heard.turns, pool, turns, 1)
        weighed = np.take_along_axis(prior, pool, 1) + evidence  # (B, P)
        others = prior.astype(np.float64)
        np.put_along_axis(others, pool, -np.inf, 1)
        best = others.max(1, keepdims=True)
        below = np.where(np.isfinite(weighed), weighed, np.inf).min(1, keepdims=True) - 1
        with np.errstate(invalid="ignore"):  # where the pool is the gallery
            logits = np.where(np.isfinite(others), others - best + below, -np.inf)
        np.put_along_axis(logits, pool, weighed, 1)
        return logits, heard

    def _log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: np.ndarray
    ) -> np.ndarray:
        """Of words of pairs, float64; equal questions are asked once."""
        told = self.model.log_likelihood(reference, target, list(captions))
        return told.astype(np.float64)
