"""Scenes on a 3x3 grid: what the built-in CSS pictures show, and how one edit changes them.

A scene is an int8 array (9, 3): for each cell (row by row, row 0 at the top or back) the
codes of shape, colour and size, counted from 1; an empty cell is (0, 0, 0). A set of scenes
is (S, 9, 3); flattened to (S, 27) it is a gallery's table of attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from retrieval.rendering.palette import COLORS, SHAPES, SIZES

CELLS = 9
COLOR_NAMES = tuple(COLORS)
VALUES = (SHAPES, COLOR_NAMES, SIZES)  # per attribute, the names of the codes 1, 2, ...
SHAPE, COLOR, SIZE = range(3)
PLACES = tuple(
    f"{row}-{column}"
    for row in ("top", "middle", "bottom")
    for column in ("left", "center", "right")
)


class Edit(NamedTuple):
    """One instruction of a CSS query and the scene it makes."""

    instruction: str
    scene: np.ndarray


def sample_scene(rng: np.random.Generator, objects: tuple[int, int] = (3, 6)) -> np.ndarray:
    """A random scene (9, 3) with `objects` = (fewest, most) objects in distinct cells."""
    scene = np.zeros((CELLS, 3), dtype=np.int8)
    count = rng.integers(objects[0], objects[1] + 1)
    for cell in rng.choice(CELLS, size=count, replace=False):
        scene[cell] = sample_object(rng)
    return scene


def sample_object(rng: np.random.Generator) -> np.ndarray:
    """The codes (3,) of a random object."""
    return np.array([rng.integers(1, len(names) + 1) for names in VALUES], dtype=np.int8)


def sample_edit(scene: np.ndarray, rng: np.random.Generator) -> Edit:
    """A random instruction that applies to a scene, in the styles of the published queries.

    Half of the edits change one attribute ("make top-center small red circle blue"), a quarter
    add an object ("add large green rectangle to middle-left"), a quarter remove one ("remove
    blue object", naming as little as makes it unique). Scenes keep between 2 and 7 objects.
    """
    occupied = np.flatnonzero(scene[:, SHAPE])
    kind = rng.choice(["make", "make", "add", "remove"])
    if kind == "remove" and len(occupied) > 2:
        cell = int(rng.choice(occupied))
        return Edit(f"remove {unique_phrase(scene, cell)}", edited(scene, cell, None))
    if kind == "add" and len(occupied) < 7:
        cell = int(rng.choice(np.flatnonzero(scene[:, SHAPE] == 0)))
        new = sample_object(rng)
        return Edit(f"add {phrase(new)} to {PLACES[cell]}", edited(scene, cell, new))
    cell, attribute = int(rng.choice(occupied)), int(rng.integers(3))
    old = scene[cell]
    new = old.copy()
    new[attribute] = rng.choice(
        [code for code in range(1, len(VALUES[attribute]) + 1) if code != old[attribute]]
    )
    value = VALUES[attribute][new[attribute] - 1]
    return Edit(f"make {PLACES[cell]} {phrase(old)} {value}", edited(scene, cell, new))


def edited(scene: np.ndarray, cell: int, new: np.ndarray | None) -> np.ndarray:
    """A copy of a scene with one cell replaced (None empties it)."""
    result = scene.copy()
    result[cell] = 0 if new is None else new
    return result


def phrase(codes: Sequence[int] | np.ndarray) -> str:
    """`size colour shape` of an object's codes (3,)."""
    shape, color, size = (int(code) for code in codes)
    return f"{SIZES[size - 1]} {COLOR_NAMES[color - 1]} {SHAPES[shape - 1]}"


def unique_phrase(scene: np.ndarray, cell: int) -> str:
    """The shortest phrase that names one object of a scene: "blue object", else with its place."""
    codes = scene[cell]
    same_color = scene[:, COLOR] == codes[COLOR]
    color = COLOR_NAMES[codes[COLOR] - 1]
    if same_color.sum() == 1:
        return f"{color} object"
    if (same_color & (scene[:, SHAPE] == codes[SHAPE])).sum() == 1:
        return f"{color} {SHAPES[codes[SHAPE] - 1]}"
    return f"{PLACES[cell]} {color} object"


def to_objects(scene: np.ndarray) -> list[dict[str, Any]]:
    """A scene's objects in the published layout: shape, size, color, pos = [row, column]."""
    return [
        {
            "shape": SHAPES[scene[cell, SHAPE] - 1],
            "size": SIZES[scene[cell, SIZE] - 1],
            "color": COLOR_NAMES[scene[cell, COLOR] - 1],
            "pos": [(cell // 3 + 0.5) / 3, (cell % 3 + 0.5) / 3],
        }
        for cell in np.flatnonzero(scene[:, SHAPE])
    ]


def from_objects(objects: Sequence[dict[str, Any]]) -> np.ndarray:
    """The scene (9, 3) of objects in the published layout; in one cell the last one counts.

    Raises:
        ValueError: an object has a shape, colour or size that CSS does not know.
    """
    scene = np.zeros((CELLS, 3), dtype=np.int8)
    for item in objects:
        row, column = (min(max(int(float(at) * 3), 0), 2) for at in item["pos"])
        for attribute, key in enumerate(("shape", "color", "size")):
            if item[key] not in VALUES[attribute]:
                known = ", ".join(VALUES[attribute])
                raise ValueError(f"unknown {key} {item[key]!r} in a CSS scene; known: {known}")
            scene[row * 3 + column, attribute] = VALUES[attribute].index(item[key]) + 1
    return scene
