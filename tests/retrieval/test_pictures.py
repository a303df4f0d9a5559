"""Pictures of CSS scenes: 2D pixel for pixel, 3D by what a viewer must be able to tell."""

import colorsys
import warnings

import numpy as np
import pytest

from retrieval.rendering.palette import COLORS, SHAPES, SIZES
from retrieval.rendering.pictures_2d import render_2d, to_uint8
from retrieval.rendering.pictures_3d import Camera, render_3d

CENTRE = [0.5, 0.5]


def one(shape="circle", size="large", color="red", pos=CENTRE):
    return [{"shape": shape, "size": size, "color": color, "pos": pos}]


def random_scene(rng, jitter=0.0):
    """Up to nine objects on the grid, each at most `jitter` away from its place."""
    return [
        {
            "shape": str(rng.choice(SHAPES)),
            "size": str(rng.choice(SIZES)),
            "color": str(rng.choice(list(COLORS))),
            "pos": [float((0.5 + i) / 3 + rng.uniform(-jitter, jitter)) for i in divmod(cell, 3)],
        }
        for cell in rng.permutation(9)[: rng.integers(10)]
    ]


def covered(picture):
    """Pixels (H, W) that show an object of a saturated colour."""
    return np.ptp(picture.astype(int), axis=-1) > 60


@pytest.mark.parametrize(
    ("shape", "small", "large"),
    [("rectangle", 64, 256), ("circle", 32, 128), ("triangle", 28, 120)],
)
def test_2d_pixel_counts(shape, small, large):
    for size, expected in (("small", small), ("large", large)):
        picture = render_2d(one(shape, size))
        assert picture.shape == (64, 64, 3) and picture.dtype == np.float32
        assert (picture != 1).any(axis=-1).sum() == expected


def slow_2d(scene):
    """Ask of every pixel in turn whether each object covers it, as the CSS notes word it."""
    picture = np.ones((64, 64, 3), np.float32)
    for item in scene:
        y, x = item["pos"][0] * 64, item["pos"][1] * 64
        r = 8.0 if item["size"] == "large" else 4.0
        for i in range(64):
            for j in range(64):
                if item["shape"] == "rectangle":
                    inside = int(y - r) <= i < int(y + r) and int(x - r) <= j < int(x + r)
                elif item["shape"] == "circle":
                    x0 = x + (abs(i - y) - r)
                    inside = int(y - r) <= i <= int(y + r) and int(x0) <= j < int(2 * x - x0)
                else:
                    x0 = x + (i - y + r) / 2
                    low, high = min(x0, 2 * x - x0), max(x0, 2 * x - x0)
                    inside = int(y - r) <= i < int(y + r) and int(low) <= j < int(high)
                if inside:
                    picture[i, j] = np.array(COLORS[item["color"]]) / 255
    return picture


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_2d_equals_the_slow_way(jitter):
    rng = np.random.default_rng(0)
    for _ in range(8):
        scene = random_scene(rng, jitter)
        np.testing.assert_allclose(render_2d(scene), slow_2d(scene), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_2d_cuts_objects_off_at_the_border(shape):
    for pos in ([0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]):
        painted = (render_2d(one(shape, pos=pos)) != 1).any(axis=-1)
        rows, columns = np.nonzero(painted)
        assert painted.any()
        assert np.all(abs(rows - 64 * pos[0]) <= 8) and np.all(abs(columns - 64 * pos[1]) <= 8)


def test_2d_bytes_are_the_palette():
    picture = to_uint8(render_2d(one(color="purple")))
    assert tuple(picture[32, 32]) == COLORS["purple"]
    assert tuple(picture[0, 0]) == (255, 255, 255)


def test_2d_unknown_shape():
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        render_2d(one("star"))


def test_3d_same_generator_same_picture():
    scene = random_scene(np.random.default_rng(1))
    first, again = (render_3d(scene, np.random.default_rng(7)) for _ in range(2))
    other = render_3d(scene, np.random.default_rng(8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_3d_color_is_seen_where_the_object_stands(shape, color):
    row, column = 1 / 6, 5 / 6  # top right
    picture = render_3d(one(shape, "large", color, [row, column]), np.random.default_rng(3))
    camera = Camera.draw(np.random.default_rng(3), 64, 64)  # the first thing drawn
    y, x = camera.project(np.array([[2.0, 2.25, 0.6]]))[0].astype(int)
    assert y < 64 / 3 and x > 64 * 2 / 3

    patch = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)
    hue, saturation, _ = colorsys.rgb_to_hsv(*patch / 255)
    if color == "gray":
        assert saturation < 0.1 and patch.max() < picture[0, 0].min() - 40  # darker than the floor
    else:
        assert hue == pytest.approx(
            colorsys.rgb_to_hsv(*np.array(COLORS[color]) / 255)[0], abs=0.03
        )
        assert saturation > 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_3d_every_large_object_covers_more_than_any_small_one(shape):
    rng = np.random.default_rng(0)
    grid = [[(0.5 + i) / 3, (0.5 + j) / 3] for i in range(3) for j in range(3)]
    small, large = (
        [covered(render_3d(one(shape, size, "blue", pos), rng)).sum() for pos in grid]
        for size in SIZES
    )
    assert min(large) > 1.6 * max(small)


def test_3d_objects_are_whole_and_in_view():
    """In the fullest scene, nearer rows hide little and nothing leaves the picture."""
    for seed in range(5):
        cells = [[(0.5 + i) / 3, (0.5 + j) / 3] for i in range(3) for j in range(3)]
        alone = [
            covered(render_3d(one("rectangle", pos=pos), np.random.default_rng(seed))).sum()
            for pos in cells
        ]
        full = [one("rectangle", pos=pos)[0] for pos in cells]
        seen = covered(render_3d(full, np.random.default_rng(seed)))
        assert not (seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any())
        assert seen.sum() > 0.88 * sum(alone)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (64, 150), (160, 120)])
def test_3d_size_is_honoured(width, height):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render_3d(
            random_scene(np.random.default_rng(2)), np.random.default_rng(0), width, height
        )
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8


def test_3d_empty_scene_is_grey_floor():
    picture = render_3d([], np.random.default_rng(0)).astype(int)
    assert np.ptp(picture, axis=-1).max() < 10
    assert picture.min() > 140
