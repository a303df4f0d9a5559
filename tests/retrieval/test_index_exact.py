"""The exact index by every engine, in blocks of every size: one answer, that of a slow sort."""

import numpy as np
import pytest

import retrieval.indexes.exact as exact
import retrieval.indexes.products as products
from retrieval.index import ExactIndex
from retrieval.indexes.scoring import paired_scores
from retrieval.indexes.selection import floor_of, prune, top_k

N, D, B = 700, 12, 9


def gallery(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "ties":
        return rng.integers(-1, 2, (N, D)).astype(np.float32)
    if kind == "twins":  # pairs that float32 products cannot tell apart
        rows = np.repeat(rng.normal(size=(N // 2, D)), 2, axis=0)
        rows[1::2] *= 1 + 1e-7
        return rows.astype(np.float32)
    if kind == "collapsed":
        return np.full((N, D), 0.3, np.float32)
    return rng.normal(size=(N, D)).astype(np.float32)


def slow(embeddings: np.ndarray, query: np.ndarray, target: int, k: int):
    """Scores one by one, then a sort and a count."""
    zero = np.zeros(1, np.int64)
    scores = [
        float(paired_scores(query[None], zero, embeddings[image : image + 1], zero)[0])
        for image in range(len(embeddings))
    ]
    order = sorted(range(len(scores)), key=lambda image: (-scores[image], image))
    above = sum(score > scores[target] for score in scores)
    level = sum(score == scores[target] for score in scores)
    return order[:k], [scores[image] for image in order[:k]], above + (level - 1) / 2


@pytest.mark.parametrize("kind", ["plain", "ties", "twins", "collapsed"])
@pytest.mark.parametrize("k", [1, 6])
def test_answers_are_those_of_a_slow_sort_in_every_block(kind, k, monkeypatch):
    embeddings = gallery(kind)
    rng = np.random.default_rng(1)
    query = embeddings[rng.integers(N, size=B)] + (0 if kind == "ties" else 0.2)
    target = rng.integers(N, size=B)
    wanted = [slow(embeddings, *asked, k) for asked in zip(query, target, strict=True)]
    made = [ExactIndex(embeddings), ExactIndex(embeddings, engine="torch")]
    # one block and many, looked through at once and row by row
    for width, queries, at_once in (
        (4096, 512, 2**20),
        (128, 4, 2**20),
        (4096, 512, 1),
        (128, 3, 300),
    ):
        monkeypatch.setattr(products, "AT_ONCE", at_once)
        monkeypatch.setattr(ExactIndex, "_blocks", blocks_of(width))
        monkeypatch.setattr(exact, "QUERIES", queries)
        for index in made:
            found = index.look_up(query, target, k)
            for row, (images, scores, rank) in enumerate(wanted):
                assert found.candidates[row].tolist() == images
                assert found.scores[row].tolist() == scores
                assert found.rank[row] == rank
            np.testing.assert_array_equal(index.search(query, k), found.candidates)
            np.testing.assert_array_equal(index.rank(query, target), found.rank)
            both = index.search_and_rank(query, target, k)
            np.testing.assert_array_equal(both[0], found.candidates)
            np.testing.assert_array_equal(both[1], found.rank)


@pytest.mark.parametrize("at_once", [1, 2**20])
def test_a_look_tells_what_a_loop_over_the_scores_tells(at_once, monkeypatch):
    """But for scores as near to a bound as rounding reaches: here they are whole numbers."""
    monkeypatch.setattr(products, "AT_ONCE", at_once)
    rng = np.random.default_rng(4)
    query, vectors = rng.integers(-3, 4, (5, D)), rng.integers(-3, 4, (200, D))
    low, high = np.full((5, 1), 20.0, np.float32), np.full((5, 1), 21.0, np.float32)
    least, slack = np.array([[0], [0], [0], [60], [0]], np.float32), np.ones((5, 1), np.float32)
    wish = products.Wish((low, high), 3, least, slack)
    asked = query.astype(np.float32)
    for engine in (products.NumpyProducts, products.TorchProducts):
        look = engine(vectors.astype(np.float32)).look(asked, slice(20, 200), wish)
        between, best = [], []
        for row in range(5):
            scores = [int(query[row] @ vectors[image]) for image in range(20, 200)]
            assert look.above[row] == sum(score > 21 for score in scores)
            between += [(row, at) for at, score in enumerate(scores) if 20 <= score <= 21]
            floor = max(float(least[row, 0]), sorted(scores)[-3]) - 1
            best += [(row, at, score) for at, score in enumerate(scores) if score >= floor]
        assert list(zip(*(part.tolist() for part in look.open), strict=True)) == between
        assert list(zip(*(part.tolist() for part in look.best), strict=True)) == best
        assert between and best


def test_a_look_ends_where_all_is_open(monkeypatch):
    """It would list all pairs of a collapsed gallery, to no purpose."""
    monkeypatch.setattr(products, "AT_ONCE", 1)
    vectors = gallery("collapsed")
    query, bound = np.ones((B, D), np.float32), np.full((B, 1), 0.3 * D, np.float32)
    wish = products.Wish((bound - 1, bound + 1), 1, bound - 9, np.ones((B, 1)))
    look = products.NumpyProducts(vectors).look(query, slice(0, N), wish)
    assert B * N / products.OPEN_SHARE < len(look.open[0]) < B * N
    assert not len(look.best[0])
    look = products.NumpyProducts(vectors).look(query, slice(0, N), wish._replace(between=None))
    assert B * N / products.OPEN_SHARE < len(look.best[0]) < B * N


def blocks_of(width: int):
    def blocks(index, count):
        for start in range(0, index.size, width):
            yield slice(start, min(start + width, index.size))

    return blocks


def test_scores_of_the_whole_gallery_are_those_of_the_candidates():
    index = ExactIndex(gallery("plain"))
    query = np.random.default_rng(2).normal(size=(3, D)).astype(np.float32)
    found = index.look_up(query, np.zeros(3, np.int64), N)
    table = index.scores(query)
    np.testing.assert_array_equal(np.take_along_axis(table, found.candidates, 1), found.scores)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_half_precision_from_a_memory_map_is_exact_for_what_is_stored(tmp_path, engine):
    stored = gallery("plain").astype(np.float16)
    np.save(tmp_path / "half.npy", stored)
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r")
    index = ExactIndex(mapped, engine=engine)
    assert index.embeddings.dtype == np.float16
    assert np.shares_memory(index.embeddings, mapped)  # no copy
    same = ExactIndex(stored.astype(np.float32))
    query = np.random.default_rng(3).normal(size=(B, D)).astype(np.float32)
    target = np.arange(B)
    for ours, theirs in zip(index.look_up(query, target, 7), same.look_up(query, target, 7),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    assert index.query_of(target).dtype == np.float32
    np.testing.assert_array_equal(index.query_of(target), stored[:B].astype(np.float32))


def test_nothing_is_found_in_an_empty_gallery_and_nobody_asks():
    index = ExactIndex(np.empty((0, 3), np.float32))
    assert index.search(np.ones((2, 3), np.float32), 4).shape == (2, 0)
    index = ExactIndex(np.eye(3))
    assert index.search(np.empty((0, 3), np.float32), 2).shape == (0, 2)
    assert index.rank(np.empty((0, 3), np.float32), np.empty(0, np.int64)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_embeddings_that_give_no_finite_scores_are_refused_when_asked(bad):
    embeddings = gallery("plain")
    embeddings[5, 5] = bad
    index = ExactIndex(embeddings)
    query = np.full((2, D), 1e9, np.float32)
    for ask in (lambda: index.search(query, 1), lambda: index.rank(query, np.array([0, 1]))):
        with pytest.raises(ValueError, match="not finite"):
            ask()


def test_engines_and_devices_are_named():
    with pytest.raises(ValueError, match="Did you mean 'torch'"):
        ExactIndex(np.eye(3), engine="troch")
    with pytest.raises(ValueError, match="use engine='torch'"):
        ExactIndex(np.eye(3), device="cuda")
    with pytest.raises(ValueError, match=r"expected embeddings \(N, D\)"):
        ExactIndex(np.ones(3))
    import torch

    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ValueError, match="set_float32_matmul_precision"):
            ExactIndex(np.eye(3), engine="torch")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("size", [60, 5000])
def test_a_floor_is_reached_by_k(k, size):
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=(20, size)), rng.integers(0, 4, (20, size)).astype(np.float32)):
        reached = (scores >= floor_of(scores, k)[:, None]).sum(axis=1)
        assert (reached >= k).all()
        for row, values in enumerate(scores):
            order = sorted(range(size), key=lambda image: (-values[image], image))
            assert top_k(scores, k)[row].tolist() == order[:k]


def test_pruning_keeps_what_may_still_be_among_the_best():
    images = np.array([[3, 5, 6, 9], [1, 2, 3, 4]])
    scores = np.array([[0.5, 0.9, 0.45, 0.1], [1, 1, 1, 1]], np.float32)
    kept, values = prune((images, scores), 2, np.array([[0.1], [0.0]]))
    assert kept.tolist() == [[3, 5, 6, -1], [1, 2, 3, 4]]
    assert values[0, -1] == -np.inf
