"""Listeners that know the attributes and the language: judge captions against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from retrieval.catalog.gallery import CatalogGallery
from retrieval.gallery import Gallery
from retrieval.rendering.claims import read


class AnyClaim(Protocol):
    """What one clause says; see `retrieval.rendering.claims` and `retrieval.catalog.claims`."""

    @property
    def kind(self) -> str:
        """How the clause relates target and reference."""
        ...

    def holds(self, reference: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether it is true of pairs of rows of the gallery's table."""
        ...


class Listener:
    """Reads captions about a gallery.

    Args:
        table: what is known of each image (N, ...), as the claims want it.
        read: a caption to its claims, None for a clause that makes no sense.
    """

    def __init__(self, table: np.ndarray, read: Callable[[str], Sequence[Any]]):
        self.table = table
        self.read: Callable[[str], Sequence[AnyClaim | None]] = read

    def faithful(self, captions: Sequence[str], pairs: np.ndarray) -> np.ndarray:
        """Which captions (B,) claim nothing false of their pairs (B, 2) = reference, target."""
        return np.array(
            [
                all(
                    claim is not None
                    and bool(claim.holds(self.table[reference], self.table[target]))
                    for claim in self.read(caption)
                )
                for caption, (reference, target) in zip(captions, pairs, strict=True)
            ]
        )

    def discriminates(
        self, captions: Sequence[str], pairs: np.ndarray, rng: np.random.Generator, others: int = 10
    ) -> np.ndarray:
        """Chance (B,) of picking the target among distractors from reference and caption.

        The listener keeps the images of which the most clauses are true and guesses among
        them. Distractors are random images of the gallery; 1 / (others + 1) is chance.
        """
        chances = np.zeros(len(captions))
        for row, (caption, (reference, target)) in enumerate(zip(captions, pairs, strict=True)):
            size = len(self.table)
            wrong = (target + 1 + rng.integers(size - 1, size=others)) % size
            offered = self.table[np.concatenate([[target], wrong])]  # (1 + others, ...)
            true = np.zeros(len(offered))
            for claim in self.read(caption):
                if claim is not None:
                    true += claim.holds(self.table[reference], offered)
            best = true == true.max()
            chances[row] = best[0] / best.sum()
        return chances

    def accuracy(
        self, captions: Sequence[str], pairs: np.ndarray, name: Callable[[Any], str]
    ) -> dict[str, tuple[float, int]]:
        """How often what is said holds, by kind of clause.

        Args:
            captions: B of them.
            pairs: the images (B, 2) = reference, target they are about.
            name: what the kind of a claim is called.

        Returns:
            For each kind said: the share of its clauses that are true, and how many there were;
            "nonsense" counts clauses that say nothing.
        """
        true: Counter[str] = Counter()
        count: Counter[str] = Counter()
        for caption, (reference, target) in zip(captions, pairs, strict=True):
            for claim in self.read(caption):
                kind = "nonsense" if claim is None else name(claim)
                count[kind] += 1
                if claim is not None:
                    true[kind] += bool(claim.holds(self.table[reference], self.table[target]))
        return {kind: (true[kind] / number, number) for kind, number in sorted(count.items())}


class SceneListener(Listener):
    """Reads captions about a gallery of CSS scenes.

    Raises:
        ValueError: the gallery is not of CSS scenes.
    """

    def __init__(self, gallery: Gallery):
        if gallery.attributes is None or not gallery.kind.startswith("css"):
            raise ValueError("only captions about CSS scenes can be checked against the truth")
        super().__init__(gallery.attributes.reshape(-1, 9, 3), read)


class CatalogListener(Listener):
    """Reads captions about one's own products.

    Raises:
        ValueError: the gallery is not of a catalogue.
    """

    def __init__(self, gallery: Gallery):
        if not isinstance(gallery, CatalogGallery):
            raise ValueError("only captions about a catalogue can be checked against its table")
        assert gallery.attributes is not None
        self.language = gallery.spoken
        super().__init__(gallery.attributes, gallery.spoken.reader.read)

    def directions(self, captions: Sequence[str], pairs: np.ndarray) -> dict[str, float]:
        """How often comparisons have the right direction, however far they go.

        Args:
            captions: B of them.
            pairs: the images (B, 2) = reference, target they are about.

        Returns:
            "lighter", "darker", ... to the share of such clauses for which the target measures
            more, or less, than the reference.
        """
        right: dict[str, list[bool]] = {}
        for caption, (reference, target) in zip(captions, pairs, strict=True):
            for claim in self.language.reader.read(caption):
                if claim is not None and claim.kind in ("more", "less"):
                    (column,) = claim.columns
                    change = int(self.table[target, column]) - int(self.table[reference, column])
                    rises = change > 0 if claim.kind == "more" else change < 0
                    right.setdefault(self.language.topic(claim), []).append(rises)
        return {topic: float(np.mean(rises)) for topic, rises in sorted(right.items())}


def listener_of(gallery: Gallery) -> Listener:
    """Who can check captions about a gallery.

    Raises:
        ValueError: nobody can.
    """
    return (
        CatalogListener(gallery) if isinstance(gallery, CatalogGallery) else SceneListener(gallery)
    )
