"""Choices from a row of uniform numbers: every number leads to one option, in fair shares."""

import numpy as np
import pytest

from retrieval.choices import drawing, pick, pick_weighted

EVENLY = (np.arange(1000) + 0.5) / 1000


def test_numbers_come_in_order_from_lists_and_arrays():
    for row in ([0.25, 0.5, 0.0], np.array([0.25, 0.5, 0.0])):
        draw = drawing(row)
        assert [draw(), draw(), draw()] == [0.25, 0.5, 0.0]
        with pytest.raises(StopIteration):
            draw()


def test_options_are_equally_likely():
    draw = drawing(EVENLY)
    picked = [pick("abcd", draw) for _ in EVENLY]
    assert picked == ["abcd"[number // 250] for number in range(1000)]


@pytest.mark.parametrize("weights", [[3.0, 1.0], [0.5, 0.25, 0.25], [1, 2, 3, 4], [7]])
def test_weights_are_shares(weights):
    """By hand: an option is picked where the number lies in its part of [0, 1)."""
    ends = np.cumsum(weights) / np.sum(weights)
    draw = drawing(EVENLY)
    for number in EVENLY:
        expected = next(place for place, end in enumerate(ends) if number < end)
        assert pick_weighted(range(len(weights)), weights, draw) == expected


def test_the_largest_number_picks_the_last():
    largest = np.nextafter(1.0, 0.0)
    for options in ("ab", "abc", range(1000)):
        assert pick(options, drawing([largest])) == options[-1]
        weights = [0.1] * len(options)
        assert pick_weighted(options, weights, drawing([largest])) == options[-1]
