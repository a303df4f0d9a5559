"""Stable-Baselines3: the batch environment as its VecEnv, its models as agents."""

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import envs  # noqa: F401  (registers)
from agents.evaluation import PairDraws, evaluation_pairs, run_dialogs
from agents.loading import load_agent
from agents.sb3 import DialogVecEnv, SB3Agent, load_sb3
from envs.actions import ActionMode
from envs.dialog import Dialog
from envs.factory import make_dialog, make_env, make_vector_env

ENVS, STEPS = 3, 12


@pytest.fixture(scope="module")
def scenes(tiny_root: Path) -> Dialog:
    """Dialogs of 4 turns over the 64 train scenes, one-hot."""
    return make_dialog(root=tiny_root, encoder="scene", max_turns=4)


@pytest.fixture(scope="module")
def held_out(tiny_root: Path) -> Dialog:
    """The same on the 32 test scenes."""
    return make_dialog(root=tiny_root, encoder="scene", split="test", max_turns=4)


def vec_env(dialog: Dialog, **options: Any) -> DialogVecEnv:
    return DialogVecEnv(make_vector_env(ENVS, dialog, **options))


@pytest.mark.parametrize("action", ["query", "image", "candidate"])
def test_step_for_step_what_dummy_vec_env_does(action: str, scenes: Dialog) -> None:
    """The contract's judge is Stable-Baselines3's own wrapper around single environments."""
    options: dict[str, Any] = {"action": action, "candidates": 5}
    ours = vec_env(scenes, **options)
    theirs = DummyVecEnv([lambda: make_env(scenes, **options) for _ in range(ENVS)])
    assert isinstance(ours, VecEnv)
    assert ours.num_envs == theirs.num_envs
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space

    def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(a[key], b[key], err_msg=key)
            assert ours.observation_space[key].contains(a[key][0])

    assert ours.seed(11) == theirs.seed(11)
    assert_same(ours.reset(), theirs.reset())
    assert [set(info) for info in ours.reset_infos] == [set(info) for info in theirs.reset_infos]
    ours.action_space.seed(2)
    ends = {"truncated": 0, "found": 0}
    for step in range(STEPS):
        actions = np.array([ours.action_space.sample() for _ in range(ENVS)])
        if action == "image" and step % 5 == 1:
            actions[0] = ours.env.state.target[0]  # one dialog finds its target
        seen, rewards, dones, infos = ours.step(actions)
        seen_there, rewards_there, dones_there, infos_there = theirs.step(actions)
        assert_same(seen, seen_there)
        np.testing.assert_allclose(rewards, rewards_there)
        assert rewards.dtype == rewards_there.dtype
        np.testing.assert_array_equal(dones, dones_there)
        for done, info, info_there in zip(dones, infos, infos_there, strict=True):
            limit = info_there["TimeLimit.truncated"]
            assert info.get("TimeLimit.truncated", False) == limit
            assert ("terminal_observation" in info) == done
            if not done:
                for key in ("rank", "image", "caption"):
                    assert info[key] == info_there[key]
                continue
            assert_same(
                {key: value[None] for key, value in info["terminal_observation"].items()},
                {key: value[None] for key, value in info_there["terminal_observation"].items()},
            )
            for key in ("rank", "percentile", "best_rank", "image", "caption"):
                assert info[key] == info_there[key]  # of the dialog that ended
            ends["truncated" if limit else "found"] += 1
    assert ends["truncated"] > 3
    if action == "image":
        assert ends["found"] >= 2


def test_attributes_and_methods(scenes: Dialog) -> None:
    env = vec_env(scenes)
    assert env.get_attr("dialog") == [scenes] * ENVS
    assert env.get_attr("num_envs", indices=1) == [ENVS]
    env.set_attr("privileged", True)
    assert env.get_attr("privileged", [0, 2]) == [True, True]
    env.reset()
    assert all("target" in info for info in env.reset_infos)
    assert env.env_is_wrapped(object) == [False] * ENVS
    assert len(env.env_method("reset", indices=[0, 1])) == 2
    env.close()


def test_seeds_are_used_once(scenes: Dialog) -> None:
    env = vec_env(scenes)
    env.seed(4)
    first, second = env.reset(), env.reset()
    env.seed(4)
    again = env.reset()
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["reference"], second["reference"])


def test_made_by_gymnasium(tiny_root: Path) -> None:
    """The example of the docstring."""
    made = gymnasium.make_vec("dialog/CSS-v0", num_envs=2, root=tiny_root)
    env = DialogVecEnv(made)  # type: ignore[arg-type]
    assert env.num_envs == 2
    assert env.reset()["caption"].shape == (2, 16)


# its models as agents


def learned(algorithm: type, env: VecEnv, **options: Any) -> Any:
    torch.manual_seed(0)
    options = copy.deepcopy(options)  # Stable-Baselines3 writes into `policy_kwargs`
    model = algorithm("MultiInputPolicy", env, seed=0, device="cpu", **options)
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(48)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True)
    )
    return model


