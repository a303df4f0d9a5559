"""Ranks beyond a depth: what follows from them is told, and no more."""

import itertools
import math

import numpy as np
import pytest

from retrieval.metrics import (
    BEYOND,
    best_log_rank_integral,
    rank_percentile,
    recall_at_k,
    reciprocal_rank,
    success_by_turn,
)

N, DEPTH = 7, 3
TOLD = [0.0, 1.5, 2.0, BEYOND]


def worlds(told) -> list[list[float]]:
    """All true ranks that are told as these: beyond is anything from the depth on."""
    choices = [[r] if r != BEYOND else [float(n) for n in range(DEPTH, N)] for r in told]
    return [list(world) for world in itertools.product(*choices)]


METRICS = {
    "percentile": lambda ranks: rank_percentile(ranks, N),
    "mrr": reciprocal_rank,
    "bri": best_log_rank_integral,
    **{f"recall@{k}": lambda r, k=k: recall_at_k(r, k, DEPTH) for k in (1, 2, 3, 4, 6)},
    **{f"success@{k}": lambda r, k=k: success_by_turn(r, k, DEPTH) for k in (1, 2, 3, 4, 6)},
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_told_only_where_all_worlds_agree(name):
    metric = METRICS[name]
    for told in itertools.product(TOLD, repeat=3):
        values = metric(np.array([told]))[0]
        everywhere = np.array([metric(np.array([world]))[0] for world in worlds(told)])
        assert np.isfinite(everywhere).all()
        for turn, value in enumerate(values):
            if not math.isnan(value):
                assert (everywhere[:, turn] == value).all()
            else:  # nothing is withheld that is known
                assert len(set(everywhere[:, turn].tolist())) > 1 or name == "bri"


def test_without_a_depth_nothing_is_known_of_ranks_beyond_it():
    ranks = np.array([[0.0, BEYOND, 2.0]])
    np.testing.assert_array_equal(recall_at_k(ranks, 1), [[1, np.nan, 0]])
    np.testing.assert_array_equal(success_by_turn(ranks[:, 1:], 1), [[np.nan, np.nan]])


def test_best_ranks_count_from_where_they_are_known():
    ranks = np.array([[2.0, BEYOND, 0.0], [BEYOND, 1.0, 1.0]])
    bri = best_log_rank_integral(ranks)
    assert bri[0].tolist() == pytest.approx([math.log(3), math.log(3), math.log(3) * 0.75])
    assert np.isnan(bri[1]).all()  # its first place could be anything, and the area has it in
