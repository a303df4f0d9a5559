"""Beliefs that weigh words by a model of the user, against loops over images and turns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.belief import Belief, Heard, Weighing
from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent, named, thinking
from agents.planning import Plan, PlanningAgent, finite, likelier_than_all
from agents.report import found_by_turn, repeat_share
from agents.supervised import Training, pretrain_epoch
from agents.tracker import AGENTS, DialogTracker
from envs.dialog import CAPTION_LENGTH, Dialog
from envs.factory import make_dialog
from envs.state import NOTHING
from envs.vector import DialogRetrievalVectorEnv
from tests.steady_users import Half, Steady
from user_simulator import NoisyUser
from user_simulator.base import Draws, UserModel

N, SENTENCES, PAIRS, TURNS = 9, 4, 60, 4


class Teller:
    """Says one of a few sentences about a pair, with probabilities from a table.

    Args:
        chances: (N, N, S) of the sentences s0, s1, ... by reference and target.
    """

    def __init__(self, chances: np.ndarray):
        self.chances = chances
        self.asked: list[tuple[int, int, str]] = []

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """The likeliest sentences."""
        return [f"s{number}" for number in self.chances[reference, target].argmax(1)]

    def log_likelihood(
        self, reference: np.ndarray, target: np.ndarray, captions: list[str]
    ) -> np.ndarray:
        """From the table; remembers what it was asked."""
        numbers = [int(caption[1:]) for caption in captions]
        self.asked += zip(reference.tolist(), target.tolist(), captions, strict=True)
        with np.errstate(divide="ignore"):
            return np.log(self.chances[reference, target, numbers])


def teller(seed: int = 0) -> Teller:
    return Teller(np.random.default_rng(seed).dirichlet(np.full(SENTENCES, 0.5), (N, N)))


def by_hand(
    chances: np.ndarray, strangers: np.ndarray, slips: float, heard: list[tuple[int, str]]
) -> np.ndarray:
    """What the words say of each image: sums (N,) over the turns, one number at a time."""
    sums = np.zeros(N)
    for shown, said in heard:
        number = int(said[1:])
        slip = np.mean([chances[shown, other, number] for other in strangers])
        for image in range(N):
            sums[image] += np.log((1 - slips) * chances[shown, image, number] + slips * slip)
    return sums


def hear_all(belief: Belief, heard: list[list[tuple[int, str]]]) -> Heard:
    """Dialogs B of turns (reference, words), turn by turn."""
    state = None
    for turn in zip(*heard, strict=True):
        shown, said = zip(*turn, strict=True)
        state = belief.hear(state, np.array(shown), list(said))
    assert state is not None
    return state


NONE = np.full((2, 1), NOTHING)
TALKS = [[(0, "s1"), (3, "s0"), (5, "s1")], [(8, "s3"), (2, "s2"), (0, "s0")]]


@pytest.mark.parametrize("slips", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("strangers", [4, 100])
def test_the_belief_is_bayes_rule(slips: float, strangers: int) -> None:
    user = teller()
    belief = Belief(user, N, Weighing(100, slips, strangers), np.random.default_rng(3))
    drawn = belief._strangers
    assert sorted(set(drawn.tolist())) == sorted(drawn.tolist()) and len(drawn) == min(N, strangers)
    prior = np.random.default_rng(1).normal(size=(2, N))
    logits, _ = belief.weigh(prior, hear_all(belief, TALKS), NONE)
    for row, heard in enumerate(TALKS):
        wanted = prior[row] + by_hand(user.chances, drawn, slips, heard)
        np.testing.assert_allclose(logits[row], wanted, rtol=1e-10)


def test_images_that_come_late_have_all_turns_weighed_and_none_twice() -> None:
    """The tracker's favourites change from turn to turn."""
    user = teller()
    belief = Belief(user, N, Weighing(3, 0.1, 4), np.random.default_rng(3))
    rng, state = np.random.default_rng(2), None
    asked = set()
    for turn in range(3):
        shown, said = zip(*(talk[turn] for talk in TALKS), strict=True)
        state = belief.hear(state, np.array(shown), list(said))
        prior, always = rng.normal(size=(2, N)), NONE.copy()
        always[0] = 7 if turn > 0 else NOTHING
        user.asked.clear()
        logits, state = belief.weigh(prior, state, always)
        for row, talk in enumerate(TALKS):
            order = [image for image in np.argsort(-prior[row]) if image not in always[row]]
            pool = [*order[:3], *always[row][always[row] != NOTHING]]
            others = np.setdiff1d(np.arange(N), pool)
            heard = talk[: turn + 1]
            wanted = prior[row] + by_hand(user.chances, belief._strangers, 0.1, heard)
            np.testing.assert_allclose(logits[row, pool], wanted[pool], rtol=1e-10)
            assert logits[row, others].max() < logits[row, pool].min()
            by_prior = others[np.argsort(prior[row, others])]
            assert (np.diff(logits[row, by_prior]) > 0).all()  # the tracker's order
        assert not asked & set(user.asked)
        asked |= set(user.asked)


