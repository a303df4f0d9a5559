"""Evaluation: who hears what, floors and ceilings, ties, and other people's agents."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.baselines import ImageOnlyAgent, OracleAgent, RandomAgent
from agents.evaluation import PairDraws, Played, evaluation_pairs, run_dialogs
from agents.tracker import AGENTS
from envs.actions import ActionMode
from envs.dialog import Dialog, Observation
from envs.factory import make_dialog
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex
from retrieval.metrics import rank_percentile
from user_simulator import NoisyUser

TURNS = 5


@pytest.fixture(scope="module")
def scenes(tiny_root: Path) -> Dialog:
    """Dialogs over the 64 train scenes, one-hot, with a user who errs now and then."""
    dialog = make_dialog(root=tiny_root, encoder="scene")
    return dialog.with_(user=NoisyUser(dialog.user, 0.2, len(dialog.gallery)))


@pytest.fixture(scope="module")
def truthful(tiny_root: Path) -> Dialog:
    return make_dialog(root=tiny_root, encoder="scene")


class Scripted:
    """Shows the images it was told to, turn by turn; notes what it was asked."""

    mode = ActionMode("image")

    def __init__(self, *turns: np.ndarray):
        self.turns = turns
        self.calls: list[tuple[Observation, Any, np.ndarray]] = []

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        assert episode_start is not None
        self.calls.append((observation, state, episode_start))
        number = 0 if state is None else state
        return self.turns[number], number + 1


# the list of dialogs


@pytest.mark.parametrize("count", [10, 64, 200])
def test_pairs(count: int) -> None:
    target, reference = evaluation_pairs(64, count, seed=3)
    assert target.shape == reference.shape == (count,)
    assert (target != reference).all()
    for images in (target, reference):
        assert images.min() >= 0
        assert images.max() < 64
    full = target[: count // 64 * 64].reshape(-1, 64)
    assert (np.sort(full, axis=1) == np.arange(64)).all()  # as far as the gallery goes
    assert len(set(target[len(full) * 64 :])) == count - len(full) * 64
    again = evaluation_pairs(64, count, seed=3)
    assert np.array_equal(again, (target, reference))
    assert not np.array_equal(evaluation_pairs(64, count, seed=4), (target, reference))


def test_references_are_any_other_image() -> None:
    target, reference = evaluation_pairs(4, 4000, seed=0)
    seen = np.bincount((reference - target) % 4, minlength=4)
    assert seen[0] == 0
    assert (np.abs(seen[1:] - 4000 / 3) < 150).all()


# the users' words


def test_agents_hear_the_same_words_where_their_dialogs_coincide(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 20, seed=0)
    one, two, three, other = ((target + step) % 64 for step in (5, 9, 14, 30))
    first = run_dialogs(scenes.with_(max_turns=3), Scripted(one, two, three), target, reference)
    second = run_dialogs(scenes.with_(max_turns=3), Scripted(one, other, three), target, reference)
    for a, b in zip(first.captions, second.captions, strict=True):
        assert a[0] == b[0]
        assert a[1] == b[1]
        assert a[3] == b[3] == ""
    assert sum(a[2] != b[2] for a, b in zip(first.captions, second.captions, strict=True)) > 4
    # Before the third turn the paths differed, but what is on show and the words agree again.
    longer = run_dialogs(
        scenes.with_(max_turns=4), Scripted(one, two, three, one), target, reference
    )
    detour = run_dialogs(
        scenes.with_(max_turns=4), Scripted(one, other, three, one), target, reference
    )
    assert [said[3] for said in longer.captions] == [said[3] for said in detour.captions]
    assert [said[:3] for said in longer.captions] == [said[:3] for said in first.captions]


def test_words_depend_on_seed_and_turn(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 30, seed=0)
    stay = [reference] * 3
    heard = [
        run_dialogs(scenes.with_(max_turns=3), Scripted(*stay), target, reference, seed).captions
        for seed in (0, 0, 1)
    ]
    assert heard[0] == heard[1] != heard[2]
    assert any(said[0] != said[1] for said in heard[0])  # not the same sentence every turn


def test_pair_draws_are_rows_of_one_table() -> None:
    whole = PairDraws(7, 2, np.arange(9), 9).random((9, 4))
    some = PairDraws(7, 2, np.array([8, 3]), 9).random((2, 4))
    assert np.array_equal(some, whole[[8, 3]])
    assert not np.array_equal(PairDraws(7, 3, np.arange(9), 9).random((9, 4)), whole)
    assert len(np.unique(whole)) == whole.size


class WordSum:
    """Searches with the sum of random word vectors over the whole dialog."""

    def __init__(self, dialog: Dialog):
        rng = np.random.default_rng(0)
        size = len(dialog.vocabulary), dialog.index.dim
        self.table = rng.standard_normal(size).astype(np.float32)

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        said = self.table[observation["caption"]].sum(1)  # (B, D)
        heard = said if state is None else state + said
        return heard, heard


@pytest.mark.parametrize("name", ["tracker", "published", "words"])
def test_the_batch_size_does_not_matter(name: str, scenes: Dialog) -> None:
    torch.manual_seed(0)
    size = scenes.gallery.features.shape[1]
    agent = AGENTS[name](scenes.vocabulary, size, 24) if name in AGENTS else WordSum(scenes)
    target, reference = evaluation_pairs(64, 23, seed=1)
    whole = run_dialogs(scenes, agent, target, reference, 5, 4)
    parts = run_dialogs(scenes, agent, target, reference, 5, 4, batch_size=7)
    assert np.array_equal(whole.shown, parts.shown)
    assert whole.captions == parts.captions
    np.testing.assert_allclose(whole.ranks, parts.ranks)
    assert np.array_equal(whole.candidates, parts.candidates)
    if name == "words":
        assert len(np.unique(whole.shown[:, 1:])) > 5


# what is noted


def test_every_dialog_is_played_to_the_end_and_noted(scenes: Dialog) -> None:
    """Also one that has found its target: T + 1 columns, column 0 before any caption."""
    target, reference = evaluation_pairs(64, 12, seed=0)
    turns = [target, (target + 1) % 64, (target + 2) % 64, target, target]
    agent = Scripted(*turns)
    played = run_dialogs(scenes, agent, target, reference, depth=64)
    assert played.ranks.shape == played.shown.shape == (12, TURNS + 1)
    assert played.candidates.shape == (12, TURNS + 1, 64)
    assert [len(said) for said in played.captions] == [TURNS + 1] * 12
    assert np.array_equal(played.shown, np.stack([reference, *turns], axis=1))
    assert (played.ranks[:, [1, 4, 5]] == 0).all()

    # Ranks and candidates as a loop over similarities to what is on show finds them.
    features = scenes.gallery.features.astype(np.float64)
    for row in range(12):
        for turn in range(TURNS + 1):
            scores = features @ features[played.shown[row, turn]]
            own = scores[target[row]]
            above = sum(score > own + 1e-6 for score in scores)
            tied = sum(abs(score - own) <= 1e-6 for score in scores) - 1
            assert played.ranks[row, turn] == above + tied / 2
            ordered = scores[played.candidates[row, turn]]
            assert (np.diff(ordered) <= 1e-6).all()

    # What the agent saw: the image on show, the words about it, its own state.
    assert [call[1] for call in agent.calls] == [None, 1, 2, 3, 4]
    for turn, (seen, _, begins) in enumerate(agent.calls):
        assert (begins == (turn == 0)).all()
        assert np.array_equal(seen["reference"], scenes.gallery.features[played.shown[:, turn]])
        said = [captions[turn] for captions in played.captions]
        assert np.array_equal(seen["caption"], scenes.vocabulary.encode(said, 16))
        assert (seen["turn"] == turn).all()


def test_a_query_agent_is_searched_with_its_own_index(scenes: Dialog) -> None:
    """Reversed embeddings: what is most alike comes last."""

    class Contrary(ImageOnlyAgent):
        def __init__(self, gallery: Gallery):
            self.index = ExactIndex(-gallery.features)

    target, reference = evaluation_pairs(64, 30, seed=0)
    played = run_dialogs(scenes, Contrary(scenes.gallery), target, reference, depth=3)
    scores = scenes.gallery.features @ scenes.gallery.features.T
    expected = scores[reference].argmin(axis=1)
    assert np.array_equal(played.shown[:, 1], played.candidates[:, 1, 0])
    np.testing.assert_allclose(
        scores[reference, played.shown[:, 1]], scores[reference, expected], atol=1e-6
    )


# floors and ceilings


def percentiles(played: Played) -> np.ndarray:
    return rank_percentile(played.ranks, 64).mean(axis=0)


def test_random_is_chance(truthful: Dialog) -> None:
    target, reference = evaluation_pairs(64, 640, seed=0)
    agent = RandomAgent(64, np.random.default_rng(0))
    by_turn = percentiles(run_dialogs(truthful, agent, target, reference))
    np.testing.assert_allclose(by_turn[1:], 0.5, atol=0.04)  # five standard errors are .06
    assert len(set(by_turn[1:])) == TURNS  # fresh at every turn


def test_the_oracle_is_near_the_best(truthful: Dialog) -> None:
    target, reference = evaluation_pairs(64, 64, seed=0)
    oracle = OracleAgent(truthful.gallery, truthful.vocabulary, np.random.default_rng(0))
    played = run_dialogs(truthful, oracle, target, reference)
    by_turn = percentiles(played)
    assert by_turn[1] > 0.8
    assert (np.diff(by_turn) > 0).all()
    assert by_turn[TURNS] > 0.99
    assert (played.ranks[:, TURNS] < 1).mean() > 0.9
    with pytest.raises(ValueError, match="the oracle reads captions about CSS scenes"):
        OracleAgent(
            dataclasses.replace(truthful.gallery, attributes=None),
            truthful.vocabulary,
            np.random.default_rng(0),
        )


def test_the_oracle_forgets_at_the_start_of_a_dialog(truthful: Dialog) -> None:
    """What it scored for a false claim of an earlier dialog counts no more."""
    oracle = OracleAgent(truthful.gallery, truthful.vocabulary, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    begin = truthful.start(np.array([3, 3]), np.array([9, 9]))
    _, state = oracle.predict(truthful.observe(truthful.listen(begin, rng)), None)
    assert state.max() > 0
    silent = truthful.observe(begin)  # no caption, so no claims
    _, after = oracle.predict(silent, state, np.array([True, False]))
    assert (after[0] == 0).all()
    assert np.array_equal(after[1], state[1])


def test_the_oracle_forgives_a_slip(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 64, seed=0)
    oracle = OracleAgent(scenes.gallery, scenes.vocabulary, np.random.default_rng(0))
    assert percentiles(run_dialogs(scenes, oracle, target, reference))[TURNS] > 0.9


def test_image_only_stays_where_it_is(truthful: Dialog) -> None:
    target, reference = evaluation_pairs(64, 64, seed=0)
    played = run_dialogs(truthful, ImageOnlyAgent(truthful.gallery), target, reference)
    assert (played.ranks == played.ranks[:, :1]).all()
    assert 0.4 < percentiles(played)[0] < 0.7
    assert (played.shown == reference[:, None]).all()


# ties and nonsense


class Collapsed:
    """All images in one place."""

    def __init__(self, size: int, value: float = 1.0):
        self.index = ExactIndex(np.full((size, 3), value, np.float32))

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        return np.ones((len(observation["turn"]), 3), np.float32), state


def test_collapsed_embeddings_score_chance(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 8, seed=0)
    half = run_dialogs(scenes, Collapsed(64), target, reference)
    assert (half.ranks == 63 / 2).all()
    assert (rank_percentile(half.ranks, 64) == 0.5).all()
    published = run_dialogs(scenes, Collapsed(64), target, reference, ties="optimistic")
    assert (published.ranks == 0).all()  # why it is not the default


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_an_error(value: float, scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 8, seed=0)
    with pytest.raises(ValueError, match="queries are not finite"):
        run_dialogs(scenes, Collapsed(64, value), target, reference)


# other people's agents


class Foreign:
    """Knows Stable-Baselines3's `predict` and nothing else of ours."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):  # type: ignore[no-untyped-def]
        assert deterministic
        return np.roll(observation["reference"], 16, axis=1), ("mine", state)


