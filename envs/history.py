"""The states of a dialog as a picture and as text, slates included: what `render` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from envs.dialog import Dialog, DialogState
from envs.drawing import draw_dialog, transcript
from envs.state import NOTHING
from envs.tiling import tile


def draw_history(
    dialog: Dialog,
    history: Sequence[DialogState],
    row: int = 0,
    believed: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """The strip of one dialog of a batch: its states from turn 0 on.

    For `believed` see `envs.drawing.draw_dialog`.

    Raises:
        ValueError: the gallery has no pictures.
    """
    pictures = dialog.gallery.pictures
    if pictures is None:
        raise ValueError("this gallery has no pictures to draw; use the render mode 'ansi'")
    target = history[0].target[row]
    height = slate_height(dialog.slate)
    return draw_dialog(
        [draw_slate(pictures, state.slate[row], target, state.reference[row], height)
         for state in history],
        [state.captions[row] for state in history],
        pictures[target],
        [float(state.rank[row]) for state in history],
        len(dialog.gallery),
        dialog.max_turns,
        [bool(state.found[row]) for state in history],
        height,
        believed,
    )  # fmt: skip


def draw_slate(
    pictures: np.ndarray | Mapping[int, np.ndarray],
    slate: np.ndarray,
    target: int,
    picked: int,
    height: int,
) -> np.ndarray:
    """What is on show at one turn: the picture itself, or the tiles of several.

    Args:
        pictures: of the gallery, or those of the images on show by their numbers.
        slate: images on show (K,), -1 where there are fewer.
        target: the image in mind: framed.
        picked: the image that the user speaks of: framed.
        height: side of the tiles' square.
    """
    images = [int(image) for image in slate if image != NOTHING]
    if len(images) == 1:
        return np.asarray(pictures[images[0]])
    at = images.index(target) if target in images else None
    return tile([pictures[image] for image in images], images.index(picked), at, height)


def slate_height(slate: int) -> int:
    """Pixels of the square in which a turn is drawn: more where it holds several images."""
    return 128 if slate == 1 else 192


def transcribe_history(dialog: Dialog, history: Sequence[DialogState], row: int = 0) -> str:
    """The words of one dialog of a batch."""
    return transcript(
        [state.captions[row] for state in history],
        [name_slate(dialog.gallery.names, state.slate[row], state.reference[row])
         for state in history],
        [float(state.rank[row]) for state in history],
        [bool(state.found[row]) for state in history],
    )  # fmt: skip


def name_slate(names: Sequence[str], slate: np.ndarray, picked: int) -> str:
    """The name of the image picked, and of those beside it on the slate.

    Example:
        >>> name_slate(["boot", "pump", "clog"], np.array([2, 0, 1]), 0)
        'boot (beside clog, pump)'
    """
    others = [names[image] for image in slate if image not in (NOTHING, picked)]
    return names[picked] + (f" (beside {', '.join(others)})" if others else "")
