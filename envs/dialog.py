"""The rules of the dialog, for B dialogs at once. The one place that sees index and user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrieval.gallery import Gallery
from retrieval.index import Index
from retrieval.text import Vocabulary
from user_simulator.base import Draws, User

Observation = dict[str, np.ndarray]
CAPTION_LENGTH = 16
_ARRAYS = ("target", "reference", "turn", "rank", "best_rank")


@dataclass(frozen=True)
class DialogState:
    """Where B dialogs stand.

    Args:
        target: images the users have in mind (B,), hidden from the agent.
        reference: images on show (B,).
        turn: candidates shown so far (B,).
        rank: the targets' ranks under the last query (B,).
        best_rank: smallest ranks so far (B,).
        captions: what the users say of the reference on show; "" before they speak.
        size: number N of images in the gallery.
    """

    target: np.ndarray
    reference: np.ndarray
    turn: np.ndarray
    rank: np.ndarray
    best_rank: np.ndarray
    captions: tuple[str, ...]
    size: int

    @property
    def found(self) -> np.ndarray:
        """Whether the target is on show (B,)."""
        return self.reference == self.target

    @property
    def percentile(self) -> np.ndarray:
        """Rank percentiles (B,): 1 is best, 0.5 is chance."""
        return 1.0 - self.rank / (self.size - 1)

    def rows(self, chosen: np.ndarray) -> DialogState:
        """The state of some of the dialogs, by index array (which may repeat rows)."""
        arrays: dict[str, Any] = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        return replace(self, captions=tuple(self.captions[row] for row in chosen), **arrays)

    def with_rows(self, chosen: np.ndarray, other: DialogState) -> DialogState:
        """A state in which the chosen rows are those of another state."""
        arrays: dict[str, Any] = {name: getattr(self, name).copy() for name in _ARRAYS}
        for name, array in arrays.items():
            array[chosen] = getattr(other, name)
        captions = list(self.captions)
        for row, caption in zip(chosen, other.captions, strict=True):
            captions[row] = caption
        return replace(self, captions=tuple(captions), **arrays)


class Dialog:
    """The dialog's rules. It keeps nothing: state in, state out.

    Args:
        gallery: what can be shown.
        index: how a query finds an image of it.
        user: who speaks.
        vocabulary: spells captions as token ids in observations.
        max_turns: T.

    Raises:
        ValueError: the index is of another gallery, or there is no turn to play.
    """

    def __init__(
        self,
        gallery: Gallery,
        index: Index,
        user: User,
        vocabulary: Vocabulary,
        max_turns: int = 5,
    ):
        if index.size != len(gallery):
            raise ValueError(f"expected an index of {len(gallery)} images, got {index.size}")
        if max_turns < 1:
            raise ValueError(f"expected at least 1 turn, got max_turns={max_turns}")
        self.gallery = gallery
        self.index = index
        self.user = user
        self.vocabulary = vocabulary
        self.max_turns = max_turns

    def with_(self, **changes: Any) -> Dialog:
        """The same dialog with another index, user or number of turns."""
        parts = {
            "gallery": self.gallery,
            "index": self.index,
            "user": self.user,
            "vocabulary": self.vocabulary,
            "max_turns": self.max_turns,
        }
        return Dialog(**{**parts, **changes})

    def __deepcopy__(self, memo: dict[int, Any]) -> Dialog:
        return self  # nothing in it changes, and a copy of the gallery would be large

    def start(self, target: np.ndarray, reference: np.ndarray) -> DialogState:
        """Turn 0: the references are on show, and their own embeddings are the queries."""
        target, reference = np.asarray(target, np.int64), np.asarray(reference, np.int64)
        rank = self.index.rank(self.index.query_of(reference), target)
        turn = np.zeros(len(target), dtype=np.int64)
        silent = ("",) * len(target)
        return DialogState(target, reference, turn, rank, rank, silent, len(self.gallery))

    def show(self, before: DialogState, query: np.ndarray) -> DialogState:
        """Answer queries (B, D): each one's best match becomes the next reference."""
        found = self.index.look_up(query, before.target)
        return self._shown(before, found.candidates[:, 0], found.rank)

    def show_image(self, before: DialogState, image: np.ndarray) -> DialogState:
        """Show images (B,) chosen by number; the target's rank is by similarity to them."""
        image = np.asarray(image, np.int64)
        return self._shown(
            before, image, self.index.rank(self.index.query_of(image), before.target)
        )

    def listen(self, state: DialogState, rng: Draws) -> DialogState:
        """The users speak about the references on show."""
        return replace(
            state, captions=tuple(self.user.describe(state.reference, state.target, rng))
        )

    def candidates(self, state: DialogState, count: int) -> np.ndarray:
        """The images (B, K) most similar to the references on show, without these themselves."""
        near = self.index.search(self.index.query_of(state.reference), count + 1)  # (B, K + 1)
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

    def _shown(self, before: DialogState, image: np.ndarray, rank: np.ndarray) -> DialogState:
        return replace(
            before,
            reference=image,
            turn=before.turn + 1,
            rank=rank,
            best_rank=np.minimum(before.best_rank, rank),
            captions=("",) * len(image),
        )


def draw_pair(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """A random (target, reference) of two different images."""
    target = int(rng.integers(size))
    return target, (target + 1 + int(rng.integers(size - 1))) % size
