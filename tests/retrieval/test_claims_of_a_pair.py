"""A claim about one pair of scenes in plain numbers is the claim about arrays."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.rendering.claims import PLACE_WORDS, TEMPLATES, Claim, cells_of
from retrieval.rendering.scenes import CELLS, sample_edit, sample_scene


def pairs_of(rng):
    """Two scenes: unrelated, one edit apart, or the same."""
    scene = sample_scene(rng)
    kind = rng.integers(4)
    other = scene if kind == 0 else sample_scene(rng)
    return scene, sample_edit(scene, rng).scene if kind > 1 else other


def partial_codes(scene, rng):
    """Part of what is known of a cell, or nothing."""
    codes = scene[rng.integers(CELLS)] * (rng.random(3) < 0.5)
    return tuple(int(code) for code in codes)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_one_pair_is_judged_as_arrays_are(kind):
    rng = np.random.default_rng(sorted(TEMPLATES).index(kind))
    everywhere = frozenset(range(CELLS))
    places = [everywhere, everywhere, *PLACE_WORDS.values()]
    found = []
    for _ in range(1500):
        before, after = pairs_of(rng)
        claim = Claim(
            kind,
            partial_codes(after, rng),
            partial_codes(before, rng),
            places[rng.integers(len(places))],
            int(rng.integers(1, 4)),
        )
        truth = claim.holds_of(cells_of(before), cells_of(after))
        assert truth == bool(claim.holds(before, after)), claim
        found.append(truth)
    assert 5 < sum(found) < 1495


def test_cells_are_plain_numbers():
    scene = np.arange(27, dtype=np.int8).reshape(9, 3)
    cells = cells_of(scene)
    assert cells[0] == (0, 1, 2) and cells[-1] == (24, 25, 26) and len(cells) == 9
    assert type(cells[0][0]) is int
