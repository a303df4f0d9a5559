"""Trackers as policies of Stable-Baselines3: histories, answers, masks, algorithms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent
from agents.sb3 import (
    DialogHistory,
    DialogVecEnv,
    Method,
    SB3Agent,
    make_dialogs,
    principal_space,
    tracker_of,
)
from agents.sb3.history import fresh_candidates
from agents.sb3.policies import PatientAdam
from agents.sb3.replay import load_replay, save_replay
from envs.dialog import Dialog
from envs.factory import make_dialog, make_vector_env
from tests.sb3_models import CASES, ENVS, method, model_for, tracker_for


@pytest.fixture(scope="module")
def dialog(tiny_root: Path) -> Dialog:
    """Dialogs of 3 turns over the 64 train pictures."""
    return make_dialog(root=tiny_root, max_turns=3)


# histories


def test_a_history_holds_what_each_turn_showed_and_said(dialog: Dialog) -> None:
    """Judged by the environment's own observations, kept in lists."""
    plain = DialogVecEnv(make_vector_env(ENVS, dialog))
    whole = DialogHistory(DialogVecEnv(make_vector_env(ENVS, dialog)))
    plain.seed(5), whole.seed(5)
    seen, history = plain.reset(), whole.reset()
    dialogs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(ENVS)]
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(9):
        for row, turns in enumerate(dialogs):
            turns.append((seen["reference"][row], seen["caption"][row]))
        for row, turns in enumerate(dialogs):
            for slot in range(4):
                reference, caption = turns[slot] if slot < len(turns) else (0, 0)
                assert (history["references"][row, slot] == reference).all()
                assert (history["captions"][row, slot] == caption).all()
        assert (history["turn"] == seen["turn"]).all()
        for key, space in whole.observation_space.spaces.items():  # type: ignore[attr-defined]
            assert space.contains(history[key][0])
        action = rng.uniform(-1, 1, (ENVS, dialog.index.dim)).astype(np.float32)
        seen, _, done, infos = plain.step(action)
        history, _, _, infos_whole = whole.step(action)
        for row in np.flatnonzero(done):
            last, last_whole = (info[row]["terminal_observation"] for info in (infos, infos_whole))
            turn = int(last["turn"][0])
            told = [*dialogs[row], (last["reference"], last["caption"])]
            assert len(told) == turn + 1
            for slot, (reference, caption) in enumerate(told):
                assert (last_whole["references"][slot] == reference).all()
                assert (last_whole["captions"][slot] == caption).all()
            assert not infos_whole[row]["TimeLimit.truncated"]
            dialogs[row] = []
            ended += 1
    assert ended >= 6


def test_masks_leave_out_what_was_on_show(dialog: Dialog) -> None:
    """Judged by image numbers, which the masks never see."""
    env = DialogHistory(
        DialogVecEnv(make_vector_env(ENVS, dialog, action="candidate", candidates=6))
    )
    env.seed(2)
    seen = env.reset()
    assert env.has_attr("action_masks")
    inner = env.venv.env  # type: ignore[attr-defined]
    shown = [[int(image)] for image in inner.state.reference]
    left_out = 0
    for _ in range(8):
        masks = np.stack(env.env_method("action_masks"))
        near = dialog.candidates(inner.state, 6)
        features = dialog.gallery.features
        for row in range(ENVS):
            known = features[shown[row]]
            expected = [not (features[image] == known).all(-1).any() for image in near[row]]
            assert masks[row].tolist() == expected
            left_out += 6 - int(masks[row].sum())
        seen, _, done, _ = env.step(np.zeros(ENVS, dtype=np.int64))
        for row, image in enumerate(inner.state.reference):
            shown[row] = [int(image)] if done[row] else [*shown[row], int(image)]
    assert left_out > 3
    assert np.array_equal(env.env_method("action_masks", indices=[1])[0], fresh_candidates(seen)[1])


def test_masks_where_all_was_shown_leave_all() -> None:
    images = np.eye(3, dtype=np.float32)
    seen = {"references": images[None], "candidates": images[[2, 0]].reshape(1, -1)}
    assert fresh_candidates(seen).tolist() == [[True, True]]
    seen["references"] = images[None, :2]
    assert fresh_candidates(seen).tolist() == [[True, False]]


def test_no_masks_without_candidates(dialog: Dialog) -> None:
    assert not DialogHistory(DialogVecEnv(make_vector_env(2, dialog))).has_attr("action_masks")


