"""Fréchet distance of two sets of features, the "FID" of generated pictures."""

from __future__ import annotations

import numpy as np


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    r"""How far apart two sets of features are, as Gaussians of their mean and covariance.

    .. math:: \|m_1 - m_2\|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017, there on
    Inception features. The root is taken of a symmetric matrix by its eigenvalues, negative ones
    of rounding cut off, so that a covariance without full rank needs no special care.

    Args:
        one, other: features (N, F) and (M, F), at least two rows each.

    Raises:
        ValueError: too few rows, other shapes, or numbers that are not finite.

    Example:
        >>> a = np.array([[0.0], [2.0]])  # mean 1, variance 2
        >>> b = np.array([[3.0], [7.0]])  # mean 5, variance 8
        >>> round(frechet_distance(a, b), 6)  # 16 + (sqrt(8) - sqrt(2)) ** 2
        18.0
    """
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"expected features (N, F) and (M, F), got {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"a covariance needs two rows of features, got {len(one)} and {len(other)}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("expected finite features, got some that are not")
    apart = one.mean(0) - other.mean(0)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (one, other))
    root = _root(first)
    between = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.maximum(between, 0)).sum()  # trace of the root of the product
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * shared)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root (F, F) of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
