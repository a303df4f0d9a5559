"""Slates, never repeating and patience: the rules against slow loops."""

import itertools
import pickle

import numpy as np
import pytest

from envs.dialog import Dialog, DialogState
from envs.slates import POOL, SLATES, medoids, mmr
from envs.state import NOTHING
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex, ScoreIndex
from retrieval.text import Vocabulary

N, D = 40, 6


class ByNumber:
    """Speaks of both images; finds those nearest whose numbers are."""

    def describe(self, reference, target, rng):
        rng.random((len(target), 1))
        return [f"{shown} {meant}" for shown, meant in zip(reference, target, strict=True)]

    def distance(self, offered, target):
        return np.abs(offered - target[:, None]).astype(float)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    features[30:] = features[5:15]  # twins
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def dialog(features: np.ndarray) -> Dialog:
    gallery = Gallery(tuple(map(str, range(N))), features)
    vocabulary = Vocabulary(list(map(str, range(N))))
    return Dialog(gallery, ExactIndex(features), ByNumber(), vocabulary, max_turns=5)


def begin(dialog: Dialog, count: int = 30, seed: int = 0) -> DialogState:
    rng = np.random.default_rng(seed)
    target = rng.integers(N, size=count)
    return dialog.start(target, (target + rng.integers(1, N, size=count)) % N)


def random_queries(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).normal(size=(count, D)).astype(np.float32)


def order(index, query: np.ndarray) -> list[int]:
    """All images, best first."""
    return index.search(query[None], N)[0].tolist()


# ---- the rules that choose


def pools(count: int = 12, size: int = 16, seed: int = 0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, size, D))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    features[0, 5] = features[0, 2]  # twins
    scores = -np.sort(-rng.normal(size=(count, size)), axis=1)
    return scores.astype(np.float32), features.astype(np.float32)


@pytest.mark.parametrize("rule", SLATES)
def test_every_rule_gives_different_columns_row_by_row(rule):
    scores, features = pools()
    for count in (1, 2, 4, 16):
        columns = SLATES[rule](scores, features, count)
        assert columns.shape == (12, count)
        assert all(len(set(row)) == count for row in columns.tolist())
        for row in range(12):
            alone = SLATES[rule](scores[[row]], features[[row]], count)
            np.testing.assert_array_equal(alone[0], columns[row])


@pytest.mark.parametrize("rule", SLATES)
def test_every_rule_takes_images_that_are_all_alike(rule):
    columns = SLATES[rule](np.zeros((2, 6)), np.full((2, 6, 4), 0.5), 4)
    assert all(len(set(row)) == 4 for row in columns.tolist())


def test_mmr_is_its_formula():
    scores, features = pools()
    columns = mmr(scores, features, 5, relevance=0.6)
    for row in range(12):
        cosines = features[row].astype(float) @ features[row].astype(float).T
        value = (scores[row] - scores[row].min()) / (scores[row].max() - scores[row].min())
        alike = (cosines - cosines.min()) / (cosines.max() - cosines.min())
        chosen = [0]
        for _ in range(4):
            left = [i for i in range(16) if i not in chosen]
            gains = [0.6 * value[i] - 0.4 * max(alike[i, j] for j in chosen) for i in left]
            chosen.append(left[int(np.argmax(gains))])
        assert columns[row].tolist() == chosen
    np.testing.assert_array_equal(
        mmr(scores, features, 5, relevance=1.0), np.tile(range(5), (12, 1))
    )


