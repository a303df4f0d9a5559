"""Which image is meant, by how likely a user would have said what was heard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.state import NOTHING
from retrieval.index import top_k
from user_simulator.base import Draws, UserModel


@dataclass(frozen=True)
class Weighing:
    """How a belief hears.

    Args:
        pool: images that are weighed at each turn, those that the tracker thinks likeliest, beside
            what was on show.
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
        if not rows.any():
            return self
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
    a slip speaks of any of them.

    This would be Bayes' rule, were s what is known without the words. But the tracker has heard
    them too: they count twice, as the opinions of two who heard them, and the belief is surer
    than it should be; what one sentence can say against an image is bounded by the slips. The
    tracker also says what is worth weighing: the other images keep its order, below these.

    An image's earlier turns are weighed when it is first among the likeliest, so each pair of an
    image and a turn is weighed once.

    Args:
        model: of the user.
        size: N, of the gallery.
        how: how to hear.
        rng: draws the strangers, once for all dialogs.
    """

    def __init__(self, model: UserModel, size: int, how: Weighing, rng: np.random.Generator):
        self.model = model
        self.size = size
        self.how = how
        self._strangers = rng.choice(size, min(how.strangers, size), replace=False)

    def hear(self, heard: Heard | None, reference: np.ndarray, captions: list[str]) -> Heard:
        """Remember what was said (B,) of the images on show (B,)."""
        count, others = len(reference), np.tile(self._strangers, len(reference))
        told = np.array(captions, dtype=object)
        of_others = self._log_likelihood(
            reference.repeat(len(self._strangers)), others, told.repeat(len(self._strangers))
        ).reshape(count, -1)
        slip = np.logaddexp.reduce(of_others, axis=1) - np.log(len(self._strangers))
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
            always: images to weigh beside the pool (B, A), padded with -1.
        """
        rest = np.where(listed(always, self.size), -np.inf, prior)
        best = top_k(rest, self.how.pool)  # (B, P)
        # where there is nothing more to weigh, the best one is named again
        pool = np.concatenate([best, np.where(always == NOTHING, best[:, :1], always)], axis=1)
        evidence = np.take_along_axis(heard.evidence, pool, 1)
        turns = np.take_along_axis(heard.turns, pool, 1)
        for turn in range(heard.reference.shape[1]):
            begun = heard.reference[:, [turn]] != NOTHING
            rows, columns = np.nonzero((turns == turn) & begun)
            meant = self._log_likelihood(
                heard.reference[rows, turn], pool[rows, columns], heard.captions[rows, turn]
            )
            evidence[rows, columns] += self._or_slip(meant, heard.slip[rows, turn])
            turns[turns == turn] += 1
        heard = heard._replace(evidence=heard.evidence.copy(), turns=heard.turns.copy())
        np.put_along_axis(heard.evidence, pool, evidence, 1)
        np.put_along_axis(heard.turns, pool, turns, 1)
        weighed = np.take_along_axis(prior, pool, 1) + evidence  # (B, P + A)
        others = prior.astype(np.float64)
        np.put_along_axis(others, pool, -np.inf, 1)
        below = finite_or(np.where(np.isfinite(weighed), weighed, np.inf).min(1), 0.0) - 1
        above = finite_or(others.max(1), 0.0)
        logits = others - (above - below)[:, None]
        np.put_along_axis(logits, pool, weighed, 1)
        return logits, heard

    def expected(
        self,
        candidates: np.ndarray,
        images: np.ndarray,
        logits: np.ndarray,
        rng: Draws,
    ) -> np.ndarray:
        r"""What showing each candidate is expected to come to (B, K); smaller is better.

        .. math:: \sum_g b(g) \, [c \ne g] \, (1 + \log_2(1 + rank(g | c, u(c, g))))

        where u are the words of the user model about the candidate c if g is meant, and the rank
        is g's among the M images once these words were weighed too. Here a slip is of the M: how
        likely words are then is their mean under the belief, not over random images.

        Args:
            candidates: images that might be shown (B, K).
            images: those that the target is thought to be among (B, M).
            logits: the belief in them (B, M).
            rng: of the user model's words.
        """
        dialogs, count, among = *candidates.shape, images.shape[1]
        belief = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)  # (B, M)
        chance, prior = np.exp(belief), belief[:, None, None]
        shown = candidates.repeat(among, axis=1).ravel()  # (B K M,)
        meant = np.tile(images, (1, count)).ravel()
        said = np.array(self.model.describe(shown, meant, rng), dtype=object)
        weighed = self._log_likelihood(
            shown.repeat(among), np.tile(images[:, None], (1, count * among, 1)).ravel(),
            said.repeat(among),
        ).reshape(dialogs, count, among, among)  # fmt: skip
        # words g (axis 2), weighed for each image (axis 3)
        slip = np.logaddexp.reduce(weighed + prior, axis=3, keepdims=True)
        after = prior + self._or_slip(weighed, slip)
        found = candidates[:, :, None] == images[:, None]  # (B, K, M)
        after = np.where(found[:, :, None], -np.inf, after)  # who still speaks does not mean it
        own = np.diagonal(after, axis1=2, axis2=3)[..., None]  # (B, K, M, 1)
        rank = (after > own).sum(3) + ((after == own).sum(3) - 1) / 2
        loss = np.where(found, 0.0, 1 + np.log2(1 + rank))
        expected: np.ndarray = np.einsum("bm,bkm->bk", chance, loss)
        return expected

    def _or_slip(self, meant: np.ndarray, slip: np.ndarray) -> np.ndarray:
        """ln of how likely words are that were meant, or slipped out."""
        with np.errstate(divide="ignore"):  # no slips: ln 0
            slipped = np.log(self.how.slips) + slip
        mixed: np.ndarray = np.logaddexp(np.log1p(-self.how.slips) + meant, slipped)
        return mixed

    def _log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: np.ndarray
    ) -> np.ndarray:
        """Of the words of pairs, in float64."""
        told = self.model.log_likelihood(reference, target, captions.tolist())
        return np.asarray(told, np.float64)


def listed(images: np.ndarray, size: int) -> np.ndarray:
    """Which of N images are on each row of lists (B, S), padded with -1: (B, N)."""
    mask = np.zeros((len(images), size + 1), dtype=bool)
    mask[np.arange(len(images))[:, None], images] = True  # -1 marks the column that goes
    return mask[:, :-1]


def finite_or(values: np.ndarray, other: float) -> np.ndarray:
    """Values, or another one in place of those that are not finite."""
    told: np.ndarray = np.where(np.isfinite(values), values, other)
    return told
