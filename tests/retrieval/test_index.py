"""Search and ranks against loops over sorted scores, on embeddings with exact arithmetic."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from retrieval.index import ExactIndex, ScoreIndex, top_k

N, D = 30, 4


@pytest.fixture
def embeddings() -> np.ndarray:
    """Small integers, so that many images tie exactly."""
    return np.random.default_rng(0).integers(-1, 2, (N, D)).astype(np.float32)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).integers(-3, 4, (50, D)).astype(np.float32)


def slow_scores(embeddings, query) -> list[int]:
    return [sum(int(a) * int(b) for a, b in zip(row, query, strict=True)) for row in embeddings]


def slow_order(scores) -> list[int]:
    return sorted(range(len(scores)), key=lambda image: (-scores[image], image))


def slow_rank(scores, target) -> Fraction:
    above = sum(score > scores[target] for score in scores)
    return above + Fraction(sum(score == scores[target] for score in scores) - 1, 2)


@pytest.mark.parametrize("k", [1, 2, 7, N - 1, N, N + 5])
def test_search_is_a_sort_with_ties_in_gallery_order(embeddings, queries, k):
    found = ExactIndex(embeddings).search(queries, k)
    assert found.shape == (50, min(k, N))
    for query, images in zip(queries, found, strict=True):
        assert images.tolist() == slow_order(slow_scores(embeddings, query))[:k]


@pytest.mark.parametrize("ties", ["half", "optimistic"])
def test_rank_counts_what_is_above_and_half_of_the_ties(embeddings, queries, ties):
    index = ExactIndex(embeddings, ties)
    target = np.random.default_rng(2).integers(N, size=50)
    ranks = index.rank(queries, target)
    for row in range(50):
        scores = slow_scores(embeddings, queries[row])
        wanted = slow_rank(scores, target[row])
        if ties == "optimistic":
            wanted = sum(score > scores[target[row]] for score in scores)
        assert ranks[row] == wanted
    assert (ranks % 1 == 0.5).any() == (ties == "half")


def test_one_look_is_search_and_rank(embeddings, queries):
    index = ExactIndex(embeddings)
    target = np.random.default_rng(2).integers(N, size=50)
    for k in (1, 6):
        found = index.look_up(queries, target, k)
        np.testing.assert_array_equal(found.candidates, index.search(queries, k))
        np.testing.assert_array_equal(found.rank, index.rank(queries, target))
        for row in range(50):
            scores = slow_scores(embeddings, queries[row])
            assert found.scores[row].tolist() == [scores[image] for image in found.candidates[row]]


def test_a_collapsed_embedding_scores_chance():
    index = ExactIndex(np.ones((N, D), np.float32))
    ranks = index.rank(np.ones((5, D), np.float32), np.arange(5))
    np.testing.assert_array_equal(ranks, (N - 1) / 2)
    published = ExactIndex(np.ones((N, D), np.float32), ties="optimistic")
    np.testing.assert_array_equal(published.rank(np.ones((5, D), np.float32), np.arange(5)), 0)


def test_an_image_asks_for_itself():
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(N, D)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    for index in (ExactIndex(embeddings), ScoreIndex(N)):
        image = rng.permutation(N)
        query = index.query_of(image)
        assert query.shape == (N, index.dim) and index.size == N
        np.testing.assert_array_equal(index.search(query, 1)[:, 0], image)
        np.testing.assert_array_equal(index.rank(query, image), 0)
        query[:] = 0  # a fresh array: the index does not change
        np.testing.assert_array_equal(index.search(index.query_of(image), 1)[:, 0], image)


def test_order_and_ranks_depend_on_no_other_row_and_on_no_batch_size():
    """BLAS adds in another order for one query than for many: scores must not show it."""
    rng = np.random.default_rng(0)
    scenes = np.eye(16, dtype=np.float32)[rng.integers(16, size=(200, 9))].reshape(200, -1)
    scenes /= np.linalg.norm(scenes, axis=1, keepdims=True)  # few distinct cosines: many ties
    index = ExactIndex(scenes)
    noise = rng.normal(size=(60, 144)).astype(np.float32)
    for queries in (index.query_of(np.arange(60)), noise):
        target = rng.integers(200, size=60)
        together = index.look_up(queries, target, 20)
        for size in (1, 2, 3, 8, 17):
            part = index.look_up(queries[5 : 5 + size], target[5 : 5 + size], 20)
            np.testing.assert_array_equal(part.candidates, together.candidates[5 : 5 + size])
            np.testing.assert_array_equal(part.rank, together.rank[5 : 5 + size])
            np.testing.assert_array_equal(part.scores, together.scores[5 : 5 + size])
    shared = (scenes[:60, None].astype(bool) & scenes[None].astype(bool)).sum(-1)  # (60, 200)
    ranks = index.rank(index.query_of(np.arange(60)), target)
    for row in range(60):
        assert ranks[row] == slow_rank(shared[row].tolist(), target[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(embeddings, bad):
    query = np.ones((3, D), np.float32)
    query[1, 2] = bad
    index = ExactIndex(embeddings + 2)
    with pytest.raises(ValueError, match="finite"):
        index.rank(query, np.arange(3))
    with pytest.raises(ValueError, match="finite"):
        index.look_up(query, np.arange(3))
    scores = np.zeros((2, N))
    scores[1, 7] = bad
    with pytest.raises(ValueError, match="finite"):
        ScoreIndex(N).rank(scores, np.arange(2))


def test_queries_of_another_shape_are_named(embeddings):
    index = ExactIndex(embeddings)
    assert (index.size, index.dim) == (N, D)
    with pytest.raises(ValueError, match=r"expected queries \(B, 4\), got \(2, 5\)"):
        index.search(np.ones((2, 5), np.float32), 1)
    with pytest.raises(ValueError, match=r"expected queries \(B, 4\), got \(4,\)"):
        index.rank(np.ones(4, np.float32), np.array([0]))
    with pytest.raises(ValueError, match=r"expected scores \(B, 30\), got \(2, 4\)"):
        ScoreIndex(N).search(np.ones((2, D)), 1)


@pytest.mark.parametrize("ties", ["half", "optimistic"])
def test_score_index_takes_scores_as_they_are(ties):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, N)).astype(np.float32)
    target = rng.integers(N, size=40)
    index = ScoreIndex(N, ties)
    found = index.look_up(scores, target, 5)
    for row in range(40):
        told = scores[row].tolist()
        assert found.candidates[row].tolist() == slow_order(told)[:5]
        above = sum(score > told[target[row]] for score in told)
        assert found.rank[row] == (slow_rank(told, target[row]) if ties == "half" else above)


@pytest.mark.parametrize("k", [1, 3, 10, 12, 20])
def test_top_k_is_a_stable_sort(k):
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=(30, 12)), rng.integers(0, 3, (30, 12)), np.zeros((3, 12))):
        found = top_k(scores, k)
        assert found.shape == (len(scores), min(k, 12))
        for values, columns in zip(scores, found, strict=True):
            assert columns.tolist() == slow_order(values.tolist())[:k]


def test_an_index_pickles(embeddings, queries):
    index = ExactIndex(embeddings, "optimistic")
    twin = pickle.loads(pickle.dumps(index))
    assert twin.ties == "optimistic"
    np.testing.assert_array_equal(twin.search(queries, 5), index.search(queries, 5))


def test_an_index_keeps_its_own_precision():
    index = ExactIndex(np.asfortranarray(np.eye(3, dtype=np.float64)))
    assert index.embeddings.dtype == np.float32
    assert index.scores(np.ones((1, 3))).dtype == np.float32
    np.testing.assert_array_equal(index.scores(np.array([[1, 2, 3]])), [[1, 2, 3]])
