"""From what generators give to pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor

AT_ONCE = 128  # conditions drawn together


def to_pictures(drawn: Tensor) -> np.ndarray:
    """What a generator gives, (B, 3, S, S) in [-1, 1], as pictures uint8 (B, S, S, 3)."""
    levels = ((drawn.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
