"""Looking ahead over believed targets, against loops over one dialog at a time."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.belief import listed
from agents.checkpoints import save_checkpoint
from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent, named
from agents.planning import Plan, PlanningAgent, without_slips
from agents.report import found_by_turn, repeat_share
from agents.supervised import Training, pretrain_epoch
from agents.tracker import AGENTS, DialogTracker, TrackerAgent
from envs.dialog import CAPTION_LENGTH, Dialog
from envs.factory import make_dialog
from envs.vector import DialogRetrievalVectorEnv
from tests.steady_users import Half, Steady
from user_simulator import AttributeUser, NoisyUser

PAIRS, TURNS, K, M = 48, 4, 4, 6


@pytest.fixture(scope="module")
def dialog(tiny_root: Path) -> Dialog:
    made = make_dialog(root=tiny_root, encoder="scene", max_turns=TURNS)
    return made.with_(user=Steady(made.user))


def trained(name: str, dialog: Dialog) -> DialogTracker:
    torch.manual_seed(0)
    agent = AGENTS[name](dialog.vocabulary, dialog.gallery.features.shape[1], 24)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    list(pretrain_epoch(agent, dialog, optimizer, 0, Training(16, 512, TURNS)))
    return agent.eval()


@pytest.fixture(scope="module")
def agent(dialog: Dialog) -> DialogTracker:
    return trained("tracker", dialog)


def planner(agent: DialogTracker, dialog: Dialog, k: int = K, m: int = M, **more: Any) -> Any:
    return PlanningAgent(agent, dialog, Plan(k, m, **more), np.random.default_rng(1), True)


@torch.no_grad()
def expected_by_hand(
    agent: DialogTracker, dialog: Dialog, on_show: int, said: str, seen: list[int], memory: Any
) -> tuple[dict[int, float], Any]:
    """What showing each of the K likeliest is expected to come to, one roll-out at a time."""
    features = torch.from_numpy(dialog.gallery.features)
    embedded = agent.searched(agent.embed(features))
    ids = torch.from_numpy(dialog.vocabulary.encode([said], CAPTION_LENGTH))
    query, memory = agent.respond(agent.embed(features[[on_show]]), ids, memory)
    scores = (agent.asked(query) @ embedded.T)[0]
    free = [image for image in range(len(features)) if image not in seen]
    free.sort(key=lambda image: -float(scores[image]))
    weights = torch.softmax(agent.scale.exp() * scores[free[:M]], 0)
    outcome = dict.fromkeys(free[:K], 0.0)
    for shown in outcome:
        for weight, meant in zip(weights.tolist(), free[:M], strict=True):
            if shown == meant:
                continue
            reply = dialog.user.describe(np.array([shown]), np.array([meant]), Half())
            ids = torch.from_numpy(dialog.vocabulary.encode(reply, CAPTION_LENGTH))
            then, _ = agent.respond(agent.embed(features[[shown]]), ids, memory)
            after = (agent.asked(then) @ embedded.T)[0]
            rank = float((after > after[meant]).sum() + ((after == after[meant]).sum() - 1) / 2)
            outcome[shown] += weight * (1 + np.log2(1 + rank))
    return outcome, memory


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_it_shows_what_loops_expect_most_of(name: str, dialog: Dialog) -> None:
    agent = trained(name, dialog)
    target, reference = evaluation_pairs(len(dialog.gallery), 12, 3)
    played = run_dialogs(dialog, planner(agent, dialog), target, reference)
    compared = other = 0
    for row in range(len(target)):
        memory, seen = None, [int(reference[row])]
        for turn in range(TURNS - 1):
            on_show = int(played.shown[row, turn])
            if on_show == target[row]:
                break
            expected, memory = expected_by_hand(
                agent, dialog, on_show, played.captions[row][turn], seen, memory
            )
            chosen = int(played.shown[row, turn + 1])
            assert expected[chosen] == pytest.approx(min(expected.values()), abs=1e-4)
            compared += 1
            other += chosen != next(iter(expected))
            seen.append(chosen)
    assert compared > 20 and other > 3  # it is not always the likeliest


def test_at_last_and_without_a_plan_it_shows_the_likeliest_not_yet_shown(
    agent: DialogTracker, dialog: Dialog
) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    for k, turns in ((1, range(TURNS)), (K, [TURNS - 1])):
        played = run_dialogs(dialog, planner(agent, dialog, k), target, reference)
        for row in range(PAIRS):
            memory: Any = None
            for turn in range(TURNS):
                if played.shown[row, turn] == target[row]:
                    break
                seen = [int(image) for image in played.shown[row, : turn + 1]]
                expected, memory = expected_by_hand(
                    agent, dialog, seen[-1], played.captions[row][turn], seen, memory
                )
                if turn in turns:
                    assert played.shown[row, turn + 1] == next(iter(expected))


@pytest.mark.parametrize("play", [{}, {"slate": 3}, {"never_repeat": True}, {"patience": 2}])
@pytest.mark.parametrize("k", [1, K])
def test_what_was_shown_is_not_shown_again_and_what_is_found_stays_first(
    play: dict[str, Any], k: int, agent: DialogTracker, dialog: Dialog
) -> None:
    rules = dialog.with_(**play)
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    played = run_dialogs(rules, planner(agent, rules, k), target, reference)
    assert repeat_share(played.slates, target, played.left) == 0
    found = found_by_turn(played.slates, target) > 0
    assert found[:, -1].mean() > 0.2
    stays = found & ~played.left
    assert (played.ranks[stays] < rules.slate).all()
    later = stays[:, 1:] & found[:, :-1]  # it was on show before
    assert (played.ranks[:, 1:][later] == 0).all()
    if not rules.never_repeat:
        assert (played.shown[stays] == np.broadcast_to(target[:, None], found.shape)[stays]).all()


def test_a_wrong_recognition_is_taken_back(agent: DialogTracker, dialog: Dialog) -> None:
    """What was taken for the target stays first until it is on show and words say otherwise."""
    plans = planner(agent, dialog, 1)
    features = dialog.gallery.features
    same = dialog.user.describe(np.array([5]), np.array([5]), Half())
    wrong = dialog.user.describe(np.array([5]), np.array([9]), Half())
    state, answers = None, []
    for turn, said in enumerate((same, same, wrong)):
        seen = {"reference": features[[5]], "turn": np.array([[turn]]),
                "caption": dialog.vocabulary.encode(said, CAPTION_LENGTH)}  # fmt: skip
        scores, state = plans.predict(seen, state, np.array([turn == 0]))
        answers.append(int(scores[0].argmax()))
    assert answers[:2] == [5, 5] and answers[2] != 5

    begun, _ = plans.predict(seen | {"turn": np.array([[0]])}, state, np.array([True]))
    fresh, _ = planner(agent, dialog, 1).predict(seen | {"turn": np.array([[0]])})
    np.testing.assert_array_equal(begun, fresh)
    recognised = {**seen, "caption": dialog.vocabulary.encode(same, CAPTION_LENGTH)}
    _, state = plans.predict(recognised, None, np.array([True]))
    elsewhere = {**seen, "reference": features[[7]]}
    begun, _ = plans.predict(elsewhere, state, np.array([True]))
    assert begun[0].argmax() != 5  # that was in another dialog


def test_where_a_find_ends_the_dialog_nothing_is_recognised(
    agent: DialogTracker, dialog: Dialog
) -> None:
    """So no user is misunderstood who says of another image what they would say of this one."""
    ended = PlanningAgent(agent, dialog, Plan(1), np.random.default_rng(1))
    same = dialog.user.describe(np.array([5]), np.array([5]), Half())
    seen = {"reference": dialog.gallery.features[[5]], "turn": np.array([[1]]),
            "caption": dialog.vocabulary.encode(same, CAPTION_LENGTH)}  # fmt: skip
    scores, _ = ended.predict(seen)
    assert scores[0].argmax() != 5


def test_slates_do_not_repeat_in_a_small_gallery(agent: DialogTracker, tiny_root: Path) -> None:
    """All 32 images are looked at for a slate, and 13 were shown before the last but one."""
    few = make_dialog(root=tiny_root, encoder="scene", split="test", max_turns=TURNS, slate=4)
    target, reference = evaluation_pairs(len(few.gallery), 200, 3)
    undecided = copy.deepcopy(agent)  # so that any image may be drawn
    undecided.scale.data.fill_(-3.0)
    played = run_dialogs(few, planner(undecided, few, K), target, reference)
    assert len(few.gallery) == 32 and not repeated(played.slates, target).any()


def repeated(slates: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Whether a dialog showed an image twice before it showed its target."""
    twice = np.zeros(len(slates), dtype=bool)
    for row, turns in enumerate(slates):
        seen: set[int] = set()
        for slate in turns:
            images = {int(image) for image in slate if image >= 0}
            twice[row] |= bool(images & seen)
            seen |= images
            if target[row] in images:
                break
    return twice


