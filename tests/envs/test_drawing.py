"""The drawn dialog: its size, its pictures and its words, read off the pixels."""

import numpy as np
import pytest

from envs.drawing import FOUND, draw_dialog, transcript

LONG = "make it red and shiny, " * 12
UNBROKEN = "w" * 200


def picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Draw noise, which is found nowhere else in the strip."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def find(strip: np.ndarray, patch: np.ndarray) -> list[tuple[int, int]]:
    """List the top left corners of the exact copies of a patch in a strip."""
    height, width, _ = patch.shape
    corners = np.argwhere((strip == patch[0, 0]).all(axis=-1))
    return [
        (int(top), int(left))
        for top, left in corners
        if np.array_equal(strip[top : top + height, left : left + width], patch)
    ]


def enlarge(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


@pytest.mark.parametrize("max_turns", [1, 4])
@pytest.mark.parametrize("height", [96, 128])
def test_size_is_constant_over_turns(max_turns: int, height: int) -> None:
    sizes = set()
    for turn in range(max_turns + 1):
        shown = [picture(seed) for seed in range(turn + 1)]
        for captions in (["is red"] * turn, [LONG] * (turn + 1)):
            for target in (None, picture(9), picture(9, 200, 90)):
                for ranks in (None, [3.5] * (turn + 1)):
                    strip = draw_dialog(
                        shown, captions, target, ranks, 100, max_turns, height=height
                    )
                    assert strip.dtype == np.uint8
                    assert strip.flags.writeable
                    sizes.add(strip.shape)
    (size,) = sizes
    assert size[0] % 16 == size[1] % 16 == 0
    assert size[2] == 3


def test_every_picture_is_there_in_order() -> None:
    shown = [picture(0), picture(1, 64, 40), picture(2, 30, 128)]
    strip = draw_dialog(shown, ["a", "b"], picture(3), [9, 4, 2], 10, max_turns=3)
    corners = []
    for pixels, factor in zip([*shown, picture(3)], [2, 2, 1, 2], strict=True):
        (corner,) = find(strip, enlarge(pixels, factor))
        corners.append(corner)
    tops, lefts = zip(*corners, strict=True)
    assert list(lefts) == sorted(lefts)
    assert len({tops[0], tops[1], tops[3]}) == 1  # side by side
    assert tops[2] - tops[0] == (128 - 30) // 2  # in the middle of its square


def test_a_large_picture_is_shrunk_to_fit() -> None:
    plain = np.full((400, 300, 3), (200, 30, 90), np.uint8)
    strip = draw_dialog([plain], [], None, None, 10, max_turns=1)
    filled = (strip == (200, 30, 90)).all(axis=-1)
    assert filled.any(axis=1).sum() == 128
    assert filled.any(axis=0).sum() == 96


def test_a_hidden_target_is_not_drawn() -> None:
    target = picture(3)
    hidden = draw_dialog([picture(0)], [], None, None, 10, max_turns=1)
    assert not find(hidden, enlarge(target, 2))
    assert not (hidden == FOUND).all(axis=-1).any()


def test_target_and_found_reference_are_framed() -> None:
    target = picture(3)
    shown = [picture(0), target]
    strip = draw_dialog(shown, ["is red"], target, [5, 0], 10, max_turns=2, found=[False, True])

    def is_framed(top: int, left: int) -> bool:
        around = strip[top - 1 : top + 129, left - 1 : left + 129]
        border = [around[0], around[-1], around[:, 0], around[:, -1]]
        return all((edge == FOUND).all() for edge in border)

    (first,) = find(strip, enlarge(shown[0], 2))
    assert not is_framed(*first)
    both = find(strip, enlarge(target, 2))
    assert len(both) == 2
    assert all(is_framed(*corner) for corner in both)


def test_a_longer_bar_means_a_better_rank() -> None:
    def bar(rank: float) -> int:
        strip = draw_dialog([picture(0)], [], None, [rank], 101, max_turns=1)
        ((top, left),) = find(strip, enlarge(picture(0), 2))
        row = strip[top + 128 + 11, left : left + 128]
        return int((row == (107, 114, 128)).all(axis=-1).sum())

    assert [bar(0), bar(50), bar(100)] == [128, 64, 0]


@pytest.mark.parametrize(
    "caption", [LONG, UNBROKEN, "is " + UNBROKEN, "new\nline", "", "  ", "é—红"]
)
@pytest.mark.parametrize("height", [40, 128])
def test_captions_stay_in_their_column(caption: str, height: int) -> None:
    shown = [picture(seed, 32, 32) for seed in range(3)]
    empty = draw_dialog(shown, ["", ""], None, None, 10, max_turns=2, height=height)
    # one column at a time: what a caption adds lies below its picture and within its width
    for turn in range(2):
        captions = ["", ""]
        captions[turn] = caption
        strip = draw_dialog(shown, captions, None, None, 10, max_turns=2, height=height)
        ((top, left),) = find(strip, enlarge(shown[turn], height // 32))
        left -= (height - height // 32 * 32) // 2
        rows, places, _ = np.nonzero(strip != empty)
        if caption.strip():
            assert rows.min() >= top + height // 32 * 32
            assert rows.max() < strip.shape[0] - 16
            assert places.min() >= left - 1  # a letter may lean out by a pixel
            assert places.max() <= left + height
        else:
            assert len(rows) == 0


def test_a_long_caption_takes_more_lines() -> None:
    def inked_rows(caption: str) -> int:
        shown = [picture(0)]
        empty = draw_dialog(shown, [], None, None, 10, max_turns=1)
        strip = draw_dialog(shown, [caption], None, None, 10, max_turns=1)
        return int((strip != empty).any(axis=(1, 2)).sum())

    one, two, many = inked_rows("make it red"), inked_rows("make it red " * 3), inked_rows(LONG)
    assert 0 < one < two < many


def test_arguments_are_not_changed() -> None:
    shown, target = [picture(0), picture(1)], picture(2)
    draw_dialog(shown, ["is red"], target, [4, 2], 10, max_turns=2)
    assert np.array_equal(shown[0], picture(0))
    assert np.array_equal(target, picture(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_turns": 1}, r"at most max_turns \+ 1 = 2 references, got 3"),
        ({"captions": ["a"] * 4}, "at most one caption for each of 3 references, got 4"),
        ({"ranks": [1.0]}, "expected ranks for 3 references, got 1"),
        ({"found": [True]}, "expected found for 3 references, got 1"),
        ({"target": np.zeros((4, 4, 3))}, "expected a picture uint8"),
        ({"target": np.zeros((4, 4), np.uint8)}, "expected a picture uint8"),
    ],
)
def test_says_what_does_not_fit(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "shown": [picture(seed) for seed in range(3)],
        "captions": ["a", "b"],
        "target": None,
        "ranks": None,
        "gallery_size": 10,
        "max_turns": 2,
    }
    with pytest.raises(ValueError, match=message):
        draw_dialog(**(arguments | change))  # type: ignore[arg-type]


class TestTranscript:
    def test_lines_up(self) -> None:
        text = transcript(["is red", "has\na strap"], ["boot", "pump7"], [7.5, 0], [False, True])
        assert text.splitlines() == [
            "turn 0  boot   rank 7.5",
            "        user: is red",
            "turn 1  pump7  rank 0  found",
            "        user: has a strap",
        ]

    def test_without_ranks_and_last_caption(self) -> None:
        assert transcript([], ["boot"]) == "turn 0  boot"

    def test_says_what_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="expected ranks for 1 references, got 2"):
            transcript([], ["boot"], ranks=[1, 2])
