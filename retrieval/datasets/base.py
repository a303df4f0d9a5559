"""One split of a composed-retrieval data set, in the shape that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.gallery import Triplet

Sampler = Callable[[np.random.Generator, int], list[Triplet]]
"""Draws that many training triplets by a data set's own published rule."""


@dataclass(frozen=True)
class ComposedSplit:
    """Images, what counts as a hit, and every query of one split.

    Args:
        dataset: the data set's name in `retrieval.datasets.COMPOSED`.
        split: "train", "val" or "test".
        names: the images' names (N), as result files spell them.
        labels: what an image is called (N); an image is a hit when its label equals the
            target's. Data sets judged by exact image have the name as label.
        pictures: uint8 (N, H, W, 3), often memory-mapped, or None where only features exist.
        queries: every query, in file order; `reference` and `target` are rows. A hidden target
            (published test splits) is -1.
        texts: what the vocabulary is built from (the training split's own texts).
        sample: the published training rule, or None: queries are shuffled every epoch.
        galleries: named galleries, rows into the images; "all" when there is just one.
        facts: one mapping per query with what a protocol needs besides (a category, the
            members of an image set, ...), or empty.
        skipped: what was left out on request, for the printed denominator: reason to number.
        features: backbone vectors (N, F) where they were extracted, else None.

    Raises:
        ValueError: the tables disagree on the number of images or queries.
    """

    dataset: str
    split: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    pictures: np.ndarray | None
    queries: tuple[Triplet, ...]
    texts: tuple[str, ...] = ()
    sample: Sampler | None = None
    galleries: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: tuple[Mapping[str, Any], ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    features: np.ndarray | None = None

    def __post_init__(self) -> None:
        for table in ("labels", "pictures", "features"):
            rows = getattr(self, table)
            if rows is not None and len(rows) != len(self.names):
                raise ValueError(
                    f"expected {table} of {len(self.names)} images, one per name, got {len(rows)}"
                )
        if self.facts and len(self.facts) != len(self.queries):
            raise ValueError(
                f"expected facts of {len(self.queries)} queries, got {len(self.facts)}"
            )

    def __len__(self) -> int:
        return len(self.names)
