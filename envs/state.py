"""Where B dialogs stand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

NOTHING = -1
"""In place of an image's number where there is no image."""
_ARRAYS = (
    "target", "reference", "turn", "rank", "best_rank", "slate", "shown", "nearest", "stalled",
)  # fmt: skip


@dataclass(frozen=True)
class DialogState:
    """Where B dialogs stand.

    Args:
        target: images the users have in mind (B,), hidden from the agent.
        reference: images on show that the users speak of (B,).
        turn: replies shown so far (B,).
        rank: the targets' ranks under the last query (B,).
        best_rank: smallest ranks so far (B,).
        captions: what the users say of the reference on show; "" before they speak.
        size: number N of images in the gallery.
        slate: all images on show (B, K), the reference among them; -1 where there are fewer.
        shown: images shown so far (B, S), padded with -1; S is 0 unless the dialog never repeats.
        nearest: the smallest distance to the target shown so far (B,), by the user's judgement;
            -1 once the target itself was on show. Kept for users who may lose patience alone.
        stalled: turns in a row that showed nothing nearer than what was shown before (B,).
    """

    target: np.ndarray
    reference: np.ndarray
    turn: np.ndarray
    rank: np.ndarray
    best_rank: np.ndarray
    captions: tuple[str, ...]
    size: int
    slate: np.ndarray
    shown: np.ndarray
    nearest: np.ndarray
    stalled: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Whether the target is on show (B,); where it is, it is the reference."""
        return self.reference == self.target

    @property
    def percentile(self) -> np.ndarray:
        """Rank percentiles (B,): 1 is best, 0.5 is chance."""
        return 1.0 - self.rank / (self.size - 1)

    @property
    def most_shown(self) -> int:
        """The largest number of images that one of the dialogs must not show again."""
        return int((self.shown != NOTHING).sum(1).max()) if self.shown.size else 0

    def was_shown(self, image: np.ndarray) -> np.ndarray:
        """Which images (B, M) their dialogs must not show again."""
        return among(image, self.shown)

    def with_shown(self, slate: np.ndarray) -> np.ndarray:
        """`shown` (B, S) with the images of a slate (B, K) added; wider where there is no room."""
        used = (self.shown != NOTHING).sum(1)  # (B,)
        room = int(used.max(initial=0)) + slate.shape[1]
        shown = _widened(self.shown, max(room, self.shown.shape[1])).copy()
        columns = used[:, None] + np.arange(slate.shape[1])  # (B, K)
        shown[np.arange(len(shown))[:, None], columns] = slate
        return shown

    def rows(self, chosen: np.ndarray) -> DialogState:
        """The state of some of the dialogs, by index array (which may repeat rows)."""
        arrays: dict[str, Any] = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        return replace(self, captions=tuple(self.captions[row] for row in chosen), **arrays)

    def with_rows(self, chosen: np.ndarray, other: DialogState) -> DialogState:
        """A state in which the chosen rows are those of another state."""
        width = max(self.shown.shape[1], other.shown.shape[1])
        arrays: dict[str, Any] = {name: getattr(self, name).copy() for name in _ARRAYS}
        arrays["shown"] = _widened(arrays["shown"], width)
        for name, array in arrays.items():
            new = getattr(other, name)
            array[chosen] = _widened(new, width) if name == "shown" else new
        captions = list(self.captions)
        for row, caption in zip(chosen, other.captions, strict=True):
            captions[row] = caption
        return replace(self, captions=tuple(captions), **arrays)


def among(image: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which images (B, M) are among others (B, S) of the same dialog."""
    result: np.ndarray = (image[:, :, None] == others[:, None]).any(-1)
    return result


def _widened(shown: np.ndarray, width: int) -> np.ndarray:
    """A table (B, S) padded to (B, width)."""
    if shown.shape[1] == width:
        return shown
    return np.pad(shown, ((0, 0), (0, width - shown.shape[1])), constant_values=NOTHING)
