"""What can be seen of a product and compared: measured on the foreground, from the pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Measure(NamedTuple):
    """One number about a picture, and the words for more and for less of it."""

    name: str
    more: tuple[str, ...]
    less: tuple[str, ...]


def _tint(color: str, comparative: str) -> Measure:
    """How much of a colour there is: "redder", "more red", "less red"."""
    return Measure(color, (f"more {color}", comparative), (f"less {color}",))


MEASURES: tuple[Measure, ...] = (
    Measure(
        "lightness", ("lighter", "lighter in color", "brighter"), ("darker", "darker in color")
    ),
    Measure(
        "colorfulness", ("more colorful", "more vivid"), ("less colorful", "more muted", "duller")
    ),
    _tint("red", "redder"),
    _tint("yellow", "yellower"),
    _tint("green", "greener"),
    _tint("blue", "bluer"),
    _tint("purple", "more purplish"),
    Measure(
        "pattern",
        ("more patterned", "busier", "more detailed"),
        ("plainer", "less patterned", "more plain"),
    ),
    Measure("length", ("longer", "taller"), ("shorter", "wider")),
    Measure("size", ("larger", "bigger"), ("smaller",)),
)
"""In the order of the columns of `measure`."""

_HUES = {  # degrees in the a, b plane of CIE Lab; skin and wood lie between red and yellow
    "red": (-20.0, 42.0),
    "yellow": (75.0, 110.0),
    "green": (110.0, 200.0),
    "blue": (200.0, 308.0),
    "purple": (308.0, 340.0),
}
_UNLIKE = 10.0  # how far in Lab from the background a pixel is no part of it
_AT_ONCE = 64
_WHITE = np.array([0.9505, 1.0, 1.089], dtype=np.float32)
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
    dtype=np.float32,
)


def measure(pictures: np.ndarray) -> np.ndarray:
    """The numbers (N, M) behind `MEASURES`, of uint8 pictures (N, H, W, 3).

    The product is what differs from the colour of the border, its holes filled, the middle
    counting most (a model's head and legs less). Where the border has no colour of its own the
    whole picture counts. Lightness is the mean L of CIE Lab; colourfulness the mean chroma; a
    colour its share of the foreground, pale pixels counting less; pattern the mean slope of L
    inside the foreground; length the logarithm of height over width; size the share of the
    picture.
    """
    parts = [
        _measure(np.asarray(pictures[start : start + _AT_ONCE]))
        for start in range(0, len(pictures), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(MEASURES)), np.float32)


def foreground(lab: np.ndarray) -> np.ndarray:
    """Which pixels (B, H, W) of pictures in Lab (B, H, W, 3) belong to the product."""
    edge = max(1, lab.shape[1] // 32)
    inner = slice(edge, -edge)
    frame = (lab[:, :edge], lab[:, -edge:], lab[:, inner, :edge], lab[:, inner, -edge:])
    border = np.concatenate([part.reshape(len(lab), -1, 3) for part in frame], axis=1)  # (B, P, 3)
    background = np.median(border, axis=1)  # (B, 3)
    alike = np.linalg.norm(border - background[:, None], axis=-1) < _UNLIKE  # (B, P)
    there = np.linalg.norm(lab - background[:, None, None], axis=-1) > _UNLIKE  # (B, H, W)
    between = [
        np.maximum.accumulate(there, axis=1),
        np.maximum.accumulate(there[:, ::-1], axis=1)[:, ::-1],
        np.maximum.accumulate(there, axis=2),
        np.maximum.accumulate(there[:, :, ::-1], axis=2)[:, :, ::-1],
    ]
    filled = np.logical_and.reduce(between)
    share = filled.mean((1, 2))
    seen = (alike.mean(1) > 0.4) & (share > 0.01)
    return np.where(seen[:, None, None], filled, True)


def to_lab(pictures: np.ndarray) -> np.ndarray:
    """CIE Lab (B, H, W, 3) of sRGB pictures uint8 (B, H, W, 3), white point D65."""
    rgb = np.arange(256, dtype=np.float32) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear[pictures].astype(np.float32) @ _TO_XYZ.T / _WHITE
    bent = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = bent[..., 0], bent[..., 1], bent[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def _measure(pictures: np.ndarray) -> np.ndarray:
    lab = to_lab(pictures)
    inside = foreground(lab)  # (B, H, W)
    low, high = _extent(inside)  # (B, 2) each: rows, columns
    weights = inside * _middle(inside.shape, low, high)
    weights /= weights.sum((1, 2), keepdims=True)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray((weights * values).sum((1, 2)))

    lightness = lab[..., 0]
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1]))
    vivid = np.clip((chroma - 8) / 20, 0, 1)
    shares = [mean(vivid * _between(hue, *_HUES[name])) for name in _HUES]
    sides = high - low
    columns = [
        mean(lightness),
        mean(chroma),
        *shares,
        _slope(lightness, inside, weights),
        np.log(sides[:, 0] / sides[:, 1]),
        inside.mean((1, 2)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)  # (B, M)


def _between(hue: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.asarray((hue - low) % 360 < high - low)


def _extent(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last row and column (B, 2) that hold more than stray pixels."""
    first, last = [], []
    for axis in (2, 1):  # rows, then columns
        counts = inside.sum(axis)  # (B, H) or (B, W)
        filled = counts > 0.02 * counts.max(1, keepdims=True)
        first.append(filled.argmax(1))
        last.append(filled.shape[1] - filled[:, ::-1].argmax(1))
    return np.stack(first, 1).astype(np.float32), np.stack(last, 1).astype(np.float32)


def _middle(shape: tuple[int, ...], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Weights (B, H, W) that fall off from the middle of the product to its ends."""
    centre, reach = (low + high) / 2, np.maximum(high - low, 1) * 0.35
    rows = np.arange(shape[1], dtype=np.float32)[None] + 0.5
    columns = np.arange(shape[2], dtype=np.float32)[None] + 0.5
    down = np.exp(-(((rows - centre[:, :1]) / reach[:, :1]) ** 2) / 2)  # (B, H)
    across = np.exp(-(((columns - centre[:, 1:]) / reach[:, 1:]) ** 2) / 2)  # (B, W)
    return np.asarray(down[:, :, None] * across[:, None, :])


def _slope(lightness: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean slope of L (B,) where all four neighbours belong to the product."""
    slope = np.zeros_like(lightness)
    slope[:, 1:-1, 1:-1] = np.hypot(
        lightness[:, 2:, 1:-1] - lightness[:, :-2, 1:-1],
        lightness[:, 1:-1, 2:] - lightness[:, 1:-1, :-2],
    )
    inner = inside.copy()
    for axis, shift in ((1, 2), (1, -2), (2, 2), (2, -2)):
        inner &= np.roll(inside, shift, axis)
    kept = weights * inner
    return np.asarray((kept * slope).sum((1, 2)) / np.maximum(kept.sum((1, 2)), 1e-9))