SMALL = {"policy_kwargs": {"net_arch": [16]}}
ON_POLICY = {"n_steps": 8, **SMALL}
CASES = [
    (PPO, "query", {"batch_size": 12, "n_epochs": 1, **ON_POLICY}),
    (PPO, "candidate", {"batch_size": 12, "n_epochs": 1, **ON_POLICY}),
    (A2C, "query", ON_POLICY),
    (DQN, "image", {"learning_starts": 10, "buffer_size": 100, "batch_size": 8, **SMALL}),
    (SAC, "query", {"learning_starts": 10, "buffer_size": 100, "batch_size": 8, **SMALL}),
]


@pytest.mark.parametrize(("algorithm", "action", "options"), CASES)
def test_a_saved_model_plays(
    algorithm: type, action: str, options: dict[str, Any], scenes: Dialog, tmp_path: Path
) -> None:
    """It learns on the adapter, is saved, and plays the same from its zip as from memory."""
    model = learned(algorithm, vec_env(scenes, action=action, candidates=5), **options)
    path = tmp_path / "model.zip"
    model.save(path)
    loaded = load_sb3(path, len(scenes.gallery))
    assert isinstance(loaded, SB3Agent)
    assert (loaded.mode.name, loaded.mode.candidates) == (
        action,
        5 if action == "candidate" else 16,
    )

    target, reference = evaluation_pairs(64, 10, seed=0)
    played = run_dialogs(scenes, loaded, target, reference)
    assert np.array_equal(
        played.shown, run_dialogs(scenes, SB3Agent(model, 64), target, reference).shown
    )
    state = scenes.start(target, reference)
    for turn in range(2):  # what it shows is what its own `predict` asks for
        state = scenes.with_(index=scenes.index).start(target, played.shown[:, turn])
        seen = loaded.mode.observe(scenes, state)
        ids = scenes.vocabulary.encode([said[turn] for said in played.captions], 16)
        seen |= {"caption": ids, "turn": np.full((10, 1), turn)}
        asked, _ = model.predict(seen, deterministic=True)
        if action == "image":
            expected = asked
        elif action == "candidate":
            near = scenes.candidates(state, 5)
            expected = np.array([row[at] for row, at in zip(near, asked, strict=True)])
        else:
            expected = (asked @ scenes.gallery.features.T).argmax(axis=1)
        assert np.array_equal(played.shown[:, turn + 1], expected)

    by_name = load_agent(str(path), scenes)
    assert isinstance(by_name, SB3Agent)


def untrained(env: VecEnv) -> PPO:
    return PPO("MultiInputPolicy", env, n_steps=8, batch_size=24, device="cpu")


def test_candidates_and_queries_serve_another_gallery_images_do_not(
    scenes: Dialog, held_out: Dialog
) -> None:
    target, reference = evaluation_pairs(32, 6, seed=0)
    for action in ("query", "candidate"):
        model = untrained(vec_env(scenes, action=action, candidates=5))
        played = run_dialogs(held_out, SB3Agent(model, 32), target, reference)
        assert played.ranks.shape == (6, 5)
    model = untrained(vec_env(scenes, action="image"))
    assert SB3Agent(model, 64).mode.name == "image"
    with pytest.raises(ValueError, match="chooses among 64 images, this gallery has 32"):
        SB3Agent(model, 32)


def test_as_many_candidates_as_images(scenes: Dialog) -> None:
    """A chooser among candidates is told by what it sees, not by the number of its actions."""
    model = untrained(vec_env(scenes, action="candidate", candidates=32))
    assert SB3Agent(model, 32).mode.name == "candidate"


def test_files_that_are_no_models(tmp_path: Path, scenes: Dialog) -> None:
    path = tmp_path / "model.zip"
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        load_agent(str(path), scenes)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match="is not a model that Stable-Baselines3 saved"):
        load_sb3(path, 64)


@pytest.mark.parametrize("action", ["query", "queries", "image", "candidate"])
def test_a_model_of_slates_plays_as_in_its_own_environment(action: str, scenes: Dialog) -> None:
    """The agent reads the meaning of actions off the spaces; the environment was told it."""
    slates = scenes.with_(slate=3)
    options: dict[str, Any] = {"action": action, "candidates": 5, "observe_slate": True}
    model = PPO("MultiInputPolicy", vec_env(slates, **options), n_steps=4, batch_size=12, seed=1)
    agent = SB3Agent(model, 64)
    assert (agent.mode.name, agent.mode.observe_slate) == (action, True)
    target, reference = evaluation_pairs(64, 1, seed=4)
    played = run_dialogs(slates, agent, target, reference, seed=4)
    state = slates.start(target, reference)
    for turn in range(slates.max_turns):
        draws = PairDraws(4, turn, np.array([0]), 1)
        state = slates.listen(state, draws)
        chosen, _ = model.predict(agent.mode.observe(slates, state), deterministic=True)
        state = ActionMode(action, 5).apply(slates, state, chosen)
        assert state.slate.tolist() == played.slates[:, turn + 1].tolist()
