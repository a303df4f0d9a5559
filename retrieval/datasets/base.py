"""One split of a composed-retrieval data set, in the shape that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        query_pictures: uint8 (N, H', W', 3), how each image looks as the reference of a query,
            where that is not how it looks in the gallery (CSS: flat query, 3D gallery).

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
    query_pictures: np.ndarray | None = None

    def __post_init__(self) -> None:
        for table in ("labels", "pictures", "features", "query_pictures"):
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


def renumber(
    queries: Sequence[Triplet], kept: np.ndarray, total: int
) -> tuple[list[Triplet], list[int]]:
    """Queries after some images were left out: those whose images are still there.

    Args:
        queries: with rows into the first `total` images; a hidden target (-1) stays hidden.
        kept: the rows that were kept (M), ascending; the m-th becomes row m.
        total: how many images there were.

    Returns:
        The remaining queries with new rows, and their positions in `queries`, for tables that
        run along with them.

    Example:
        >>> renumber([Triplet(0, "red", 2), Triplet(1, "blue", 2)], np.array([0, 2]), 3)
        ([Triplet(reference=0, caption='red', target=1)], [0])
    """
    rows = np.full(total + 1, -1, dtype=np.int64)  # (N + 1), the last for a hidden target
    rows[kept] = np.arange(len(kept))
    remaining, positions = [], []
    for position, (reference, caption, target) in enumerate(queries):
        if rows[reference] >= 0 and (target < 0 or rows[target] >= 0):
            remaining.append(Triplet(int(rows[reference]), caption, int(rows[target])))
            positions.append(position)
    return remaining, positions