# policies


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "sac", "recurrent-ppo"])
@pytest.mark.parametrize(
    "spec", [{}, {"memory": "none"}, {"kind": "published"}], ids=["gru", "none", "published"]
)
def test_an_untrained_policy_plays_as_its_tracker(
    algorithm: str, spec: dict[str, Any], dialog: Dialog
) -> None:
    """Turn by turn the same images and ranks: what supervised training made is where RL begins."""
    tracker, _ = tracker_for(dialog, **spec)
    model = model_for(dialog, method(algorithm, "query"), **spec)
    target, reference = evaluation_pairs(64, 40, seed=3)
    expected = run_dialogs(dialog, tracker, target, reference)
    played = run_dialogs(dialog, SB3Agent(model, 64), target, reference)
    assert len(np.unique(expected.shown)) > 5
    assert np.array_equal(played.shown, expected.shown)
    assert np.array_equal(played.ranks, expected.ranks)


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent-ppo", "maskable-ppo"])
def test_a_chooser_takes_the_candidate_nearest_to_the_query(algorithm: str, dialog: Dialog) -> None:
    tracker, _ = tracker_for(dialog)
    model = model_for(dialog, method(algorithm, "candidate"))
    target, reference = evaluation_pairs(64, 30, seed=3)
    played = run_dialogs(dialog, SB3Agent(model, 64), target, reference)
    own = dialog.with_(index=tracker.index(dialog.gallery.features))
    embeddings = own.index.embeddings  # type: ignore[attr-defined]
    memory = None
    for turn in range(3):
        state = own.start(target, played.shown[:, turn])
        ids = own.vocabulary.encode([said[turn] for said in played.captions], 16)
        seen = {"reference": own.gallery.features[state.reference], "caption": ids}
        query, memory = tracker.predict(seen, memory)
        near = own.candidates(state, 6)
        scores = np.einsum("bd,bkd->bk", query, embeddings[near])
        if algorithm == "maskable-ppo":
            for row, images in enumerate(near):
                old = np.isin(images, played.shown[row, : turn + 1])
                scores[row, old & ~old.all()] = -9.0
        expected = near[np.arange(30), scores.argmax(1)]
        assert np.array_equal(played.shown[:, turn + 1], expected)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "sac", "recurrent-ppo"])
def test_queries_of_many_numbers_keep_the_weights_finite(algorithm: str, dialog: Dialog) -> None:
    """Log-likelihoods of 256 narrow Gaussians are in the hundreds, e to their power is no float:
    also not of the rows that RecurrentPPO only pads sequences with."""
    model = model_for(dialog, method(algorithm, "query"), dim=256)
    model.learn(96)
    assert model.num_timesteps >= 96
    for name, value in model.policy.named_parameters():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize(("algorithm", "action"), CASES)
def test_it_learns_and_plays_the_same_from_its_file(
    algorithm: str, action: str, dialog: Dialog, tmp_path: Path
) -> None:
    """Caption encoder, composer and memory learn; the image space, and so the index, rests."""
    how = method(algorithm, action, learning_rate=1e-2)
    model = model_for(dialog, how)
    tracker = tracker_of(model)
    assert tracker is not None
    before = {name: value.clone() for name, value in tracker.named_parameters()}
    model.learn(48)
    moved = {
        name.split(".")[0]
        for name, value in tracker.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert {"text", "composer", "memory", "recall"} <= moved
    assert "image" not in moved
    assert not tracker.training

    path = tmp_path / f"{algorithm}.zip"
    model.save(path)
    loaded = load_agent(str(path), dialog)
    assert isinstance(loaded, SB3Agent)
    assert loaded.mode.name == action
    assert type(loaded.model) is type(model)
    target, reference = evaluation_pairs(64, 30, seed=0)
    played = run_dialogs(dialog, loaded, target, reference)
    there = run_dialogs(dialog, SB3Agent(model, 64), target, reference)
    assert np.array_equal(played.shown, there.shown)


def test_the_critic_leaves_the_tracker_alone(dialog: Dialog) -> None:
    model = model_for(dialog, method("ppo", "query"))
    observation = model.policy.obs_to_tensor(model.env.reset())[0]
    model.policy.predict_values(observation).sum().backward()
    tracker = tracker_of(model)
    assert tracker is not None
    assert all(parameter.grad is None for parameter in tracker.parameters())
    assert model.policy.value_net.weight.grad is not None


def test_noise_is_a_share_of_the_query(dialog: Dialog) -> None:
    model = model_for(dialog, method("ppo", "query", noise=0.3))
    observation = model.policy.obs_to_tensor(model.env.reset())[0]
    torch.manual_seed(0)
    draws = torch.stack([model.policy(observation)[0] for _ in range(300)])
    lengths = (draws - draws.mean(0)).square().sum(-1).mean().sqrt().item()
    assert lengths == pytest.approx(0.3, rel=0.05)


def test_patience_lets_critics_learn_first(dialog: Dialog) -> None:
    how = replace(method("sac", "query", learning_rate=1e-2), patience=1000)
    model = model_for(dialog, how)
    actor = [value.clone() for value in model.actor.parameters()]
    critic = [value.clone() for value in model.critic.qf0.parameters()]
    model.learn(30)
    assert all(torch.equal(a, b) for a, b in zip(actor, model.actor.parameters(), strict=True))
    changed = zip(critic, model.critic.qf0.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)


def test_patience_ends_and_is_saved() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    adam = PatientAdam([weight], lr=0.1, patience=2)
    weight.grad = torch.ones(1)
    adam.step()
    other = PatientAdam([weight], lr=0.1, patience=2)
    other.load_state_dict(adam.state_dict())
    other.step()
    assert weight.item() == 1
    other.step()
    assert weight.item() == pytest.approx(0.9)


@pytest.mark.parametrize(("rate", "critics"), [(1e-5, 1e-3), (1e-2, 1e-2)])
def test_sacs_critics_learn_fast_and_its_actor_as_told(
    rate: float, critics: float, dialog: Dialog
) -> None:
    """Adam's first step moves each weight by the learning rate."""
    model = model_for(dialog, method("sac", "query", learning_rate=rate))
    parts = {"actor": (model.actor, rate), "critic": (model.critic.qf0, critics)}
    before = {name: [value.clone() for value in part.parameters()]
              for name, (part, _) in parts.items()}  # fmt: skip
    model.learn(3)  # a turn of three dialogs, a step of gradients
    for name, (part, expected) in parts.items():
        steps = [(new - old).abs().max().item()
                 for old, new in zip(before[name], part.parameters(), strict=True)]  # fmt: skip
        assert max(steps) == pytest.approx(expected, rel=0.02), name
    assert {group["lr"] for group in model.actor.optimizer.param_groups} == {critics}


def test_principal_space_keeps_likeness(dialog: Dialog) -> None:
    features = dialog.gallery.features
    tracker, _ = tracker_for(dialog)
    principal_space(tracker, features)
    embedded = tracker.image(torch.from_numpy(features)).detach().numpy()  # type: ignore[operator]
    assert np.allclose(embedded.mean(0), 0, atol=1e-5)
    centred = features - features.mean(0)
    values = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1]
    assert np.allclose((embedded**2).sum(0), values[:12], rtol=1e-3)
    wide, _ = tracker_for(dialog, dim=500)
    with pytest.raises(ValueError, match="at most 256 dimensions"):
        principal_space(wide, features)


