"""The rules of the dialog against slow loops, on a gallery whose scores are exact integers."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest

from envs.dialog import CAPTION_LENGTH, Dialog, DialogState, draw_pair
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex
from retrieval.text import Vocabulary

N = 12
D = 3


class Namer:
    """A user who names both images and one number drawn, so that a test can tell who spoke."""

    def describe(self, reference, target, rng):
        draws = rng.random((len(target), 1))
        return [
            f"{shown} to {meant} by {draw[0]:.6f}"
            for shown, meant, draw in zip(reference, target, draws, strict=True)
        ]


@pytest.fixture
def features() -> np.ndarray:
    """Small integers: products are exact, and many images tie."""
    rng = np.random.default_rng(0)
    features = rng.integers(-1, 2, (N, D)).astype(np.float32)
    features[5] = features[3]  # twins
    features[7] = 0
    return features


@pytest.fixture
def dialog(features: np.ndarray) -> Dialog:
    gallery = Gallery(tuple(f"image {row}" for row in range(N)), features)
    vocabulary = Vocabulary(["to", "by", *map(str, range(N))])
    return Dialog(gallery, ExactIndex(features), Namer(), vocabulary, max_turns=4)


def slow_scores(features: np.ndarray, query: np.ndarray) -> list[int]:
    return [sum(int(a) * int(b) for a, b in zip(row, query, strict=True)) for row in features]


def slow_search(scores: list[int], k: int) -> list[int]:
    """Best first; equal scores in the order of the gallery."""
    return sorted(range(len(scores)), key=lambda image: (-scores[image], image))[:k]


def slow_rank(scores: list[int], target: int) -> Fraction:
    above = sum(score > scores[target] for score in scores)
    tied = sum(score == scores[target] for score in scores) - 1
    return above + Fraction(tied, 2)


def random_states(dialog: Dialog, count: int, seed: int = 1) -> DialogState:
    rng = np.random.default_rng(seed)
    return dialog.start(rng.integers(N, size=count), rng.integers(N, size=count))


def assert_equal_states(one: DialogState, other: DialogState) -> None:
    for name in ("target", "reference", "turn", "rank", "best_rank"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.captions == other.captions
    assert one.size == other.size


def test_start_asks_with_the_references_own_embedding(dialog, features):
    state = random_states(dialog, 40)
    for row, (target, reference) in enumerate(zip(state.target, state.reference, strict=True)):
        scores = slow_scores(features, features[reference])
        assert state.rank[row] == slow_rank(scores, target)
    np.testing.assert_array_equal(state.best_rank, state.rank)
    assert not state.turn.any()
    assert state.captions == ("",) * 40


def test_show_gives_the_best_match_and_the_targets_rank(dialog, features):
    rng = np.random.default_rng(2)
    before = dialog.listen(random_states(dialog, 60), rng)
    query = rng.integers(-2, 3, (60, D)).astype(np.float32)
    after = dialog.show(before, query)
    half = 0
    for row in range(60):
        scores = slow_scores(features, query[row])
        rank = slow_rank(scores, before.target[row])
        assert after.reference[row] == slow_search(scores, 1)[0]
        assert after.rank[row] == rank
        assert after.best_rank[row] == min(before.best_rank[row], rank)
        assert after.percentile[row] == pytest.approx(float(1 - rank / (N - 1)))
        assert bool(after.found[row]) == (after.reference[row] == before.target[row])
        half += rank.denominator == 2
    assert half > 5  # ties occurred, and counted half
    np.testing.assert_array_equal(after.turn, before.turn + 1)
    np.testing.assert_array_equal(after.target, before.target)
    assert after.captions == ("",) * 60  # nobody has spoken of the new references yet


def test_an_all_equal_query_scores_chance(dialog):
    state = random_states(dialog, 9)
    after = dialog.show(state, np.zeros((9, D), np.float32))
    np.testing.assert_array_equal(after.rank, (N - 1) / 2)
    np.testing.assert_array_equal(after.percentile, 0.5)


def test_best_rank_never_rises(dialog):
    rng = np.random.default_rng(3)
    state = random_states(dialog, 30)
    seen = [state.rank]
    for _ in range(6):
        state = dialog.show(state, rng.normal(size=(30, D)).astype(np.float32))
        seen.append(state.rank)
        np.testing.assert_array_equal(state.best_rank, np.min(seen, axis=0))


def test_show_image_ranks_by_similarity_to_it(dialog, features):
    before = random_states(dialog, 30)
    image = np.random.default_rng(4).integers(N, size=30)
    after = dialog.show_image(before, image)
    np.testing.assert_array_equal(after.reference, image)
    for row in range(30):
        scores = slow_scores(features, features[image[row]])
        assert after.rank[row] == slow_rank(scores, before.target[row])


def test_showing_changes_nothing_given(dialog):
    before = dialog.listen(random_states(dialog, 8), np.random.default_rng(0))
    kept = copy.deepcopy(before)
    query = np.ones((8, D), np.float32)
    once, twice = dialog.show(before, query), dialog.show(before, query)
    dialog.listen(once, np.random.default_rng(1))
    assert_equal_states(before, kept)
    assert_equal_states(once, twice)


def test_refuses_queries_of_another_size_or_not_finite(dialog):
    state = random_states(dialog, 2)
    with pytest.raises(ValueError, match=r"expected queries \(B, 3\), got \(2, 4\)"):
        dialog.show(state, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="finite"):
        dialog.show(state, np.full((2, D), np.nan, np.float32))


def test_listen_asks_the_user_of_what_is_on_show(dialog):
    state = random_states(dialog, 5)
    heard = dialog.listen(state, np.random.default_rng(6))
    draws = np.random.default_rng(6).random((5, 1))
    for row in range(5):
        wanted = f"{state.reference[row]} to {state.target[row]} by {draws[row, 0]:.6f}"
        assert heard.captions[row] == wanted
    assert state.captions == ("",) * 5


@pytest.mark.parametrize("count", [1, 2, 5, N - 1])
def test_candidates_are_the_nearest_others(dialog, features, count):
    every = dialog.start(np.zeros(N, int), np.arange(N))
    offered = dialog.candidates(every, count)
    assert offered.shape == (N, count)
    for reference in range(N):
        scores = slow_scores(features, features[reference])
        near = slow_search(scores, count + 1)
        others = [image for image in near if image != reference][:count]
        assert offered[reference].tolist() == others
        assert reference not in offered[reference]
        # no image left out is nearer than one offered
        left = set(range(N)) - {reference} - set(others)
        assert not left or min(scores[i] for i in others) >= max(scores[i] for i in left)


def test_rows_chooses_and_repeats(dialog):
    state = dialog.listen(random_states(dialog, 6), np.random.default_rng(0))
    chosen = np.array([4, 0, 4])
    part = state.rows(chosen)
    for name in ("target", "reference", "turn", "rank", "best_rank"):
        wanted = [getattr(state, name)[row] for row in chosen]
        assert getattr(part, name).tolist() == wanted
    assert part.captions == (state.captions[4], state.captions[0], state.captions[4])
    assert part.size == N


def test_with_rows_replaces_these_rows_alone(dialog):
    rng = np.random.default_rng(0)
    state = dialog.listen(random_states(dialog, 6), rng)
    other = dialog.listen(
        dialog.show_image(random_states(dialog, 2, seed=8), np.array([1, 2])), rng
    )
    kept = copy.deepcopy(state)
    mixed = state.with_rows(np.array([5, 1]), other)
    assert_equal_states(state, kept)  # a new state: the old one is as it was
    assert_equal_states(mixed.rows(np.array([5, 1])), other)
    rest = np.array([0, 2, 3, 4])
    assert_equal_states(mixed.rows(rest), state.rows(rest))


def test_rows_of_a_batch_are_batches_of_one(dialog):
    """Each rule, applied to the batch, is the rule applied to each dialog."""
    rng = np.random.default_rng(7)
    state = random_states(dialog, 10)
    query = rng.integers(-2, 3, (10, D)).astype(np.float32)
    together = dialog.show(state, query)
    offered = dialog.candidates(together, 4)
    seen = dialog.observe(together)
    for row in range(10):
        one = np.array([row])
        alone = dialog.show(state.rows(one), query[one])
        assert_equal_states(alone, together.rows(one))
        np.testing.assert_array_equal(dialog.candidates(alone, 4), offered[one])
        for key, values in dialog.observe(alone).items():
            np.testing.assert_array_equal(values, seen[key][one])


def test_observe_is_features_words_and_turn(dialog, features):
    state = dialog.listen(random_states(dialog, 5), np.random.default_rng(0))
    state = dialog.listen(dialog.show_image(state, np.arange(5)), np.random.default_rng(1))
    seen = dialog.observe(state)
    assert sorted(seen) == ["caption", "reference", "turn"]
    np.testing.assert_array_equal(seen["reference"], features[:5])
    assert seen["reference"].dtype == np.float32
    assert seen["caption"].shape == (5, CAPTION_LENGTH)
    assert seen["caption"].dtype == np.int64
    assert seen["turn"].tolist() == [[1]] * 5
    words = [dialog.vocabulary.decode(row).split() for row in seen["caption"].tolist()]
    for row, spoken in enumerate(words):
        # "0 to 7 by 0.123456": the digits after the point are no known words
        assert spoken[:4] == [str(row), "to", str(state.target[row]), "by"]


def test_observations_are_fresh(dialog, features):
    state = dialog.listen(random_states(dialog, 3), np.random.default_rng(0))
    kept, table = copy.deepcopy(state), features.copy()
    for values in dialog.observe(state).values():
        values += 1
    assert_equal_states(state, kept)
    np.testing.assert_array_equal(dialog.gallery.features, table)


def test_a_copy_is_the_same_object_and_a_pickle_an_equal_one(dialog):
    assert copy.deepcopy(dialog) is dialog
    restored = pickle.loads(pickle.dumps(dialog))
    states = random_states(dialog, 5)
    query = np.random.default_rng(0).normal(size=(5, D)).astype(np.float32)
    assert_equal_states(restored.show(states, query), dialog.show(states, query))


def test_with_changes_what_is_named(dialog):
    index = ExactIndex(np.eye(N, dtype=np.float32))
    other = dialog.with_(index=index, max_turns=9)
    assert (other.index, other.max_turns) == (index, 9)
    assert (other.gallery, other.user) == (dialog.gallery, dialog.user)
    assert dialog.max_turns == 4


def test_refuses_an_index_of_another_gallery_and_no_turn(dialog):
    with pytest.raises(ValueError, match="expected an index of 12 images, got 3"):
        dialog.with_(index=ExactIndex(np.eye(3)))
    with pytest.raises(ValueError, match="at least 1 turn, got max_turns=0"):
        dialog.with_(max_turns=0)


def test_pairs_are_two_different_images_and_all_occur():
    rng = np.random.default_rng(0)
    pairs = {draw_pair(rng, 4) for _ in range(500)}
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}
