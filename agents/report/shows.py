"""What dialogs put on show: when the target was found, and how often images came again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.state import NOTHING

Floats = NDArray[np.float64]


def found_by_turn(slates: np.ndarray, target: np.ndarray) -> Floats:
    """Tell whether the target has been on show at any turn from 1 up to t.

    Unlike `success_by_turn`, which looks at ranks, it counts what the user saw: one of K images
    on a slate finds the target whatever its rank; a user who left never finds it.

    Args:
        slates: images on show (E, T + 1, K), -1 where there are fewer.
        target: of each dialog (E,).

    Returns:
        0 or 1 for each dialog and turn (E, T + 1); turn 0 is 0.
    """
    found = (slates == target[:, None, None]).any(2)  # (E, T + 1)
    found[:, 0] = False
    result: Floats = np.maximum.accumulate(found, axis=1).astype(np.float64)
    return result


def repeats_by_turn(slates: np.ndarray, target: np.ndarray, left: np.ndarray) -> list[float]:
    """The share of images shown at each turn that the dialog had shown before.

    Only dialogs still going on count, those whose target was not yet on show and whose user is
    there: the benchmark plays on after a find, and a good agent shows what it found again.

    Args:
        slates: images on show (E, T + 1, K), -1 where there are fewer.
        target: of each dialog (E,).
        left: whether the user was gone at the end of each turn (E, T + 1).

    Returns:
        Shares over turns 0..T; 0 at turn 0, and where no dialog goes on.
    """
    again, count = _again(slates, _going_on(slates, target, left))
    return (again / np.maximum(1, count)).tolist()


def repeat_share(slates: np.ndarray, target: np.ndarray, left: np.ndarray) -> float:
    """The share over all turns from 1 on; arguments as for `repeats_by_turn`."""
    again, count = _again(slates, _going_on(slates, target, left))
    return float(again.sum() / max(1, count.sum()))


def _going_on(slates: np.ndarray, target: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Which dialogs were still going on when each turn began (E, T + 1); none at turn 0."""
    over = (found_by_turn(slates, target) > 0) | left
    return ~np.column_stack([np.ones(len(over), dtype=bool), over[:, :-1]])


def _again(slates: np.ndarray, going_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many images were shown again, and shown at all, at each turn (T + 1,)."""
    again, count = np.zeros(slates.shape[1]), np.zeros(slates.shape[1])
    for turn in range(1, slates.shape[1]):
        now = slates[going_on[:, turn], turn]  # (E', K)
        before = slates[going_on[:, turn], :turn].reshape(len(now), turn * slates.shape[2])
        is_image = now != NOTHING
        again[turn] = (is_image & (now[:, :, None] == before[:, None]).any(2)).sum()
        count[turn] = is_image.sum()
    return again, count
