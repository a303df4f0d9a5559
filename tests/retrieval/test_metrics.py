"""Metrics against slow loops and pencil and paper."""

import math
from pathlib import Path

import numpy as np
import pytest

from retrieval.files import atomic_write
from retrieval.metrics import (
    best_log_rank_integral,
    rank_of,
    rank_percentile,
    recall_at_k,
    reciprocal_rank,
    success_by_turn,
)

RANKS = np.array([[7.0, 0.5, 3.0, 0.0], [2.0, 12.0, 2.0, 2.0]])  # (E, T + 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_equals_a_slow_count(rng: np.random.Generator, dtype: type) -> None:
    scores: np.ndarray = rng.integers(0, 6, size=(20, 15)).astype(dtype)  # few values: many ties
    target = rng.integers(15, size=20)
    half, optimistic = rank_of(scores, target), rank_of(scores, target, ties="optimistic")
    for b in range(20):
        above = tied = 0
        for n in range(15):
            if n != target[b]:
                above += scores[b, n] > scores[b, target[b]]
                tied += scores[b, n] == scores[b, target[b]]
        assert half[b] == above + tied / 2
        assert optimistic[b] == above
    assert half.dtype == np.float64


def test_rank_without_ties_is_the_place_in_the_sorted_order(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(9, 30))
    target = rng.integers(30, size=9)
    order = np.argsort(-scores, axis=1)
    places = [order[b].tolist().index(target[b]) for b in range(9)]
    assert rank_of(scores, target).tolist() == places


@pytest.mark.parametrize("gallery_size", [2, 3, 10, 4658])
def test_a_collapsed_embedding_is_at_chance(gallery_size: int) -> None:
    target = np.array([0, gallery_size - 1])
    scores = np.full((2, gallery_size), 0.7, dtype=np.float32)
    assert (rank_percentile(rank_of(scores, target), gallery_size) == 0.5).all()
    # the published count calls the same embedding perfect
    assert (rank_of(scores, target, ties="optimistic") == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ties", ["half", "optimistic"])
def test_scores_that_are_not_finite_are_refused(bad: float, ties: str) -> None:
    scores = np.zeros((2, 4))
    scores[1, 3] = bad
    with pytest.raises(ValueError, match="1 of 8 scores are not finite"):
        rank_of(scores, np.array([0, 1]), ties=ties)  # type: ignore[arg-type]


def test_unknown_ties_are_refused() -> None:
    with pytest.raises(ValueError, match="Known: half, optimistic"):
        rank_of(np.zeros((1, 2)), np.array([0]), ties="strict")  # type: ignore[arg-type]


def test_percentile_of_first_middle_and_last() -> None:
    assert rank_percentile(np.array([0, 5, 10]), 11).tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="at least 2 images"):
        rank_percentile(np.array([0.0]), 1)


def test_recall_and_reciprocal_rank_by_hand() -> None:
    assert recall_at_k(RANKS, 1).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    assert recall_at_k(RANKS, 3).tolist() == [[0, 1, 0, 1], [1, 0, 1, 1]]
    assert reciprocal_rank(np.array([0, 1, 0.5, 3])).tolist() == [1, 1 / 2, 1 / 1.5, 1 / 4]


@pytest.mark.parametrize(("tied", "found"), [(1, 1), (2, 1), (6, 1), (7, 0)])
def test_recall_judges_a_tied_group_by_its_middle(tied: int, found: int) -> None:
    scores = np.array([[1.0] * tied + [0.0] * 9])
    k = 1 if tied <= 2 else 3
    assert recall_at_k(rank_of(scores, np.array([0])), k).tolist() == [found]


def test_success_remembers_recall_does_not(rng: np.random.Generator) -> None:
    assert success_by_turn(RANKS, 1).tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]
    ranks = rng.integers(0, 20, size=(30, 6)).astype(float)
    for e in range(30):
        for t in range(6):
            expected = any(rank < 5 for rank in ranks[e, : t + 1])
            assert success_by_turn(ranks, 5)[e, t] == expected


def test_best_log_rank_integral_by_hand() -> None:
    # 1-based ranks 8, 2, 4, 1, so the best so far is 8, 2, 2, 1: in units of ln 2, 3 1 1 0
    ranks = np.array([[7.0, 1.0, 3.0, 0.0]])
    expected = np.array([3, 2 / 1, (2 + 1) / 2, (2 + 1 + 0.5) / 3]) * math.log(2)
    np.testing.assert_allclose(best_log_rank_integral(ranks)[0], expected, rtol=1e-14)


def test_best_log_rank_integral_is_the_trapezoid_area(rng: np.random.Generator) -> None:
    ranks = rng.integers(0, 50, size=(12, 7)).astype(float)
    found = best_log_rank_integral(ranks)
    for e in range(12):
        logs = [math.log(1 + min(ranks[e, : t + 1])) for t in range(7)]
        assert found[e, 0] == pytest.approx(logs[0])
        area = 0.0
        for t in range(1, 7):
            area += (logs[t - 1] + logs[t]) / 2
            assert found[e, t] == pytest.approx(area / t)


def test_best_log_rank_integral_at_its_ends() -> None:
    assert (best_log_rank_integral(np.zeros((2, 4))) == 0).all()
    np.testing.assert_allclose(best_log_rank_integral(np.full((1, 5), 9.0)), math.log(10))
    np.testing.assert_allclose(best_log_rank_integral(np.array([[4]])), [[math.log(5)]])


def test_atomic_write_replaces_on_success_and_leaves_no_trace_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ranks.npz"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npz"
        np.savez(temporary, ranks=RANKS)
        assert not path.exists()
    before = path.read_bytes()

    with pytest.raises(RuntimeError, match="stopped"), atomic_write(path) as temporary:
        temporary.write_bytes(b"half a file")
        raise RuntimeError("stopped")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
