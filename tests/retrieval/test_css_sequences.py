"""Sequences of CSS scenes and the ordering questions made of them."""

import json

import numpy as np
import pytest
from PIL import Image

from retrieval.datasets.css_sequences import (
    draw_scenes,
    sample_sequence,
    sample_sequences,
    write_questions,
)
from retrieval.ordering import pictures_of, read_questions
from retrieval.rendering.scenes import SHAPE, sample_scene


@pytest.fixture(scope="module")
def starts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([sample_scene(rng) for _ in range(6)])


def objects(scenes: np.ndarray) -> np.ndarray:
    return (scenes[:, :, SHAPE] > 0).sum(axis=1)


@pytest.mark.parametrize("growing", [False, True])
def test_each_scene_is_the_one_before_but_for_what_the_instruction_says(starts, growing):
    rng = np.random.default_rng(1)
    grown = []
    for made in sample_sequences(starts, 60, 7, rng, growing=growing):
        assert len(made.captions) == len(made.scenes) == 7
        assert len({scene.tobytes() for scene in made.scenes}) == 7
        for before, after, caption in zip(
            made.scenes, made.scenes[1:], made.captions[1:], strict=False
        ):
            cells = np.flatnonzero((before != after).any(axis=1))
            assert len(cells) == 1
            change = objects(after[None])[0] - objects(before[None])[0]
            assert {"add": 1, "remove": -1, "make": 0}[caption.split()[0]] == change
        assert any((made.scenes[0] != start).any(axis=1).sum() == 1 for start in starts)
        grown.append(int(objects(made.scenes[-1:])[0] - objects(made.scenes[:1])[0]))
    assert (min(grown) < 0) == (not growing)


def test_sequences_begin_with_every_scene_in_turn_and_avoid_what_is_taken(starts):
    rng = np.random.default_rng(2)
    first = [sample_sequence(starts[0], 1, rng).scenes[0].tobytes() for _ in range(300)]
    taken = set(first[:150])
    for _ in range(100):
        made = sample_sequence(starts[0], 3, rng, taken)
        assert not {scene.tobytes() for scene in made.scenes} & taken
    small = np.zeros((9, 3), np.int8)
    small[0] = (1, 1, 1)

    class Everything:
        def __contains__(self, key: bytes) -> bool:
            return True

    with pytest.raises(ValueError, match="no edit leads to a scene that may be shown after 0 of 2"):
        sample_sequence(small, 2, rng, Everything())


@pytest.mark.parametrize("steps", [5, 8])
def test_questions_on_disk_are_what_their_captions_say(tmp_path, starts, steps, monkeypatch):
    drawn = {}

    def fake(objects, rng, height, width):
        """A picture whose colour stands for the scene."""
        key = json.dumps(objects)
        shade = drawn.setdefault(key, len(drawn))
        return np.full((height, width, 3), shade % 256, np.uint8)

    monkeypatch.setattr("retrieval.datasets.css_sequences.render_3d", fake)
    write_questions(tmp_path, starts, count=12, steps=steps, seed=3, size=8)
    questions, folder = read_questions(tmp_path, "test")
    files = pictures_of(folder, questions)
    assert [question.number for question in questions] == list(range(1, 13))
    assert len({question.truth for question in questions}) > 6
    for question, own in zip(questions, files, strict=True):
        assert len(question.captions) == steps and len(own) == 5
        assert question.truth in question.candidates and len(set(question.candidates)) == 4
        # scenes are drawn in order of time, so shades grow along the truth
        shade = [int(np.asarray(Image.open(own[image])).mean()) for image in question.truth]
        assert shade == sorted(shade)


def test_questions_are_made_once_and_by_the_seed(tmp_path, starts):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_questions(tmp_path / name, starts, count=2, seed=seed, size=16)
    text = {name: (tmp_path / name / "image_ordering_test.json").read_text() for name in "abc"}
    assert text["a"] == text["b"] != text["c"]
    one, other = ((tmp_path / name / "images/1/1.png").read_bytes() for name in "ab")
    assert one == other
    before = (tmp_path / "a/images/1/1.png").stat().st_mtime_ns
    write_questions(tmp_path / "a", starts, count=2, seed=0, size=16)
    assert (tmp_path / "a/images/1/1.png").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds other questions"):
        write_questions(tmp_path / "a", starts, count=2, seed=5, size=16)
    with pytest.raises(ValueError, match="at least 5 steps for 5 pictures, got 4"):
        write_questions(tmp_path / "d", starts, steps=4)


def test_pictures_of_scenes(starts):
    pictures = draw_scenes(starts[:2], np.random.default_rng(0), 24)
    assert pictures.shape == (2, 24, 24, 3) and pictures.dtype == np.uint8
    assert (pictures[0] != pictures[1]).any()