def test_what_is_ruled_out_stays_out_and_what_cannot_be_is_last() -> None:
    user = teller()
    user.chances[0, :4] = [0.0, 1.0, 0.0, 0.0]  # these would have said s1
    prior = np.zeros((1, N))
    prior[0, 5] = -np.inf
    for slips in (0.0, 0.1):
        belief = Belief(user, N, Weighing(100, slips, N), np.random.default_rng(3))
        heard = belief.hear(None, np.array([0]), ["s0"])
        logits, _ = belief.weigh(prior, heard, NONE[:1])
        impossible = np.isneginf(logits[0])
        assert impossible[5] and impossible[:4].all() == (slips == 0)
        assert np.isfinite(logits[0, [4, 6, 7, 8]]).all()
        assert logits[0, :4].max() < logits[0, [4, 6, 7, 8]].min()


def test_dialogs_begun_anew_remember_nothing() -> None:
    user = teller()
    belief = Belief(user, N, Weighing(3, 0.1, 4), np.random.default_rng(3))
    rng = np.random.default_rng(5)
    old = hear_all(belief, TALKS)
    kept = [old.evidence.copy(), old.turns.copy()]
    _, weighed = belief.weigh(rng.normal(size=(2, N)), old, NONE)
    np.testing.assert_array_equal(old.evidence, kept[0])  # state in, state out
    np.testing.assert_array_equal(old.turns, kept[1])
    assert (weighed.turns > old.turns).any()
    old, prior = weighed, rng.normal(size=(2, N))

    both = belief.hear(old.forget(np.array([True, True])), np.array([4, 1]), ["s2", "s0"])
    fresh = belief.hear(None, np.array([4, 1]), ["s2", "s0"])
    np.testing.assert_array_equal(
        belief.weigh(prior, both, NONE)[0], belief.weigh(prior, fresh, NONE)[0]
    )
    assert both.reference.shape == (2, 1)

    one = belief.hear(old.forget(np.array([False, True])), np.array([4, 1]), ["s2", "s0"])
    logits, _ = belief.weigh(prior, one, NONE)
    goes_on = hear_all(belief, [[*TALKS[0], (4, "s2")], [*TALKS[1], (1, "s0")]])
    np.testing.assert_allclose(logits[0], belief.weigh(prior, goes_on, NONE)[0][0])
    np.testing.assert_array_equal(logits[1], belief.weigh(prior, fresh, NONE)[0][1])


@pytest.mark.parametrize("slips", [0.0, 0.3])
def test_what_showing_is_expected_to_come_to(slips: float) -> None:
    """One candidate, one image that could be meant, one image it could be mistaken for."""
    user = teller(4)
    belief = Belief(user, N, Weighing(9, slips, 9), np.random.default_rng(3))
    images = np.array([[0, 2, 4, 5, 8], [7, 3, 1, 0, 2]])
    candidates = np.array([[0, 6], [3, 7]])  # 6 is none of those that could be meant
    logits = np.random.default_rng(7).normal(size=(2, 5))
    expected = belief.expected(candidates, images, logits, np.random.default_rng(0))
    for row in range(2):
        weight = np.exp(logits[row]) / np.exp(logits[row]).sum()
        for column, shown in enumerate(candidates[row]):
            total = 0.0
            for mine, meant in zip(weight, images[row], strict=True):
                if meant == shown:
                    continue
                said = user.chances[shown, meant].argmax()
                like = user.chances[shown, images[row], said]
                after = weight * ((1 - slips) * like + slips * (weight * like).sum())
                after[images[row] == shown] = 0
                own = after[images[row] == meant][0]
                rank = (after > own).sum() + ((after == own).sum() - 1) / 2
                total += mine * (1 + np.log2(1 + rank))
            assert expected[row, column] == pytest.approx(total)


