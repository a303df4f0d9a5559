"""The rules of the dialog, for B dialogs at once. The one place that sees index and user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from envs.slates import POOL, SLATES, SlateRule
from envs.state import NOTHING, DialogState, among
from retrieval.errors import unknown
from retrieval.gallery import Gallery
from retrieval.index import Found, Index
from retrieval.text import Vocabulary
from user_simulator.base import Draws, User
from user_simulator.judging import judge_of

__all__ = ["CAPTION_LENGTH", "Dialog", "DialogState", "Observation", "draw_pair"]

Observation = dict[str, np.ndarray]
CAPTION_LENGTH = 16


class Dialog:
    """The dialog's rules. It keeps nothing: state in, state out.

    With slates of K > 1 images, the user picks the one nearest to the target by their own
    judgement (`user_simulator.judging`), which becomes the reference; the target itself is always
    recognised. Ranks are by the query, whatever is on the slate and whatever was shown before.

    Args:
        gallery: what can be shown.
        index: how a query finds an image of it.
        user: who speaks.
        vocabulary: spells captions as token ids in observations.
        max_turns: T.
        slate: K, how many images are shown at each turn (the first reference stands alone).
        slate_by: how the K are chosen for a query: a name in `SLATES`, or such a rule.
        never_repeat: leave out images that the dialog has shown before.
        patience: the user leaves after so many turns in a row that showed nothing nearer to the
            target, by their own judgement, than what was shown before; None never leaves.

    Raises:
        ValueError: the index is of another gallery, there is no turn to play, the slate does not
            fit the gallery (over all turns, if it never repeats), an unknown rule, no patience.
    """

    def __init__(
        self,
        gallery: Gallery,
        index: Index,
        user: User,
        vocabulary: Vocabulary,
        max_turns: int = 5,
        slate: int = 1,
        slate_by: str | SlateRule = "greedy",
        never_repeat: bool = False,
        patience: int | None = None,
    ):
        if index.size != len(gallery):
            raise ValueError(f"expected an index of {len(gallery)} images, got {index.size}")
        _check_lengths(len(gallery), max_turns, slate, never_repeat, patience)
        if isinstance(slate_by, str) and slate_by not in SLATES:
            raise unknown("rule for slates", slate_by, SLATES)
        self.gallery = gallery
        self.index = index
        self.user = user
        self.vocabulary = vocabulary
        self.max_turns = max_turns
        self.slate = slate
        self.slate_by = slate_by
        self.never_repeat = never_repeat
        self.patience = patience

    def with_(self, **changes: Any) -> Dialog:
        """The same dialog with another index, user, number of turns, slate, ..."""
        return Dialog(**{**vars(self), **changes})

    def __deepcopy__(self, memo: dict[int, Any]) -> Dialog:
        return self  # nothing in it changes, and a copy of the gallery would be large

    def start(self, target: np.ndarray, reference: np.ndarray) -> DialogState:
        """Turn 0: the references are on show, and their own embeddings are the queries."""
        target, reference = np.asarray(target, np.int64), np.asarray(reference, np.int64)
        rank = self.index.rank(self.index.query_of(reference), target)
        turn = np.zeros(len(target), dtype=np.int64)
        seen = 1 + self.slate * self.max_turns if self.never_repeat else 0
        state = DialogState(
            target, reference, turn, rank, rank, ("",) * len(target), len(self.gallery),
            slate=_alone(reference, self.slate),
            shown=_alone(reference, seen),
            nearest=np.zeros(len(target)),
            stalled=turn.copy(),
        )  # fmt: skip
        if self.patience is None:
            return state
        return replace(state, nearest=self._distances(state, reference[:, None])[:, 0])

    def show(self, before: DialogState, query: np.ndarray) -> DialogState:
        """Answer queries (B, D): each one's best matches are shown, chosen by `slate_by`."""
        if self.slate_by == "greedy" or self.slate == 1:
            found = self._look_up(before, query, self.slate)
            return self._shown(before, found.candidates[:, : self.slate], found.rank)
        rule = SLATES[self.slate_by] if isinstance(self.slate_by, str) else self.slate_by
        free = max(self.slate, len(self.gallery) - before.shown.shape[1])
        pool = self._look_up(before, query, min(POOL * self.slate, free))
        columns = rule(pool.scores, self.gallery.features[pool.candidates], self.slate)  # (B, K)
        return self._shown(before, np.take_along_axis(pool.candidates, columns, 1), pool.rank)

    def show_queries(self, before: DialogState, queries: np.ndarray) -> DialogState:
        """Show the best match of each of K queries (B, K, D) that is not yet on the slate.

        The first query is what the agent asks for, and ranks are by it; the others only say
        what else to show.
        """
        self._check_slate(queries, "queries (B, {}, D)", dimensions=3)
        queries = np.asarray(queries, np.float32)
        slate = np.empty((len(queries), 0), np.int64)
        for column in range(self.slate):
            taken = np.concatenate([before.shown, slate], axis=1)
            slate = np.column_stack([slate, self._first_free(queries[:, column], taken)])
        return self._shown(before, slate, self.index.rank(queries[:, 0], before.target))

    def show_image(
        self, before: DialogState, image: np.ndarray, query: np.ndarray | None = None
    ) -> DialogState:
        """Show images (B,) chosen by number, alone.

        The rank is by queries (B, D), or by similarity to the images if None.
        """
        return self._show_chosen(before, np.asarray(image, np.int64)[:, None], query)

    def show_slate(
        self, before: DialogState, slate: np.ndarray, query: np.ndarray | None = None
    ) -> DialogState:
        """Show slates (B, K) chosen by number.

        An image that is on the slate twice, or was shown before in a dialog that never repeats,
        gives way to the most similar one that is free.

        Args:
            before: the state.
            slate: numbers of images (B, K).
            query: what ranks are by (B, D); similarity to the first image of the slate if None.
        """
        self._check_slate(slate, "slates (B, {})", dimensions=2)
        return self._show_chosen(before, np.asarray(slate, np.int64), query)

    def listen(self, state: DialogState, rng: Draws) -> DialogState:
        """The users speak about the references on show."""
        return replace(
            state, captions=tuple(self.user.describe(state.reference, state.target, rng))
        )

    def left(self, state: DialogState) -> np.ndarray:
        """Whether the users have lost patience (B,)."""
        if self.patience is None:
            return np.zeros(len(state.turn), dtype=bool)
        return state.stalled >= self.patience

    def terminated(self, state: DialogState) -> np.ndarray:
        """Whether the dialogs came to an end (B,): found, left, or of one turn alone."""
        return (state.turn > 0) & (state.found | self.left(state) | (self.max_turns == 1))

    def search(self, state: DialogState, query: np.ndarray, count: int) -> np.ndarray:
        """The best images (B, count) for queries (B, D) that the dialogs may still show."""
        skipped = state.most_shown
        near = self.index.search(query, self._at_most(count + skipped))
        return near[:, :count] if not skipped else _free_first(near, near, state.shown, count)

    def candidates(self, state: DialogState, count: int) -> np.ndarray:
        """The images (B, K) most similar to the references on show, without these themselves."""
        query = self.index.query_of(state.reference)
        if self.never_repeat:
            return self.search(state, query, count)
        near = self.index.search(query, count + 1)  # (B, K + 1)
        others = near != state.reference[:, None]
        others[others.all(1), -1] = False  # the reference tied out of the list: drop the last
        return near[others].reshape(len(near), -1)

    def observe(self, state: DialogState) -> Observation:
        """What the agents see: features of the reference, token ids of the caption, the turn."""
        return {
            "reference": self.gallery.features[state.reference],  # (B, F)
            "caption": self.vocabulary.encode(state.captions, CAPTION_LENGTH),  # (B, L)
            "turn": state.turn[:, None].copy(),  # (B, 1)
        }

    def _look_up(self, before: DialogState, query: np.ndarray, count: int) -> Found:
        """Candidates (B, count) that may be shown with scores, and ranks among all images."""
        skipped = before.most_shown
        found = self.index.look_up(query, before.target, self._at_most(count + skipped))
        if not skipped:
            return found
        candidates, scores, rank = found
        return Found(
            _free_first(candidates, candidates, before.shown, count),
            _free_first(scores, candidates, before.shown, count),
            rank,
        )

    def _first_free(self, query: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """The best match (B,) of each query (B, D) that is not taken (B, S)."""
        near = self.index.search(query, self._at_most(taken.shape[1] + 1))
        return _free_first(near, near, taken, 1)[:, 0]

    def _show_chosen(
        self, before: DialogState, slate: np.ndarray, query: np.ndarray | None
    ) -> DialogState:
        """Show images (B, k) after replacing those that may not be shown (again)."""
        slate = slate.copy()
        for column in range(slate.shape[1]):
            taken = np.concatenate([before.shown, slate[:, :column]], axis=1)
            rows = np.flatnonzero((taken == slate[:, [column]]).any(1))
            if len(rows):
                alike = self.index.query_of(slate[rows, column])
                slate[rows, column] = self._first_free(alike, taken[rows])
        query = self.index.query_of(slate[:, 0]) if query is None else query
        return self._shown(before, slate, self.index.rank(query, before.target))

    def _shown(self, before: DialogState, slate: np.ndarray, rank: np.ndarray) -> DialogState:
        """The state when images (B, k) are on show and the users have picked theirs."""
        reference, nearest, stalled = slate[:, 0], before.nearest, before.stalled
        if slate.shape[1] > 1 or self.patience is not None:
            distance = self._distances(before, slate)
            reference = slate[np.arange(len(slate)), distance.argmin(1)]
            if self.patience is not None:
                found_before, now = before.nearest < 0, distance.min(1)
                stalled = np.where((now < nearest) | found_before, 0, stalled + 1)
                nearest = np.minimum(nearest, now)
        return replace(
            before,
            reference=reference,
            turn=before.turn + 1,
            rank=rank,
            best_rank=np.minimum(before.best_rank, rank),
            captions=("",) * len(slate),
            slate=_padded(slate, self.slate),
            shown=before.with_shown(slate) if self.never_repeat else before.shown,
            nearest=nearest,
            stalled=stalled,
        )

    def _distances(self, state: DialogState, image: np.ndarray) -> np.ndarray:
        """How far images (B, k) are from the targets for the users; -1 for the target itself."""
        judged = judge_of(self.user, self.gallery).distance(image, state.target)
        return np.where(image == state.target[:, None], -1.0, judged)

    def _at_most(self, count: int) -> int:
        return min(count, len(self.gallery))

    def _check_slate(self, given: np.ndarray, what: str, dimensions: int) -> None:
        shape = np.shape(given)
        if len(shape) != dimensions or shape[1] != self.slate:
            raise ValueError(f"expected {what.format(self.slate)}, got {shape}")


def _check_lengths(
    size: int, max_turns: int, slate: int, never_repeat: bool, patience: int | None
) -> None:
    """Refuse numbers that make no dialog with a gallery of N images."""
    if max_turns < 1:
        raise ValueError(f"expected at least 1 turn, got max_turns={max_turns}")
    if not 1 <= slate < size:
        raise ValueError(
            f"expected a slate of 1 to {size - 1} images of a gallery of {size}, got {slate}"
        )
    if never_repeat and slate * max_turns >= size:
        raise ValueError(
            f"{max_turns} turns of {slate} images that never repeat need a gallery of more than "
            f"{slate * max_turns} images, got {size}"
        )
    if patience is not None and patience < 1:
        raise ValueError(f"expected a patience of at least 1 turn, got {patience}")


def _alone(image: np.ndarray, width: int) -> np.ndarray:
    """Rows (B, width) that hold one image each, if there is room."""
    return _padded(image[:, None], width)[:, :width]


def _padded(slate: np.ndarray, width: int) -> np.ndarray:
    missing = width - slate.shape[1]
    if missing <= 0:
        return slate
    return np.pad(slate, ((0, 0), (0, missing)), constant_values=NOTHING)


def _free_first(
    values: np.ndarray, images: np.ndarray, taken: np.ndarray, count: int
) -> np.ndarray:
    """The first `count` of values (B, M) whose images (B, M) are not among those taken (B, S)."""
    order = np.argsort(among(images, taken), axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, order, axis=1)


def draw_pair(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """A random (target, reference) of two different images."""
    target = int(rng.integers(size))
    return target, (target + 1 + int(rng.integers(size - 1))) % size
