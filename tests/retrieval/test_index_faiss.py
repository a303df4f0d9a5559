"""Faiss behind the index protocol, against the exact index."""

import numpy as np
import pytest

from retrieval.index import ExactIndex
from retrieval.indexes import INDEXES, open_index

pytest.importorskip("faiss", reason="Faiss is not installed: pip install '.[faiss]'")

from retrieval.indexes.faiss import RECIPES, FaissIndex
from retrieval.metrics import BEYOND

N, D, B = 600, 16, 20


@pytest.fixture
def embeddings() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(B, D)).astype(np.float32)


def test_flat_is_exact(embeddings, queries):
    target = np.arange(B) * 7
    found = FaissIndex(embeddings).look_up(queries, target, 10)
    for ours, theirs in zip(found, ExactIndex(embeddings).look_up(queries, target, 10),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", RECIPES)
def test_every_kind_names_real_scores_in_order_and_counts_ranks(embeddings, queries, kind):
    exact = ExactIndex(embeddings)
    index = FaissIndex(embeddings, kind)
    target = np.arange(B)
    found = index.look_up(queries, target, 10)
    table = exact.scores(queries)
    for row in range(B):
        images = found.candidates[row].tolist()
        assert len(set(images)) == 10
        assert found.scores[row].tolist() == table[row, images].tolist()
        assert images == sorted(images, key=lambda image: (-table[row, image], image))
    np.testing.assert_array_equal(found.rank, exact.rank(queries, target))
    np.testing.assert_array_equal(index.search(queries, 10), found.candidates)
    true = exact.search(queries, 10)
    hits = (found.candidates[:, :, None] == true[:, None]).any(axis=1)
    assert hits.mean() > 0.7  # an engine that finds little would be of no use


def test_a_narrow_search_is_filled_up_exactly(embeddings, queries):
    index = FaissIndex(embeddings, "ivf", effort=1)
    named = index.engine.search(queries, 400)[1]
    assert (named < 0).any()  # the cells searched hold fewer
    found = index.search(queries, 400)
    short = (named < 0).any(axis=1)
    np.testing.assert_array_equal(found[short], ExactIndex(embeddings).search(queries, 400)[short])


def test_ranks_that_are_not_counted_are_not_known(embeddings, queries):
    index = FaissIndex(embeddings, "hnsw", counted=False)
    assert index.depth == 0
    assert (index.look_up(queries, np.arange(B)).rank == BEYOND).all()
    assert (index.rank(queries, np.arange(B)) == BEYOND).all()


def test_ties_are_those_of_the_exact_index():
    index = FaissIndex(np.ones((30, 4), np.float32))
    assert index.rank(np.ones((1, 4), np.float32), np.array([3])) == 14.5
    index.ties = "optimistic"
    assert index.rank(np.ones((1, 4), np.float32), np.array([3])) == 0


def test_wrong_kinds_are_named(embeddings):
    with pytest.raises(ValueError, match="Did you mean 'hnsw'"):
        FaissIndex(embeddings, "hsnw")
    with pytest.raises(ValueError, match="at least 256 images"):
        FaissIndex(embeddings[:20], "pq")
    with pytest.raises(ValueError, match="Known: flat, hnsw, ivf, pq"):
        open_index("faiss", embeddings, "tree")


def test_indexes_open_by_name(embeddings, queries):
    assert set(INDEXES) == {"exact", "faiss", "milvus"}
    for index in (open_index("exact", embeddings), open_index("faiss", embeddings, "hnsw")):
        assert index.search(queries, 2).shape == (B, 2)
    with pytest.raises(ValueError, match="unknown index 'fais'. Did you mean 'faiss'"):
        open_index("fais", embeddings)
    with pytest.raises(ValueError, match="has no address"):
        open_index("exact", embeddings, "a.db")
    with pytest.raises(ValueError, match="needs an address"):
        open_index("milvus", embeddings)
