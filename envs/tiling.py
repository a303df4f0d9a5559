"""A slate as one picture: its images side by side, the picked one and the target framed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from envs.drawing import EMPTY, FOUND, PAPER, Colour

PICKED: Colour = (37, 99, 235)
"""Frames the image that the user picked."""
FRAME = 3
GAP = 2


def tile(
    pictures: Sequence[np.ndarray],
    picked: int,
    target: int | None,
    side: int,
) -> np.ndarray:
    """Lay up to K pictures out on a square grid, in the order shown, row by row.

    Args:
        pictures: each uint8 (H, W, 3) of any size; each is brought to the size of its place.
        picked: which one the user picked: framed in `PICKED`.
        target: which one is the target: framed in `drawing.FOUND` instead; None if none is.
        side: pixels of the square.

    Returns:
        uint8 (side, side, 3).
    """
    across = int(np.ceil(np.sqrt(len(pictures))))
    place = side // across
    size = place - 2 * (FRAME + GAP)
    canvas = Image.new("RGB", (side, side), PAPER)
    pen = ImageDraw.Draw(canvas)
    for at, picture in enumerate(pictures):
        row, column = divmod(at, across)
        left, top = column * place + FRAME + GAP, row * place + FRAME + GAP
        if at in (picked, target):
            around = (left - FRAME, top - FRAME, left + size + FRAME - 1, top + size + FRAME - 1)
            pen.rectangle(around, fill=FOUND if at == target else PICKED)
        small = Image.fromarray(np.asarray(picture))
        scale = size / max(small.size)
        width, height = (max(1, round(length * scale)) for length in small.size)
        small = small.resize((width, height), Image.Resampling.LANCZOS)
        pen.rectangle((left, top, left + size - 1, top + size - 1), fill=EMPTY)
        canvas.paste(small, (left + (size - width) // 2, top + (size - height) // 2))
    return np.array(canvas)
