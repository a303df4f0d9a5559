"""One played dialog as a picture."""

from __future__ import annotations

import numpy as np

from agents.evaluation import Played
from envs.dialog import Dialog


def draw_played(dialog: Dialog, played: Played, row: int, target: int) -> np.ndarray:
    """The strip of one of the dialogs played, all its turns; slates as tiles.

    Args:
        dialog: the rules it was played by; its gallery must have pictures.
        played: what `run_dialogs` gave.
        row: which of the dialogs.
        target: the image that was in mind.

    Returns:
        A picture (H, W, 3).
    """
    from envs.drawing import draw_dialog
    from envs.history import draw_slate, slate_height

    pictures = dialog.gallery.pictures
    assert pictures is not None
    height = slate_height(dialog.slate)
    on_show = zip(played.slates[row], played.shown[row], strict=True)
    return draw_dialog(
        [draw_slate(pictures, slate, target, picked, height) for slate, picked in on_show],
        played.captions[row],
        pictures[target],
        played.ranks[row].tolist() if np.isfinite(played.ranks[row]).all() else None,
        len(dialog.gallery),
        dialog.max_turns,
        (played.shown[row] == target).tolist(),
        height,
    )
