"""Pictures moved at random, against pixel by pixel."""

import numpy as np

from retrieval.shifting import shifted


def test_every_pixel_comes_from_where_the_move_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 7, 5, 3), dtype=np.uint8)
    moved = shifted(images, 2, np.random.default_rng(3))
    moves = np.random.default_rng(3).integers(0, 5, size=(6, 2)) - 2
    assert len({tuple(move) for move in moves}) > 2
    for b, (down, right) in enumerate(moves):
        for y in range(7):
            for x in range(5):
                source = images[b, min(max(y + down, 0), 6), min(max(x + right, 0), 4)]
                assert (moved[b, y, x] == source).all()


def test_no_shift_leaves_pictures_alone() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert shifted(images, 0, np.random.default_rng(0)) is images
