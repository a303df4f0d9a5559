"""Orders of a question's pictures: the published greedy chain, and exact search.

All of them read the same similarities: `similarity(image, heard, until)` is the row (M,) of an
image composed with the captions after number `heard` up to number `until` (from 0). The first
picture of an order is taken to show the state after caption 0, as published; in questions with
more steps than pictures that is often not so.

An order's score is the sum of the similarities of its links, each with the captions that suit it
best: the links' texts follow one another without gap or overlap, and every link has one caption
at least. Captions may be left over at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from retrieval.ordering.questions import Order

Similarity = Callable[[int, int, int], np.ndarray]


class Scored(NamedTuple):
    """An order and the sum of its links' similarities."""

    order: Order
    score: float


def greedy_chain(similarity: Similarity, images: int, steps: int, first: int) -> Scored:
    """The published chain: from each picture to the best of those left.

    A link begins with the next caption alone. While more captions than pictures are left, one
    more is added to its text, for as long as the best similarity does not fall.

    Args:
        similarity: of the question.
        images: number M of pictures.
        steps: number L of captions.
        first: the picture that the order begins with.

    Raises:
        ValueError: there are fewer captions than pictures.
    """
    _check(images, steps)
    order, score, heard = [first], 0.0, 0
    left = [image for image in range(images) if image != first]

    def best_of(until: int) -> tuple[float, int]:
        row = similarity(order[-1], heard, until)
        found = max(left, key=lambda image: row[image])
        return float(row[found]), found

    while left:
        until = heard + 1
        link, found = best_of(until)
        while len(left) < steps - until:
            longer, other = best_of(until + 1)
            if longer < link:
                break
            link, found, until = longer, other, until + 1
        order.append(found)
        left.remove(found)
        score, heard = score + link, until
    return Scored(tuple(order), score)


def greedy_from_every_start(similarity: Similarity, images: int, steps: int) -> Scored:
    """The best by score of the greedy chains from every picture; needs no first one.

    Departure: the published chain begins where another model says.
    """
    chains = [greedy_chain(similarity, images, steps, first) for first in range(images)]
    return max(chains, key=lambda chain: chain.score)


def exact_search(
    similarity: Similarity,
    images: int,
    steps: int,
    first: int | None = None,
    anywhere: bool = False,
) -> Scored:
    """The best order of all M! by score, each with the best division of the captions.

    Args:
        similarity, images, steps: as for `greedy_chain`.
        first: only orders that begin with it; None for all.
        anywhere: the first picture may show the state after any caption, not only the first.

    Raises:
        ValueError: there are fewer captions than pictures.
    """
    links = link_table(similarity, images, steps)
    best = Scored((), -np.inf)

    def extend(order: Order, reached: np.ndarray) -> None:
        nonlocal best
        if len(order) == images:
            score = float(reached.max())
            if score > best.score:
                best = Scored(order, score)
            return
        for image in range(images):
            if image not in order:
                extend((*order, image), _along(reached, links[order[-1], image]))

    for begin in range(images) if first is None else (first,):
        extend((begin,), _begun(steps, anywhere))
    return best


def score_order(
    similarity: Similarity, order: Sequence[int], steps: int, anywhere: bool = False
) -> float:
    """The score of one order, with the best division of the captions; -inf where none fits.

    The first caption is number 0; `anywhere` as for `exact_search`.
    """
    links = link_table(similarity, len(order), steps)
    reached = _begun(steps, anywhere)
    for before, after in pairwise(order):
        reached = _along(reached, links[before, after])
    return float(reached.max())


def link_table(similarity: Similarity, images: int, steps: int) -> np.ndarray:
    """Similarities (M, M, L, L): of image i, with captions after b up to e, and image k.

    Links that no order of all pictures can have are -inf.

    Raises:
        ValueError: there are fewer captions than pictures.
    """
    _check(images, steps)
    links = np.full((images, images, steps, steps), -np.inf)
    longest = steps - images + 1  # captions of one link, when the others have one each
    for image in range(images):
        for heard in range(steps - 1):
            for until in range(heard + 1, min(heard + longest, steps - 1) + 1):
                links[image, :, heard, until] = similarity(image, heard, until)
    return links


def _begun(steps: int, anywhere: bool) -> np.ndarray:
    """The score (L,) of having come as far as each caption with the first picture alone."""
    reached = np.full(steps, 0.0 if anywhere else -np.inf)
    reached[0] = 0.0
    return reached


def _along(reached: np.ndarray, link: np.ndarray) -> np.ndarray:
    """The best score (L,) of having come as far as each caption, one link (L, L) further."""
    return np.asarray((reached[:, None] + link).max(axis=0))


def _check(images: int, steps: int) -> None:
    if steps < images:
        raise ValueError(
            f"expected at least as many captions as pictures to order, got {steps} for {images}"
        )