def test_medoids_are_near_the_best_of_all_choices():
    scores, features = pools(size=10)
    columns = medoids(scores, features, 3)
    costs = []
    for row in range(12):
        distance = 1 - features[row].astype(float) @ features[row].astype(float).T

        def cost(chosen, distance=distance):
            return sum(min(distance[i, j] for j in chosen) for i in range(10))

        every = sorted(cost(chosen) for chosen in itertools.combinations(range(10), 3))
        mine = cost(columns[row])
        assert mine <= every[len(every) // 4]
        costs.append(mine - every[0])
        assert columns[row].tolist() == sorted(columns[row])
        group = distance[columns[row]].argmin(0)  # each is the medoid of its own group
        for at, medoid in enumerate(columns[row]):
            members = np.flatnonzero(group == at)
            within = [distance[i, members].sum() for i in members]
            assert distance[medoid, members].sum() <= min(within) + 1e-6
    assert sum(each < 1e-6 for each in costs) >= 6


def test_groups_of_twins_have_one_medoid_each():
    rng = np.random.default_rng(0)
    centres = np.eye(D)[[0, 1, 2]]
    which = rng.permutation(np.repeat(np.arange(3), 4))
    columns = medoids(np.zeros((1, 12)), centres[which][None], 3)
    assert sorted(which[columns[0]]) == [0, 1, 2]


# ---- what a query shows


def test_greedy_slates_are_the_best_and_the_user_picks_the_nearest(dialog):
    slates = dialog.with_(slate=4)
    before, query = begin(slates), random_queries(30)
    assert (before.slate[:, 0] == before.reference).all() and (before.slate[:, 1:] == NOTHING).all()
    after = slates.show(before, query)
    single = dialog.show(begin(dialog), query)
    found = 0
    for row in range(30):
        best = order(slates.index, query[row])[:4]
        assert after.slate[row].tolist() == best
        picked = min(best, key=lambda image: abs(image - before.target[row]))
        assert after.reference[row] == picked
        assert after.found[row] == (before.target[row] in best)
        found += before.target[row] in best
    np.testing.assert_array_equal(after.rank, single.rank)  # by the query
    assert 1 <= found < 30
    assert (after.turn == 1).all()


def test_the_target_is_recognised_among_its_twins(dialog, features):
    class Blind(ByNumber):
        def distance(self, offered, target):
            return np.zeros(offered.shape)

    slates = dialog.with_(slate=4, user=Blind())
    before = slates.start(np.array([35, 35]), np.array([0, 1]))
    after = slates.show_slate(before, np.array([[1, 10, 2, 35], [7, 3, 9, 8]]))
    assert after.reference.tolist() == [35, 7]  # the target; the first of equals
    assert after.found.tolist() == [True, False]


def test_a_user_without_a_judgement_compares_features(dialog, features):
    class Plain:
        def describe(self, reference, target, rng):
            return [""] * len(target)

    slates = dialog.with_(slate=3, user=Plain())
    before = begin(slates)
    after = slates.show(before, random_queries(30))
    for row in range(30):
        goal = features[before.target[row]].astype(float)
        far = [((features[image] - goal) ** 2).sum() for image in after.slate[row]]
        if before.target[row] not in after.slate[row]:
            assert after.reference[row] == after.slate[row][int(np.argmin(far))]


@pytest.mark.parametrize("rule", ["mmr", "medoids"])
def test_rules_choose_from_the_best_32(dialog, features, rule):
    slates = dialog.with_(slate=3, slate_by=rule)
    before, query = begin(slates), random_queries(30)
    after = slates.show(before, query)
    for row in range(30):
        pool = order(slates.index, query[row])[: POOL * 3]
        scores = (features[pool].astype(float) @ query[row].astype(float)).astype(np.float32)
        columns = SLATES[rule](scores[None], features[pool][None], 3)[0]
        assert after.slate[row].tolist() == [pool[column] for column in columns]
    greedy = slates.with_(slate_by="greedy").show(before, query)
    np.testing.assert_array_equal(after.rank, greedy.rank)
    assert (after.slate != greedy.slate).any(1).mean() > 0.5


def test_a_rule_of_ones_own(dialog):
    def last(scores, features, count):
        assert scores.shape == (30, 16) and features.shape == (30, 16, D)
        return np.tile(np.arange(16)[-count:], (len(scores), 1))

    slates = dialog.with_(slate=2, slate_by=last)
    query = random_queries(30)
    after = slates.show(begin(slates), query)
    for row in range(30):
        assert after.slate[row].tolist() == order(slates.index, query[row])[14:16]


def test_slates_of_one_are_single_images(dialog):
    before, query = begin(dialog), random_queries(30)
    for rule in SLATES:
        after = dialog.with_(slate_by=rule).show(before, query)
        for row in range(30):
            assert after.slate[row].tolist() == order(dialog.index, query[row])[:1]
    np.testing.assert_array_equal(after.reference, after.slate[:, 0])
    assert before.shown.shape == (30, 0)


def test_queries_show_the_best_match_of_each(dialog):
    slates = dialog.with_(slate=3)
    before = begin(slates)
    queries = np.stack([random_queries(30, seed) for seed in range(3)], axis=1)
    queries[:10, 1] = queries[:10, 0]  # asks twice for the same
    after = slates.show_queries(before, queries)
    for row in range(30):
        wanted: list[int] = []
        for query in queries[row]:
            wanted.append(next(i for i in order(slates.index, query) if i not in wanted))
        assert after.slate[row].tolist() == wanted
    np.testing.assert_array_equal(after.rank, slates.index.rank(queries[:, 0], before.target))


def test_slates_by_number(dialog, features):
    slates = dialog.with_(slate=3)
    before = slates.start(np.array([9, 20, 20]), np.array([0, 0, 0]))
    chosen = np.array([[4, 8, 1], [3, 3, 3], [5, 30, 5]])
    after = slates.show_slate(before, chosen)
    assert after.slate[0].tolist() == [4, 8, 1]
    assert after.slate[1].tolist() == [
        3,
        *[i for i in order(slates.index, features[3]) if i != 3][:2],
    ]
    others = [i for i in order(slates.index, features[5]) if i not in (5, 30)]
    assert after.slate[2].tolist() == [5, 30, others[0]]
    np.testing.assert_array_equal(
        after.rank, slates.index.rank(features[chosen[:, 0]], before.target)
    )
    query = random_queries(3)
    ranked = slates.show_slate(before, chosen, query)
    np.testing.assert_array_equal(ranked.rank, slates.index.rank(query, before.target))
    np.testing.assert_array_equal(ranked.slate, after.slate)
    assert chosen[1].tolist() == [3, 3, 3]  # nothing given is changed


def test_one_image_may_stand_alone_in_a_dialog_of_slates(dialog):
    slates = dialog.with_(slate=3)
    before = begin(slates)
    after = slates.show_image(before, np.arange(30))
    assert after.slate[:, 0].tolist() == list(range(30)) == after.reference.tolist()
    assert (after.slate[:, 1:] == NOTHING).all()
    np.testing.assert_array_equal(after.rank, dialog.show_image(begin(dialog), np.arange(30)).rank)


# ---- never repeat


@pytest.mark.parametrize("slate", [1, 3])
@pytest.mark.parametrize("rule", SLATES)
def test_nothing_is_shown_twice(dialog, slate, rule):
    """Also when the same is asked for at every turn, and by all ways of asking."""
    never = dialog.with_(slate=slate, slate_by=rule, never_repeat=True, max_turns=8)
    plain = dialog.with_(slate=slate, slate_by=rule, max_turns=8)
    query = random_queries(30)
    state, free = begin(never), begin(plain)
    seen = [state.slate]
    for turn in range(8):
        before = state
        if turn % 4 < 2 or (slate == 1 and turn % 4 == 2):
            state, free = never.show(state, query), plain.show(free, query)
            np.testing.assert_array_equal(state.rank, free.rank)  # among all images
        elif turn % 4 == 2:
            state = never.show_queries(state, np.stack([query] * slate, axis=1))
        elif slate == 1:
            state = never.show_image(state, before.reference)
        else:
            state = never.show_slate(state, before.slate)
        seen.append(state.slate)
        shown = np.concatenate(seen, axis=1)
        for row in range(30):
            images = [image for image in shown[row] if image != NOTHING]
            assert len(images) == len(set(images)) == 1 + slate * (turn + 1)
            assert set(images) == {image for image in state.shown[row] if image != NOTHING}
            if rule == "greedy" and turn % 4 < 2:
                old = {image for image in before.shown[row] if image != NOTHING}
                best = [image for image in order(never.index, query[row]) if image not in old]
                assert state.slate[row].tolist() == best[:slate]


def test_search_and_candidates_skip_what_was_shown(dialog, features):
    never = dialog.with_(slate=2, never_repeat=True)
    state = begin(never)
    for turn in range(3):
        state = never.show(state, random_queries(30, turn))
    query = random_queries(30, 9)
    for count in (1, 5, 20):
        offered = never.search(state, query, count)
        near = never.candidates(state, count)
        for row in range(30):
            old = set(state.shown[row].tolist())
            wanted = [image for image in order(never.index, query[row]) if image not in old]
            assert offered[row].tolist() == wanted[:count]
            like = order(never.index, features[state.reference[row]])
            assert near[row].tolist() == [image for image in like if image not in old][:count]
    plain = begin(dialog)
    np.testing.assert_array_equal(
        dialog.search(plain, query, 7), dialog.index.search(query, 7)
    )  # otherwise all may be shown


def test_it_goes_on_beyond_the_last_turn(dialog):
    """Look-ahead plays a turn more; the count of what was shown grows with it."""
    never = dialog.with_(slate=2, never_repeat=True, max_turns=2)
    state, query = begin(never), random_queries(30)
    for _ in range(5):
        state = never.show(state, query)
    shown = [{i for i in row if i != NOTHING} for row in state.shown.tolist()]
    assert all(len(images) == 11 for images in shown)
    fresh = begin(never, 2, seed=3)
    mixed = state.with_rows(np.array([4, 0]), fresh)  # of different widths
    for row, images in ((4, {int(fresh.reference[0])}), (0, {int(fresh.reference[1])})):
        assert {i for i in mixed.shown[row].tolist() if i != NOTHING} == images
    assert {i for i in mixed.shown[7].tolist() if i != NOTHING} == shown[7]
    back = fresh.with_rows(np.array([1]), state.rows(np.array([9])))
    assert {i for i in back.shown[1].tolist() if i != NOTHING} == shown[9]


def test_with_an_index_of_scores_too(dialog):
    never = dialog.with_(index=ScoreIndex(N), slate=3, slate_by="mmr", never_repeat=True)
    state = begin(never)
    scores = np.random.default_rng(0).normal(size=(30, N)).astype(np.float32)
    for _ in range(5):
        state = never.show(state, scores)
    assert all(len(set(row)) == 16 for row in state.shown.tolist())


@pytest.mark.parametrize("rule", SLATES)
def test_rows_of_a_batch_are_batches_of_one(dialog, rule):
    """Also where some dialogs of the batch have shown more than others."""
    rules = dialog.with_(slate=4, slate_by=rule, never_repeat=True, max_turns=9, patience=3)
    ahead = begin(rules, 12)
    for turn in range(6):
        ahead = rules.show(ahead, random_queries(12, turn))
    state = ahead.with_rows(np.arange(0, 12, 2), begin(rules, 6, seed=5))
    query = random_queries(12, 7)
    queries = np.stack([random_queries(12, seed) for seed in (7, 8, 9, 10)], axis=1)
    slate = np.random.default_rng(1).integers(N, size=(12, 4))
    ways = [
        lambda state, rows: rules.show(state, query[rows]),
        lambda state, rows: rules.show_queries(state, queries[rows]),
        lambda state, rows: rules.show_slate(state, slate[rows]),
    ]
    for way in ways:
        together = way(state, np.arange(12))
        for row in range(12):
            alone = way(state.rows(np.array([row])), np.array([row]))
            for name in ("reference", "rank", "best_rank", "slate", "nearest", "stalled"):
                expected = getattr(together, name)[row]
                np.testing.assert_array_equal(getattr(alone, name)[0], expected, err_msg=name)
            assert set(alone.shown[0]) | {NOTHING} == set(together.shown[row]) | {NOTHING}


# ---- patience


def test_patience_by_hand(dialog):
    """Distances of 5, then 3, 3, 4, 1, 2, 1, 1: the user waits two turns for something nearer."""
    rules = dialog.with_(patience=2, max_turns=9)
    state = rules.start(np.array([20]), np.array([25]))
    told = []
    for image in (23, 17, 24, 21, 18, 19, 21):
        state = rules.show_image(state, np.array([image]))
        told.append((int(state.stalled[0]), bool(rules.left(state)[0])))
    assert told == [
        (0, False), (1, False), (2, True), (0, False), (1, False), (2, True), (3, True),
    ]  # fmt: skip
    assert rules.terminated(state).tolist() == [True]
    patient = dialog.with_(max_turns=9)
    assert not patient.left(state).any() and not patient.terminated(state).any()


def test_who_has_seen_the_target_stays(dialog):
    rules = dialog.with_(patience=1, max_turns=9)
    state = rules.start(np.array([20]), np.array([25]))
    for image in (20, 3, 4, 5):
        state = rules.show_image(state, np.array([image]))
        assert not rules.left(state).any()
    assert state.stalled.tolist() == [0]


def test_the_nearest_of_a_slate_is_progress(dialog):
    rules = dialog.with_(patience=1, slate=3)
    state = rules.start(np.array([20, 20]), np.array([25, 25]))
    state = rules.show_slate(state, np.array([[0, 1, 23], [0, 1, 26]]))
    assert state.stalled.tolist() == [0, 1]
    assert rules.left(state).tolist() == [False, True]
    assert state.nearest.tolist() == [3, 5]


# ---- the state, and mistakes


def test_settings_pickle_and_change(dialog):
    rules = dialog.with_(slate=3, slate_by="mmr", never_repeat=True, patience=2)
    twin = pickle.loads(pickle.dumps(rules))
    other = rules.with_(max_turns=7)
    for each in (twin, other):
        assert (each.slate, each.slate_by, each.never_repeat, each.patience) == (3, "mmr", True, 2)
    one, two = (r.show(begin(r), random_queries(30)) for r in (rules, twin))
    np.testing.assert_array_equal(one.slate, two.slate)
    assert (dialog.slate, dialog.never_repeat, dialog.patience) == (1, False, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slate": 0}, "expected a slate of 1 to 39 images of a gallery of 40, got 0"),
        ({"slate": 40}, "expected a slate of 1 to 39 images of a gallery of 40, got 40"),
        ({"slate_by": "mmrr"}, "unknown rule for slates 'mmrr'. Did you mean 'mmr'?"),
        ({"slate": 8, "never_repeat": True}, "5 turns of 8 images .* more than 40 images, got 40"),
        ({"patience": 0}, "expected a patience of at least 1 turn, got 0"),
    ],
)
def test_settings_that_make_no_dialog_are_refused(dialog, changes, message):
    with pytest.raises(ValueError, match=message):
        dialog.with_(**changes)


def test_slates_of_another_size_are_refused(dialog):
    slates = dialog.with_(slate=3)
    state = begin(slates, 2)
    with pytest.raises(ValueError, match=r"expected slates \(B, 3\), got \(2, 2\)"):
        slates.show_slate(state, np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"expected queries \(B, 3, D\), got \(2, 6\)"):
        slates.show_queries(state, np.zeros((2, D), np.float32))