@pytest.mark.parametrize(("what", "wrong"), [
    ("a share of slips", {"slips": 1.0}), ("a share of slips", {"slips": -0.1}),
    ("at least 1 image", {"pool": 0}), ("at least 1 image", {"strangers": 0}),
])  # fmt: skip
def test_beliefs_that_make_no_sense_are_refused(what: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=what):
        Weighing(**wrong)


def test_an_image_is_known_once_it_is_likelier_than_all_others_together() -> None:
    logits = np.log([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])
    seen = np.array([[True, False, True], [False, True, True], [True, True, True]])
    assert likelier_than_all(logits, seen).tolist() == [0, NOTHING, NOTHING]


def test_what_is_ruled_out_ranks_last_by_the_other_scores() -> None:
    logits = np.array([[3.0, -np.inf, 1.0, -np.inf, 2.0], [-np.inf] * 5])
    own = np.array([[0.0, 0.2, 0.9, 0.7, 0.1], [0.1, 0.4, 0.2, 0.5, 0.3]], np.float32)
    scores = finite(logits, own)
    assert scores.dtype == np.float32 and np.isfinite(scores).all()
    assert np.argsort(-scores).tolist() == [[0, 4, 2, 3, 1], [3, 1, 4, 2, 0]]
    assert likelier_than_all(logits, np.ones((2, 5), bool)).tolist() == [0, NOTHING]


def test_many_images_far_below_are_told_apart() -> None:
    logits = np.linspace(-501, -500, 5000)[None]
    logits[0, -1] = 0.0
    scores = finite(logits, np.zeros((1, 5000), np.float32))
    assert len(np.unique(scores)) == 5000


def test_where_all_that_is_weighed_is_ruled_out_the_tracker_is_left() -> None:
    user = teller()
    user.chances[:, :, 0] = 0.0  # nobody says s0
    belief = Belief(user, N, Weighing(3, 0.2, 4), np.random.default_rng(3))
    prior = np.random.default_rng(1).normal(size=(1, N))
    logits, _ = belief.weigh(prior, belief.hear(None, np.array([0]), ["s0"]), NONE[:1])
    order = np.argsort(-prior[0])
    assert np.isneginf(logits[0, order[:3]]).all()
    assert np.argsort(-logits[0])[:6].tolist() == order[3:].tolist()


# ---- agents that hear so


@pytest.fixture(scope="module")
def dialog(tiny_root: Path) -> Dialog:
    made = make_dialog(root=tiny_root, encoder="scene", max_turns=TURNS)
    return made.with_(user=Steady(made.user))


@pytest.fixture(scope="module")
def agent(dialog: Dialog) -> DialogTracker:
    torch.manual_seed(0)
    made = AGENTS["tracker"](dialog.vocabulary, dialog.gallery.features.shape[1], 24)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    list(pretrain_epoch(made, dialog, optimizer, 0, Training(16, 512, TURNS)))
    return made.eval()


def weigher(
    agent: DialogTracker, dialog: Dialog, k: int = 1, plays_on: bool = True, slips: float = 0.1
) -> PlanningAgent:
    return PlanningAgent(
        agent, dialog, Plan(k, 6), np.random.default_rng(1), plays_on, Weighing(20, slips, 8)
    )


def test_weighing_finds_more(agent: DialogTracker, dialog: Dialog) -> None:
    assert isinstance(dialog.user, UserModel)
    target, reference = evaluation_pairs(len(dialog.gallery), 200, 5)
    for rules in (dialog, dialog.with_(user=NoisyUser(dialog.user, 0.3, len(dialog.gallery)))):
        once = PlanningAgent(agent, rules, Plan(1), np.random.default_rng(1), True)
        found = [
            found_by_turn(run_dialogs(rules, who, target, reference).slates, target)[:, -1].mean()
            for who in (once, weigher(agent, rules), weigher(agent, rules, 3))
        ]
        assert found[0] + 0.1 < min(found[1:])


