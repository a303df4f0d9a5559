"""How agents draw what to show."""

from __future__ import annotations

import numpy as np


def gumbel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Gumbel noise: the k largest of logits with it are drawn from their softmax, none twice.

    Yellott, "The relationship between Luce's choice axiom, Thurstone's theory of comparative
    judgment, and the double exponential distribution", J. Math. Psychology 1977.
    """
    noise: np.ndarray = -np.log(-np.log(rng.uniform(1e-12, 1.0, shape)))
    return noise


def draw_columns(logits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Columns (B, count) drawn one after another from the softmax over logits (B, M)."""
    keys = logits + gumbel(logits.shape, rng)
    drawn: np.ndarray = np.argsort(-keys, axis=1, kind="stable")[:, :count]
    return drawn
