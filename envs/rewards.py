"""What one turn is worth, by name: (before, after) -> rewards (B,).

Of arrays, or of tensors on a device (`envs.on_device`): operators serve both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.dialog import DialogState

Reward = Callable[[DialogState, DialogState], np.ndarray]


def rank_percentile(before: DialogState, after: DialogState) -> np.ndarray:
    """The target's rank percentile now, in [0, 1]."""
    return after.percentile


def rank_gain(before: DialogState, after: DialogState) -> np.ndarray:
    """How much the rank percentile rose, in [-1, 1]."""
    return after.percentile - before.percentile


def log_rank_gain(before: DialogState, after: DialogState) -> np.ndarray:
    """How many times the 1-based rank halved: log2 (1 + before) / (1 + after)."""
    return _log2(1.0 + before.rank) - _log2(1.0 + after.rank)


def reciprocal_rank(before: DialogState, after: DialogState) -> np.ndarray:
    """1 / (1 + rank), in (0, 1]."""
    return 1.0 / (1.0 + after.rank)


def hit(before: DialogState, after: DialogState) -> np.ndarray:
    """1 when the target is on show, else 0."""
    return after.found * 1.0


def early_hit(before: DialogState, after: DialogState) -> np.ndarray:
    """1 / turn when the target is on show, else 0: the fewer turns the better.

    Unlike a cost per turn it gives nothing to a dialog that ends because the user left.
    """
    return after.found / (after.turn + (after.turn == 0))


def _log2(values: Any) -> Any:
    """Of an array, or of a tensor wherever it is."""
    return np.log2(values) if isinstance(values, np.ndarray) else values.log2()


REWARDS: dict[str, Reward] = {
    "rank_percentile": rank_percentile,
    "rank_gain": rank_gain,
    "log_rank_gain": log_rank_gain,
    "reciprocal_rank": reciprocal_rank,
    "hit": hit,
    "early_hit": early_hit,
}