def test_who_says_it_in_many_ways_is_understood(
    agent: DialogTracker, dialog: Dialog, tiny_root: Path
) -> None:
    rules = make_dialog(root=tiny_root, encoder="scene", max_turns=TURNS)
    target, reference = evaluation_pairs(len(dialog.gallery), 200, 3)
    played = run_dialogs(rules, planner(agent, rules, 1), target, reference)
    found = found_by_turn(played.slates, target) > 0
    assert found[:, -2].sum() > 20
    assert (played.shown[:, -1] == target)[found[:, -2]].mean() > 0.8


def test_imagined_users_are_patient(agent: DialogTracker, dialog: Dialog) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    patient, hasty = (
        run_dialogs(rules, planner(agent, rules), target, reference).shown
        for rules in (dialog, dialog.with_(patience=1))
    )
    np.testing.assert_array_equal(patient[:, 1], hasty[:, 1])


def test_looking_ahead_finds_more(agent: DialogTracker, dialog: Dialog) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), 400, 5)
    found = [
        found_by_turn(run_dialogs(dialog, who, target, reference).slates, target)[:, -1].mean()
        for who in (agent, planner(agent, dialog, 1), planner(agent, dialog, 6, 12))
    ]
    assert found[0] < found[1] < found[2]


def test_a_deeper_look_is_another_one(agent: DialogTracker, dialog: Dialog) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    near, deep = (
        run_dialogs(dialog, planner(agent, dialog, depth=depth), target, reference).shown
        for depth in (1, 2)
    )
    assert (near != deep).any()