@pytest.mark.parametrize("k", [1, 3])
def test_what_it_shows_and_how_it_ranks_by_loops(
    k: int, agent: DialogTracker, dialog: Dialog
) -> None:
    """The likeliest that was not on show or, but in the last turn, what promises most."""
    rules = dialog.with_(user=Steady(dialog.user.user, -0.5, -1.5))  # so that both opinions count
    who = weigher(agent, rules, k, plays_on=False)
    strangers = who._belief._strangers  # type: ignore[union-attr]
    features = torch.from_numpy(dialog.gallery.features)

    def like(shown: int, image: int, said: str) -> float:
        one, other = np.array([shown]), np.array([image])
        return float(np.exp(rules.user.log_likelihood(one, other, [said])[0]))

    compared = unlikeliest = 0
    for target in range(16):
        state, memory, seen, talk = None, None, [], []
        shown = (target + 5) % len(features)
        for turn in range(TURNS):
            if shown == target:
                break
            said = rules.user.describe(np.array([shown]), np.array([target]), Half())
            ids = dialog.vocabulary.encode(said, CAPTION_LENGTH)
            observed = {"reference": dialog.gallery.features[[shown]], "caption": ids,
                        "turn": np.array([[turn]])}  # fmt: skip
            scores, state = who.predict(observed, state, np.array([turn == 0]))
            seen.append(shown)
            talk.append((shown, said[0]))
            with torch.no_grad():
                query, memory = agent.respond(
                    agent.embed(features[[shown]]), torch.from_numpy(ids), memory
                )
                prior = agent.scale.exp() * (query @ agent.embed(features).T)[0]
            free = [image for image in range(len(features)) if image not in seen]
            free.sort(key=lambda image: -float(prior[image]))
            logits = {}
            for image in free[:20]:
                logits[image] = float(prior[image])
                for before, words in talk:
                    slip = np.mean([like(before, other, words) for other in strangers])
                    logits[image] += np.log(0.9 * like(before, image, words) + 0.1 * slip)
            order = sorted(logits, key=lambda image: -logits[image])
            chosen = int(scores[0].argmax())
            expected = dict.fromkeys(order[:1], 0.0)
            if k > 1 and turn < TURNS - 1:
                expected = outcomes(order[:6], logits, k, rules.user, like)
            assert expected[chosen] == pytest.approx(min(expected.values()), abs=1e-3)
            ranked = [image for image in np.argsort(-scores[0]).tolist() if image != chosen]
            told = [logits[image] for image in ranked[:19]]
            assert (np.diff(told) < 1e-3).all()  # the belief's order
            assert ranked[19 : len(free) - 1] == free[20:]  # then the tracker's
            assert set(ranked[len(free) - 1 :]) == set(seen)
            compared += 1
            unlikeliest += chosen != order[0]
            shown = chosen
    assert compared > 30 and (unlikeliest > 3) == (k > 1)


def outcomes(
    images: list[int], logits: dict[int, float], k: int, user: Any, like: Any
) -> dict[int, float]:
    """What showing each of the first k is expected to come to."""
    weight = np.exp([logits[image] for image in images])
    weight = weight / weight.sum()
    expected = {}
    for shown in images[:k]:
        expected[shown] = 0.0
        for mine, meant in zip(weight, images, strict=True):
            if meant == shown:
                continue
            said = user.describe(np.array([shown]), np.array([meant]), Half())[0]
            chance = np.array([like(shown, image, said) for image in images])
            after = weight * (0.9 * chance + 0.1 * (weight * chance).sum())
            after[images.index(shown)] = 0
            own = after[images.index(meant)]
            rank = (after > own).sum() + ((after == own).sum() - 1) / 2
            expected[shown] += mine * (1 + np.log2(1 + rank))
    return expected


def test_a_small_pool_does_not_bind_it_to_what_was_on_show(
    agent: DialogTracker, dialog: Dialog
) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), 200, 5)
    once = PlanningAgent(agent, dialog, Plan(1), np.random.default_rng(1), True)
    few = PlanningAgent(agent, dialog, Plan(1), np.random.default_rng(1), True, Weighing(2, 0.1, 8))
    least, found = (
        found_by_turn(run_dialogs(dialog, who, target, reference).slates, target)[:, -1].mean()
        for who in (once, few)
    )
    assert found >= least


def test_what_users_passed_over_is_not_shown_again(agent: DialogTracker, dialog: Dialog) -> None:
    """They pick the target where it is on the slate, whatever slips out of them."""
    slips = NoisyUser(dialog.user, 0.3, len(dialog.gallery))
    rules = dialog.with_(slate=3, user=slips)
    target, reference = evaluation_pairs(len(dialog.gallery), 120, 3)
    played = run_dialogs(rules, weigher(agent, rules), target, reference)
    passed_over = 0
    for row in range(len(target)):
        passed, picked = set(), set()
        for turn in range(TURNS + 1):
            slate = {int(image) for image in played.slates[row, turn] if image >= 0}
            assert not (passed - picked) & slate
            picked.add(int(played.shown[row, turn]))
            passed |= slate - picked
        passed_over += len(passed)
    assert passed_over > 300


