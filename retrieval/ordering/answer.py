"""Answers to ordering questions: the ways to choose a candidate, and how often they are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retrieval.ordering.choice import choose
from retrieval.ordering.pairwise import pairwise_score
from retrieval.ordering.questions import Order, Question
from retrieval.ordering.search import (
    Similarity,
    exact_search,
    greedy_chain,
    greedy_from_every_start,
    score_order,
)


class Evidence(NamedTuple):
    """What is known of one question; a method reads what it needs.

    Args:
        question: with its captions and candidates.
        similarity: of composed queries and pictures, see `retrieval.ordering.search`.
        first: the picture that is taken to be the first.
        later: P(i is later than j) as (M, M).
    """

    question: Question
    similarity: Similarity | None = None
    first: int | None = None
    later: np.ndarray | None = None


class Method(NamedTuple):
    """A way to answer.

    Args:
        answer: from the evidence to one of the candidates.
        needs: the fields of `Evidence` that it reads.
        wants_all: whether it reads every similarity, so that composing them at once pays.
        what: in a few words, for tables.
    """

    answer: Callable[[Evidence], Order]
    needs: tuple[str, ...]
    wants_all: bool
    what: str


def answer(evidence: Evidence, method: str) -> Order:
    """The candidate that a method of `METHODS` chooses.

    Raises:
        ValueError: the evidence lacks what the method needs.
    """
    for field in METHODS[method].needs:
        if getattr(evidence, field) is None:
            raise ValueError(f"the method {method} needs {NEEDED[field]}")
    return METHODS[method].answer(evidence)


def accuracy(questions: Sequence[Question], chosen: Mapping[int, Order]) -> float | None:
    """The share of questions whose truth was chosen; None where a truth is hidden."""
    if any(question.truth is None for question in questions):
        return None
    right = [chosen[question.number] == question.truth for question in questions]
    return sum(right) / len(right)


def _greedy(case: Evidence) -> Order:
    assert case.similarity is not None and case.first is not None
    found = greedy_chain(case.similarity, *_size(case), case.first)
    return _chosen(found.order, case)


def _greedy_starts(case: Evidence) -> Order:
    assert case.similarity is not None
    return _chosen(greedy_from_every_start(case.similarity, *_size(case)).order, case)


def _exact(case: Evidence) -> Order:
    assert case.similarity is not None
    return _chosen(exact_search(case.similarity, *_size(case)).order, case)


def _exact_first(case: Evidence) -> Order:
    assert case.similarity is not None
    return _chosen(exact_search(case.similarity, *_size(case), case.first).order, case)


def _exact_anywhere(case: Evidence) -> Order:
    assert case.similarity is not None
    return _chosen(exact_search(case.similarity, *_size(case), anywhere=True).order, case)


def _candidates(case: Evidence) -> Order:
    similarity, steps = case.similarity, len(case.question.captions)
    assert similarity is not None
    return max(
        case.question.candidates, key=lambda order: score_order(similarity, order, steps)
    )  # fmt: skip


def _pairwise(case: Evidence) -> Order:
    later = case.later
    assert later is not None
    return max(case.question.candidates, key=lambda order: pairwise_score(later, order))


def _size(case: Evidence) -> tuple[int, int]:
    """Numbers M of pictures and L of captions."""
    return len(case.question.candidates[0]), len(case.question.captions)


def _chosen(order: Order, case: Evidence) -> Order:
    """The candidate most like an order, by the Levenshtein ratio."""
    return tuple(choose(order, case.question.candidates))


METHODS: dict[str, Method] = {
    "pairwise": Method(_pairwise, ("later",), False, "pairwise model alone"),
    "greedy": Method(
        _greedy, ("similarity", "first"), False, "greedy chain from the given first image"
    ),
    "greedy-starts": Method(
        _greedy_starts, ("similarity",), False, "greedy chains from every image, the best by score"
    ),
    "exact": Method(_exact, ("similarity",), True, "exact search over all orders"),
    "exact-first": Method(
        _exact_first, ("similarity", "first"), True,
        "exact search over the orders from the given first image",
    ),
    "exact-anywhere": Method(
        _exact_anywhere, ("similarity",), True,
        "exact search, the first image after any caption",
    ),
    "candidates": Method(
        _candidates, ("similarity",), True, "the best of the four candidates by score"
    ),
}  # fmt: skip
"""Ways to answer by name; "greedy" is the published one, the others but "pairwise" are ours."""

NEEDED = {
    "similarity": "a composer: give --checkpoint",
    "first": "a first image for each question: give --first",
    "later": "a pairwise model: give it as --first",
}
"""What a method that lacks something should be given."""
