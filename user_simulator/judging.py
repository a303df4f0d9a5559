"""Which of several images a user finds nearest to the one in mind: their own judgement."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from retrieval.catalog.captions import MUCH
from retrieval.catalog.gallery import CatalogGallery
from retrieval.gallery import Gallery
from user_simulator.base import User


class Judge(Protocol):
    """Someone who can tell how far images are from the one in mind. No chance is involved."""

    def distance(self, offered: np.ndarray, target: np.ndarray) -> np.ndarray:
        """How far images are from the targets.

        Args:
            offered: images (B, K).
            target: images in mind (B,).

        Returns:
            Distances (B, K) of at least 0, the same both ways; smaller is nearer.
        """
        ...


class AttributeJudge:
    r"""Compares what is known of the images: Gower's distance.

    .. math:: d(a, b) = \sum_c w_c \, \delta_c(a_c, b_c) / \sum_c w_c

    over the codes known of both. Of CSS scenes all codes weigh the same and delta is 0 or 1,
    so d is the share of codes that differ. Of products w is the column's weight, and a measure
    of the picture (weight 1) counts by the size of the difference, up to twice what is called
    "much". Source: Gower, "A general coefficient of similarity", Biometrics 1971.

    Args:
        gallery: with attributes.

    Raises:
        ValueError: the gallery has no attributes.
    """

    def __init__(self, gallery: Gallery):
        if gallery.attributes is None:
            raise ValueError("who judges by attributes needs a gallery that has some")
        self._codes = np.ascontiguousarray(gallery.attributes, dtype=np.int32)  # (N, A)
        self._weights = np.ones(self._codes.shape[1])
        self._measured = np.zeros(self._codes.shape[1], dtype=bool)
        self._has_gaps = isinstance(gallery, CatalogGallery)  # an empty cell is no gap
        if isinstance(gallery, CatalogGallery):
            first = gallery.spoken.first_measure
            self._weights[:first] = [column.weight for column in gallery.spoken.columns]
            self._measured[first:] = True

    def distance(self, offered: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Shares (B, K) of what is known that differs; see `Judge.distance`."""
        theirs, mine = self._codes[offered], self._codes[target][:, None]  # (B, K, A), (B, 1, A)
        differ = (theirs != mine).astype(np.float64)
        if not self._has_gaps:
            return differ.mean(-1)
        change = np.minimum(np.abs(theirs - mine), 2 * MUCH) / (2 * MUCH)
        differ = np.where(self._measured, change, differ)
        known = self._measured | ((theirs > 0) & (mine > 0))
        weights = self._weights * known  # (B, K, A)
        return (weights * differ).sum(-1) / weights.sum(-1)


class FeatureJudge:
    """Compares how images look: the squared distance of their features.

    Args:
        features: of the gallery (N, F).
    """

    def __init__(self, features: np.ndarray):
        self._features = features

    def distance(self, offered: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Squared distances (B, K); see `Judge.distance`."""
        gap = self._features[offered].astype(np.float64) - self._features[target][:, None]
        result: np.ndarray = (gap**2).sum(-1)
        return result

    def nearer(self, image: int, others: np.ndarray) -> np.ndarray:
        """See `nearer`; t is nearer to o than to p where 2 t (o - p) > |o|^2 - |p|^2."""
        p, o = self._features[image].astype(np.float64), self._features[others].astype(np.float64)
        across = self._features.astype(np.float64) @ (2 * (o - p)).T  # (N, K)
        return np.asarray((across > (o**2).sum(-1) - (p**2).sum()).any(1))


def nearer(judge: Judge, image: int, others: np.ndarray, size: int) -> np.ndarray:
    """For which images of a gallery one of several others is nearer than a given one.

    Args:
        judge: by whose judgement.
        image: the one that the others are held against.
        others: images (K,).
        size: of the gallery, N.

    Returns:
        Flags (N,).
    """
    if isinstance(judge, FeatureJudge):
        return judge.nearer(image, others)
    every = np.arange(size)
    distance = judge.distance(np.tile([image, *others], (size, 1)), every)  # (N, 1 + K)
    return np.asarray((distance[:, 1:] < distance[:, :1]).any(1))


def judge_of(user: User, gallery: Gallery) -> Judge:
    """By whose judgement a user compares images.

    It is the user's own `distance`, or that of the user who is wrapped (whom a wrapper such as
    `NoisyUser` keeps as `user`: a slip of the tongue is none of the eye); a user without one,
    such as the neural user, compares raw features.
    """
    speaker: Any = user
    while not hasattr(speaker, "distance") and hasattr(speaker, "user"):
        speaker = speaker.user
    return speaker if hasattr(speaker, "distance") else FeatureJudge(gallery.features)
