"""Flat 64 x 64 pictures of CSS scenes: the query side of 2D-to-3D retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.rendering.palette import COLORS

SIDE = 64
HALF_SIZE = {"small": 4, "large": 8}


def render_2d(scene: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Paint a scene as flat shapes on white, pixel for pixel as the CSS data's own renderer.

    Objects are painted in list order, later over earlier, and every bound is truncated to an
    integer. The "circle" is a diamond, as in the original. Source: Vo et al., "Composing Text
    and Image for Image Retrieval", CVPR 2019, and the code published with it. Departure: an
    object that crosses the border is cut off there, where the original's negative slice bounds
    drop the object or wrap it to the far side.

    Args:
        scene: objects with `shape`, `size`, `color` and `pos` (row and column in [0, 1]).

    Returns:
        Picture (64, 64, 3), float32 in [0, 1].

    Example:
        >>> scene = [{"shape": "circle", "size": "large", "color": "red", "pos": [0.5, 0.5]}]
        >>> int((render_2d(scene) != 1).any(axis=-1).sum())
        128
    """
    picture = np.ones((SIDE, SIDE, 3), np.float32)
    for item in scene:
        color = np.array(COLORS[item["color"]], np.float32) / 255
        y, x = (float(value) * SIDE for value in item["pos"])
        half_size = HALF_SIZE[item["size"]]
        last_row = int(y + half_size) + (item["shape"] == "circle")
        for row in range(max(int(y - half_size), 0), min(last_row, SIDE)):
            left, right = _columns(item["shape"], x, row - y, half_size)
            picture[row, max(left, 0) : max(right, 0)] = color
    return picture


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Turn a picture (H, W, 3) of floats in [0, 1] into bytes, to save or show it."""
    return np.rint(picture * 255).clip(0, 255).astype(np.uint8)


def _columns(shape: str, x: float, offset: float, half_size: int) -> tuple[int, int]:
    """First and one-past-last column of a shape centred at x, in the row `offset` below centre.

    On the 3 x 3 grid many edges fall on whole numbers up to rounding, so one edge is computed
    and the other mirrored about x, in the order the original does it.
    """
    if shape == "rectangle":
        return int(x - half_size), int(x + half_size)
    if shape == "circle":
        left = x - (half_size - abs(offset))
        return int(left), int(2 * x - left)
    if shape == "triangle":
        # the row above the apex has a negative width: painted all the same, as in the original
        edge = x + (offset + half_size) / 2
        left, right = sorted((edge, 2 * x - edge))
        return int(left), int(right)
    raise ValueError(f"unknown shape {shape!r}. Known: rectangle, circle, triangle.")