def test_longer_dialogs_than_it_reads(dialog: Dialog) -> None:
    model = model_for(dialog, method("ppo", "query"))
    target, reference = evaluation_pairs(64, 4, seed=0)
    with pytest.raises(ValueError, match="dialogs of up to 3 turns, got turn 4"):
        run_dialogs(dialog.with_(max_turns=5), SB3Agent(model, 64), target, reference)


def test_what_an_algorithm_cannot_do(dialog: Dialog) -> None:
    with pytest.raises(ValueError, match="Did you mean 'ppo'"):
        Method("pppo")
    with pytest.raises(ValueError, match="sac takes the action query, got candidate"):
        Method("sac", "candidate")
    with pytest.raises(ValueError, match="maskable-ppo takes the action candidate"):
        Method("maskable-ppo", "query")
    with pytest.raises(ValueError, match="noise above 0"):
        Method(noise=0.0)
    tracker, _ = tracker_for(dialog)
    with pytest.raises(ValueError, match="shows one image, and these dialogs show 2"):
        make_dialogs(dialog.with_(slate=2), tracker, method("ppo", "candidate"))


def test_a_query_fills_a_slate(dialog: Dialog) -> None:
    tracker, _ = tracker_for(dialog)
    slates = dialog.with_(slate=2)
    model = model_for(slates, method("ppo", "query"))
    model.learn(24)
    target, reference = evaluation_pairs(64, 12, seed=3)
    untrained = model_for(slates, method("ppo", "query"))
    played = run_dialogs(slates, SB3Agent(untrained, 64), target, reference)
    expected = run_dialogs(slates, tracker, target, reference)
    assert np.array_equal(played.slates, expected.slates)


def test_replay_comes_back(dialog: Dialog, tmp_path: Path) -> None:
    model, other = (model_for(dialog, method("sac", "query")) for _ in range(2))
    model.learn(30)
    save_replay(model, tmp_path / "replay.npz")
    load_replay(other, tmp_path / "replay.npz")
    one, two = model.replay_buffer, other.replay_buffer
    assert (one.pos, one.full) == (two.pos, two.full) == (10, False)
    assert np.array_equal(one.rewards, two.rewards)
    assert np.abs(two.rewards[:10]).sum() > 0
    for key in one.observations:
        assert np.array_equal(one.next_observations[key], two.next_observations[key])
    narrow = model_for(dialog, method("sac", "query"), dim=8)
    with pytest.raises(ValueError, match="resume with the flags of the first run"):
        load_replay(narrow, tmp_path / "replay.npz")