@pytest.mark.parametrize("play", [{}, {"slate": 3}, {"never_repeat": True}, {"patience": 2}])
def test_what_is_found_stays_first(
    play: dict[str, Any], agent: DialogTracker, dialog: Dialog
) -> None:
    """Where dialogs play on; where a find ends them, nothing is shown twice."""
    rules = dialog.with_(**play)
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    played = run_dialogs(rules, weigher(agent, rules), target, reference)
    found = (found_by_turn(played.slates, target) > 0) & ~played.left
    assert found[:, -2].mean() > 0.2
    assert (played.ranks[:, 1:][found[:, :-1] & ~played.left[:, 1:]] == 0).mean() > 0.95
    ended = run_dialogs(rules, weigher(agent, rules, plays_on=False), target, reference)
    assert repeat_share(ended.slates, target, ended.left) == 0


def test_a_find_that_a_slip_hides_is_shown_again(agent: DialogTracker, dialog: Dialog) -> None:
    """The words before it still speak for it, and what was said of it is taken for a slip."""
    who = weigher(agent, dialog, slips=0.3)
    again = 0
    for target in range(20):
        state, on_show, found = None, (target + 7) % len(dialog.gallery), False
        for turn in range(12):
            meant = target
            if on_show == target and not found:
                found, meant = True, (target + 11) % len(dialog.gallery)  # the slip
            said = dialog.user.describe(np.array([on_show]), np.array([meant]), Half())
            seen = {"reference": dialog.gallery.features[[on_show]], "turn": np.array([[turn]]),
                    "caption": dialog.vocabulary.encode(said, CAPTION_LENGTH)}  # fmt: skip
            scores, state = who.predict(seen, state, np.array([turn == 0]))
            on_show = int(scores[0].argmax())
        again += found and on_show == target
    assert again > 12


def test_new_dialogs_in_a_batch_begin_anew(agent: DialogTracker, dialog: Dialog) -> None:
    """Through the vector environment: each dialog goes as it would on its own."""
    rules = dialog.with_(index=agent.index(dialog.gallery.features))
    first, second = (weigher(agent, rules, 3, plays_on=False) for _ in range(2))
    env = DialogRetrievalVectorEnv(rules.with_(index=first.index), num_envs=6, action="query")
    seen, _ = env.reset(seed=2)
    state, begins, fresh = None, np.ones(6, dtype=bool), 0
    alone: list[Any] = [None] * 6
    for _ in range(12):
        action, state = first.predict(seen, state, begins)
        for row in range(6):
            one = {name: value[[row]] for name, value in seen.items()}
            before = None if begins[row] else alone[row]
            own, alone[row] = second.predict(one, before, begins[[row]])
            np.testing.assert_allclose(own[0], action[row], rtol=1e-4, atol=1e-4)
        fresh += int(begins.sum())
        seen, _, terminated, truncated, _ = env.step(action)
        begins = terminated | truncated
    assert fresh > 12 and state.heard.reference.shape[1] <= TURNS


def test_what_cannot_be_weighed_is_refused(agent: DialogTracker, dialog: Dialog) -> None:
    unknown = dialog.with_(user=dialog.user.user)
    with pytest.raises(ValueError, match="got AttributeUser; play with --user neural"):
        weigher(agent, unknown)
    slates = dialog.with_(slate=2)
    weigher(agent, slates)
    with pytest.raises(ValueError, match="one image at a time"):
        weigher(agent, slates, 3)
    with pytest.raises(ValueError, match="depth of 2"):
        PlanningAgent(agent, dialog, Plan(3, 6, 2), np.random.default_rng(1), weighing=Weighing())
    with pytest.raises(ValueError, match="a .pt checkpoint after bayes:, got 'oracle'"):
        load_agent("bayes:oracle", dialog)
    assert thinking("plan-bayes:models/rl-3.pt") == ("plan-bayes", "models/rl-3.pt")
    assert named("bayes:models/rl-3.pt")[0] == "bayes-rl-3"
