"""Pairs of products to speak about: from unlike to nearly alike, as a dialog meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.catalog.captions import DRAWS, instruction, product_caption
from retrieval.catalog.language import Language
from retrieval.gallery import Triplet

OFFERED = (1, 4, 16, 64)
"""A reference is the most alike of one of these numbers of random products."""


@dataclass(frozen=True)
class CaptionedPairs:
    """Draws triplets with fresh relative captions; a `retrieval.datasets.base.Sampler`.

    Args:
        language: of the catalogue.
        codes: of the split's products (N, A).
    """

    language: Language
    codes: np.ndarray

    def __call__(self, rng: np.random.Generator, count: int) -> list[Triplet]:
        """`count` triplets whose targets are random products."""
        return self.about(rng.integers(len(self.codes), size=count), rng)

    def about(self, target: np.ndarray, rng: np.random.Generator) -> list[Triplet]:
        """One triplet for each target (B,)."""
        reference = self.references(target, rng)
        draws = rng.random((len(target), DRAWS))  # (B, DRAWS)
        return [
            Triplet(
                int(shown),
                product_caption(self.language, self.codes[shown], self.codes[meant], row),
                int(meant),
            )
            for shown, meant, row in zip(reference, target, draws, strict=True)
        ]

    def references(self, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Products (B,) to compare the targets (B,) with, never the target itself."""
        size, widest = len(self.codes), OFFERED[-1]
        reference = np.zeros_like(target)
        for start in range(0, len(target), 1024):
            meant = target[start : start + 1024]
            offered = (
                meant[:, None] + 1 + rng.integers(size - 1, size=(len(meant), widest))
            ) % size
            counts = np.array(OFFERED)[rng.integers(len(OFFERED), size=len(meant))]  # (b,)
            distance = self._distance(meant, offered)  # (b, 64)
            distance[np.arange(widest)[None] >= counts[:, None]] = np.inf
            reference[start : start + 1024] = offered[np.arange(len(meant)), distance.argmin(1)]
        return reference

    def _distance(self, target: np.ndarray, offered: np.ndarray) -> np.ndarray:
        """How differently one would speak of products (b,) and others (b, K)."""
        first = self.language.first_measure
        weights = np.array([column.weight for column in self.language.columns])
        one, other = self.codes[target][:, None], self.codes[offered]  # (b, 1, A), (b, K, A)
        facts = (one[..., :first] != other[..., :first]) @ weights
        looks = np.abs(one[..., first:] - other[..., first:]).clip(max=3000).sum(-1) / 3000
        return np.asarray(facts + looks)


def replacements(
    language: Language, codes: np.ndarray, per_product: int, rng: np.random.Generator
) -> list[Triplet]:
    """Queries "replace X with Y": pairs that differ in one attribute and share all others.

    Attributes are the table's columns that no finer column determines; a product of which one
    is unknown takes no part. Form and idea: Fashion200k (Han et al., ICCV 2017).

    Args:
        language: of the catalogue.
        codes: of the split's products (N, A).
        per_product: targets at most for each reference and attribute.
        rng: chooses among the targets.
    """
    main = main_columns(language)
    known = np.flatnonzero((codes[:, main] > 0).all(1)) if main else np.zeros(0, dtype=np.int64)
    found = []
    for column in main:
        others = [at for at in main if at != column]
        groups: dict[bytes, list[int]] = {}
        for row in known.tolist():
            groups.setdefault(codes[row, others].tobytes(), []).append(row)
        for members in groups.values():
            values = codes[members, column]
            for reference, old in zip(members, values.tolist(), strict=True):
                partners = [members[at] for at in np.flatnonzero(values != old)]
                for pick in rng.permutation(len(partners))[:per_product]:
                    new = int(codes[partners[pick], column])
                    text = instruction(language, column, old, new)
                    found.append(Triplet(reference, text, partners[pick]))
    return found


def main_columns(language: Language) -> list[int]:
    """The table's columns that no finer one determines."""
    return [
        at for at in range(len(language.source)) if language.columns[at].weight >= 0.4
    ]  # fmt: skip