def test_an_agent_with_nothing_but_predict(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 20, seed=0)
    played = run_dialogs(scenes, Foreign(), target, reference, depth=2)
    features = scenes.gallery.features
    for turn in range(1, TURNS + 1):
        query = np.roll(features[played.shown[:, turn - 1]], 16, axis=1)
        scores = query @ features.T
        np.testing.assert_array_equal(played.shown[:, turn], scores.argmax(axis=1))
        np.testing.assert_array_equal(played.ranks[:, turn], scenes.index.rank(query, target))
        np.testing.assert_array_equal(played.candidates[:, turn], scenes.index.search(query, 2))


def test_an_agent_that_chooses_among_candidates(scenes: Dialog) -> None:
    class SecondBest:
        mode = ActionMode("candidate", 4)

        def predict(
            self,
            observation: Observation,
            state: Any = None,
            episode_start: np.ndarray | None = None,
            deterministic: bool = True,
        ) -> tuple[np.ndarray, Any]:
            size = len(observation["turn"])
            assert observation["candidates"].shape == (size, 4 * observation["reference"].shape[1])
            return np.ones(size, dtype=np.int64), None

    target, reference = evaluation_pairs(64, 20, seed=0)
    played = run_dialogs(scenes, SecondBest(), target, reference, depth=3)
    features = scenes.gallery.features
    for turn in range(TURNS):
        for row in range(20):
            on_show = played.shown[row, turn]
            scores = features @ features[on_show]
            others = [scores[image] for image in range(64) if image != on_show]
            assert played.shown[row, turn + 1] != on_show
            assert scores[played.shown[row, turn + 1]] == pytest.approx(sorted(others)[-2])
