"""What the system believes is wanted, drawn into the dialog by a callable that is handed over."""

import numpy as np
import pytest

from envs.dialog import Dialog
from envs.drawing import draw_dialog
from envs.history import draw_history
from envs.single import BELIEVED, DialogRetrievalEnv


def noise(seed: int) -> np.ndarray:
    """A picture that is found nowhere else."""
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def places(strip: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners of a picture in a strip, at twice its size."""
    patch = picture.repeat(2, axis=0).repeat(2, axis=1)
    corners = np.argwhere((strip == patch[0, 0]).all(-1))
    return [
        (int(top), int(left))
        for top, left in corners
        if np.array_equal(strip[top : top + 128, left : left + 128], patch)
    ]


def test_beliefs_stand_beneath_the_images_of_their_turns() -> None:
    shown, target = [noise(0), noise(1), noise(2)], noise(3)
    believed = [None, noise(4), noise(5)]
    strip = draw_dialog(shown, ["a", "b"], target, [5, 4, 3], 9, 3, believed=believed)
    for image, belief in zip(shown[1:], believed[1:], strict=True):
        assert belief is not None
        ((top, left),) = places(strip, image)
        ((under, same),) = places(strip, belief)
        assert same == left and under >= top + 128
    plain = draw_dialog(shown, ["a", "b"], target, [5, 4, 3], 9, 3)
    assert plain.shape[1] == strip.shape[1] and plain.shape[0] < strip.shape[0]
    early = draw_dialog(shown[:1], [], target, [5], 9, 3, believed=[None])
    assert early.shape == strip.shape  # a video needs one size
    with pytest.raises(ValueError, match="expected believed for 3 references, got 1"):
        draw_dialog(shown, ["a", "b"], target, None, 9, 3, believed=[None])


@pytest.mark.parametrize("action", ["query", "image"])
def test_the_environment_hands_over_its_best_images(tiny_dialog: Dialog, action: str) -> None:
    asked: list[np.ndarray] = []

    def imagine(images: np.ndarray) -> np.ndarray:
        asked.append(images)
        return noise(100 + len(asked))

    env = DialogRetrievalEnv(tiny_dialog, action, render_mode="rgb_array", imagine=imagine)
    plain = DialogRetrievalEnv(tiny_dialog, action, render_mode="rgb_array")
    for one in (env, plain):
        one.reset(seed=3, options={"target": 5, "reference": 9})
    queries = [tiny_dialog.index.query_of(np.array([image]))[0] for image in (20, 30)]
    for query, image in zip(queries, (20, 30), strict=True):
        typed = query if action == "query" else image
        env.step(typed)
        plain.step(typed)
        expected = tiny_dialog.index.search(query[None], BELIEVED)[0]
        assert asked[-1].tolist() == expected.tolist()
    strip = env.render()
    for turn in (1, 2):
        assert len(places(strip, noise(100 + turn))) == 1
    assert len(asked) == 2  # drawing anew imagines nothing anew
    assert np.array_equal(plain.render(), draw_history(tiny_dialog, plain.history))
    env.reset(seed=4)
    assert env.believed == [None]
    assert not places(env.render(), noise(101))