def test_before_the_first_answer_ranks_are_the_trackers(
    agent: DialogTracker, dialog: Dialog
) -> None:
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    own, planned = (
        run_dialogs(dialog, who, target, reference).ranks[:, 0]
        for who in (agent, planner(agent, dialog, 1))
    )
    np.testing.assert_allclose(planned, own, atol=1)  # but for how near ties are rounded
    assert np.mean(planned == own) > 0.9


@pytest.mark.parametrize(("slate", "k"), [(1, 1), (1, K), (3, 1)])
def test_new_dialogs_in_a_batch_begin_anew(
    slate: int, k: int, agent: DialogTracker, dialog: Dialog
) -> None:
    """Through the vector environment: each dialog goes as it would on its own."""
    rules = dialog.with_(slate=slate, index=agent.index(dialog.gallery.features))
    first, second = planner(agent, rules, k), planner(agent, rules, k)
    env = DialogRetrievalVectorEnv(
        rules.with_(index=first.index), num_envs=6, action="query", observe_slate=True
    )
    seen, _ = env.reset(seed=2)
    state, begins, fresh, seen_by_it = None, np.ones(6, dtype=bool), 0, 0
    alone: list[Any] = [None] * 6
    for _ in range(12):
        action, state = first.predict(seen, state, begins)
        for row in range(6):
            one = {name: value[[row]] for name, value in seen.items()}
            before = None if begins[row] else alone[row]
            own, alone[row] = second.predict(one, before, begins[[row]])
            np.testing.assert_allclose(own[0], action[row], rtol=1e-4, atol=1e-5)
            seen_by_it += int(begins[row])
        fresh += int(begins.sum())
        seen, _, terminated, truncated, _ = env.step(action)
        begins = terminated | truncated
    assert fresh == seen_by_it > 12 and state.shown.shape[1] <= slate * (TURNS + 1)


def test_slips_are_not_imagined_and_strangers_may_be(
    agent: DialogTracker, dialog: Dialog, tiny_root: Path
) -> None:
    slips = NoisyUser(dialog.user, 0.5, len(dialog.gallery))
    assert without_slips(slips) is dialog.user and without_slips(dialog.user) is dialog.user
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    rules = dialog.with_(user=slips)
    by_hand = planner(agent, dialog)
    played = [
        run_dialogs(rules, who, target, reference).shown for who in (planner(agent, rules), by_hand)
    ]
    np.testing.assert_array_equal(*played)


def test_what_cannot_be_planned_is_refused(
    agent: DialogTracker, dialog: Dialog, tmp_path: Path
) -> None:
    for wrong in ({"top_k": 0}, {"believed": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="at least 1 candidate"):
            Plan(**wrong)
    size = len(dialog.gallery)
    with pytest.raises(ValueError, match=f"more than {TURNS + size} images, got {size}"):
        planner(agent, dialog, size)
    strange = {
        "reference": np.zeros((1, agent.feature_dim), np.float32),
        "caption": np.zeros((1, CAPTION_LENGTH), np.int64),
        "turn": np.zeros((1, 1)),
    }
    with pytest.raises(ValueError, match="none of the gallery"):
        planner(agent, dialog).predict(strange)
    other = TrackerAgent(dialog.vocabulary, 7, 24)
    with pytest.raises(ValueError, match="features of size 7"):
        planner(other, dialog)
    with pytest.raises(ValueError, match="a .pt checkpoint after plan:, got 'oracle'"):
        load_agent("plan:oracle", dialog)


def test_they_are_loaded_by_name(agent: DialogTracker, dialog: Dialog, tmp_path: Path) -> None:
    path = tmp_path / "sl-3.pt"
    optimizer = torch.optim.Adam(agent.parameters())
    save_checkpoint(path, agent, {"kind": "tracker", "dim": 24}, 3, optimizer, None)
    assert named(f"plan:{path}") == ("plan-sl-3", f"plan:{path}")
    assert named(f"mine=once:{path}") == ("mine", f"once:{path}")
    loaded: Any = load_agent(f"plan:{path}", dialog, plan=Plan(K, M))
    assert loaded.plan == Plan(K, M) and loaded.plays_on
    once: Any = load_agent(f"once:{path}", dialog, plan=Plan(K, M))
    assert once.plan == Plan(1, M)
    imagined = AttributeUser(dialog.gallery)
    stranger: Any = load_agent(f"plan:{path}", dialog, imagined=imagined)
    assert stranger._players.ahead.user is imagined


def test_lists_become_masks() -> None:
    found = listed(np.array([[2, -1], [0, 1]]), 3)
    assert found.tolist() == [[False, False, True], [True, True, False]]
