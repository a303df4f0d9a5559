"""A score is a function of two vectors alone: every way of working it out gives the same bits."""

import random
from fractions import Fraction

import numpy as np
import pytest

from retrieval.indexes.scoring import (
    largest_scores,
    listed_scores,
    longest,
    margin,
    paired_scores,
    score_table,
    sum_by_halves,
)


def by_hand(query, vector) -> np.float32:
    """Halves added with Python's own numbers, which are float64."""
    terms = [float(a) * float(b) for a, b in zip(query, vector, strict=True)]
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        second = terms[half:] + [None] * (2 * half - len(terms))
        pairs = zip(terms[:half], second, strict=True)
        terms = [a if b is None else a + b for a, b in pairs]
    return np.float32(terms[0])


def vectors(kind: str, count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "one-hot":  # many products of zero, many ties
        return (rng.random((count, dim)) < 0.2).astype(np.float32) / np.float32(3)
    if kind == "signs":  # sums that cancel to zero
        return rng.integers(-1, 2, (count, dim)).astype(np.float32) * np.float32(0.1)
    if kind == "uneven":  # small numbers beside large ones
        scale = 10.0 ** rng.integers(-6, 6, (count, dim))
        return (rng.normal(size=(count, dim)) * scale).astype(np.float32)
    return rng.normal(size=(count, dim)).astype(np.float32)


KINDS = ("normal", "one-hot", "signs", "uneven")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 7, 64])
def test_every_way_gives_the_bits_of_the_sum_by_halves(kind, dim):
    queries, gallery = vectors(kind, 5, dim, 0), vectors(kind, 40, dim, 1)
    wanted = np.array([[by_hand(query, vector) for vector in gallery] for query in queries])
    np.testing.assert_array_equal(score_table(queries, gallery), wanted)
    rows, images = np.divmod(np.arange(wanted.size), 40)
    np.testing.assert_array_equal(
        paired_scores(queries, rows, gallery, images).reshape(5, 40), wanted
    )
    largest = largest_scores(queries, longest(gallery))
    np.testing.assert_array_equal(
        listed_scores(queries, rows, gallery, images, largest).reshape(5, 40), wanted
    )


def test_sums_next_to_the_middle_between_two_floats_are_settled():
    """1 + 2**-24 is the middle: what is left of the small terms decides, and order loses them."""
    dim = 33
    queries = np.ones((1, dim), np.float32)
    gallery = np.zeros((200, dim), np.float32)
    shuffler = random.Random(0)
    for row in gallery:
        terms = [1.0, 2.0**-24, *[shuffler.choice((-1, 1)) * 2.0**-53] * 31]
        shuffler.shuffle(terms)
        row[:] = terms
    wanted = np.array([by_hand(queries[0], row) for row in gallery])
    assert len(set(wanted.tolist())) > 1  # a plain product would be at the mercy of its order
    np.testing.assert_array_equal(score_table(queries, gallery)[0], wanted)
    for size in (1, 3, 50):
        np.testing.assert_array_equal(score_table(queries, gallery[:size])[0], wanted[:size])


@pytest.mark.parametrize("width", [0, 1, 2, 5, 8, 13])
def test_halves_are_summed_whole(width):
    terms = np.random.default_rng(0).integers(-99, 99, (6, width)).astype(np.float64)
    np.testing.assert_array_equal(sum_by_halves(terms.copy()), terms.sum(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_in_float32_lies_within_the_margin(kind):
    queries, gallery = vectors(kind, 20, 64, 0), vectors(kind, 50, 64, 1)
    exact = [
        [float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(q, x, strict=True)))
         for x in gallery[:10]] for q in queries
    ]  # fmt: skip
    slack = margin(largest_scores(queries, longest(gallery)), 64)
    assert (np.abs(queries @ gallery[:10].T - np.array(exact)) <= slack).all()
    assert (np.abs(score_table(queries, gallery[:10]) - np.array(exact)) <= slack).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_longest_vector_is_bounded_from_above(dtype):
    gallery = vectors("normal", 300, 24, 0).astype(dtype)
    true = max(sum(float(number) ** 2 for number in row) ** 0.5 for row in gallery)
    assert true <= longest(gallery) < 1.01 * true
    gallery[7, 3] = np.nan
    assert np.isnan(longest(gallery))
    gallery[7, 3] = np.inf
    assert longest(gallery) == np.inf
