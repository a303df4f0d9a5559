"""The environment on a device: dialog for dialog what the rules say, and no waiting."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from envs.actions import ActionMode
from envs.dialog import Dialog
from envs.factory import make_dialog
from envs.on_device import DeviceDialogVectorEnv, spelling
from envs.rewards import REWARDS
from retrieval.text import Vocabulary
from tests.pretend_device import PRETEND, PretendedDevice
from user_simulator.captioner import NeuralUser, RelativeCaptioner

B = 6


@pytest.fixture(scope="module")
def dialog(tiny_root: Path, tiny_captioner: Path) -> Dialog:
    return make_dialog(root=tiny_root, user="neural", captioner=tiny_captioner, max_turns=3)


def some_pairs(dialog: Dialog, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).permutation(len(dialog.gallery))[: 2 * B]
    return drawn.reshape(2, B)  # targets and references


def some_actions(dialog: Dialog, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((B, dialog.gallery.features.shape[1]))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("reward", REWARDS)
def test_it_plays_by_the_rules(dialog: Dialog, reward: str) -> None:
    target, reference = some_pairs(dialog)
    env = DeviceDialogVectorEnv(dialog, B, reward=reward, privileged=True)
    state = dialog.listen(dialog.start(target, reference), np.random.default_rng(0))
    given = {"target": torch.from_numpy(target), "reference": torch.from_numpy(reference)}
    seen, infos = env.reset(options=given)
    for name, value in ActionMode().observe(dialog, state).items():
        np.testing.assert_array_equal(seen[name], value)
    np.testing.assert_array_equal(infos["rank"], state.rank)
    alive, was_found = np.ones(B, dtype=bool), 0
    over = ~alive  # ended in the step before
    for turn in range(dialog.max_turns):
        action = some_actions(dialog, turn)
        action[turn] = dialog.gallery.features[target[turn]]  # this dialog finds it, at the latest
        after = dialog.show(state, action)
        ends = dialog.terminated(after)
        seen, worth, terminated, truncated, infos = env.step(torch.from_numpy(action))
        np.testing.assert_allclose(worth[alive], REWARDS[reward](state, after)[alive], rtol=1e-5)
        assert not worth[over].any() and not (terminated | truncated)[over].any()
        np.testing.assert_array_equal(terminated[alive], ends[alive])
        last = turn == dialog.max_turns - 1
        np.testing.assert_array_equal(truncated[alive], (~ends & last)[alive])
        state = dialog.listen(after, np.random.default_rng(0))
        for name, value in ActionMode().observe(dialog, state).items():
            value[ends if name == "caption" else []] = 0  # nothing more is said
            np.testing.assert_array_equal(seen[name][alive], value[alive])
        for name in ("rank", "best_rank", "percentile"):
            np.testing.assert_allclose(infos[name][alive], getattr(state, name)[alive], rtol=1e-5)
        was_found += int((ends & alive).sum())
        over = alive & ends
        alive = alive & ~ends
        if turn == 0:
            assert 1 <= was_found < B
    assert was_found >= dialog.max_turns


def test_a_dialog_that_ended_starts_anew_one_step_later(dialog: Dialog) -> None:
    env = DeviceDialogVectorEnv(dialog, B, privileged=True)
    env.reset(seed=3)
    over, begun = np.zeros(B, dtype=bool), 0
    for step in range(12):
        action = some_actions(dialog, step)
        seen, reward, terminated, truncated, infos = env.step(torch.from_numpy(action))
        turn, rank = seen["turn"][:, 0], infos["rank"]
        assert ((turn == 0).numpy() == over).all()
        for row in np.flatnonzero(over):
            target, image = int(infos["target"][row]), int(infos["image"][row])
            assert target != image and not reward[row]
            shown = dialog.start(np.array([target]), np.array([image]))
            assert rank[row] == shown.rank[0] == infos["best_rank"][row]
            said = dialog.listen(shown, np.random.default_rng(0))
            np.testing.assert_array_equal(seen["caption"][row], dialog.observe(said)["caption"][0])
        over = (terminated | truncated).numpy()
        assert (over[(turn == dialog.max_turns).numpy()]).all()
        begun += int((turn == 0).sum())
    assert begun >= 2 * B  # 12 steps are three dialogs of 3 turns, or more


def test_seeds_decide_all_chances(dialog: Dialog, tiny_root: Path, tiny_captioner: Path) -> None:
    noisy = make_dialog(root=tiny_root, user="neural", captioner=tiny_captioner, noise=0.5,
                        temperature=1.5, max_turns=3)  # fmt: skip
    heard = []
    for seed in (1, 1, 2):
        env = DeviceDialogVectorEnv(noisy, B)
        env.reset(seed=seed)
        heard.append(env.step(torch.from_numpy(some_actions(dialog, 0)))[0]["caption"])
    assert torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[2])


def test_slips_come_as_often_as_they_should(dialog: Dialog) -> None:
    count = 3000
    one, other = (np.full(count, image) for image in some_pairs(dialog)[:, 0])
    given = {"target": torch.from_numpy(one), "reference": torch.from_numpy(other)}
    noisy = dialog.with_(user=_slipping(dialog, 0.25))
    clear = DeviceDialogVectorEnv(dialog, count).reset(options=given)[0]["caption"][0]
    heard = DeviceDialogVectorEnv(noisy, count).reset(options=given)[0]["caption"]
    same = np.mean(
        [
            torch.equal(it, clear)
            for it in DeviceDialogVectorEnv(dialog.with_(user=_slipping(dialog, 1.0)), count).reset(
                options=given
            )[0]["caption"]
        ]
    )  # slips that happen to say the same
    wrong = (heard != clear).any(1).float().mean().item()
    assert wrong == pytest.approx(0.25 * (1 - same), abs=0.03)


def _slipping(dialog: Dialog, probability: float) -> Any:
    from user_simulator.noisy import NoisyUser

    return NoisyUser(dialog.user, probability, len(dialog.gallery))


def test_new_pairs_are_two_different_images_all_alike(dialog: Dialog) -> None:
    env = DeviceDialogVectorEnv(dialog, 20_000)
    target, reference = (each.numpy() for each in env._fresh())
    size = len(dialog.gallery)
    assert (target != reference).all()
    for drawn in (target, reference, (reference - target) % size - 1):
        counts = np.bincount(drawn, minlength=size)
        expected = 20_000 / size
        assert counts[: size - 1].min() > expected / 2 and counts.max() < 2 * expected


def test_a_turn_waits_for_nothing(dialog: Dialog, tiny_captioner: Path) -> None:
    """On a device whose every copy to the host and every look at a number is counted."""
    generator = torch.Generator()  # the pretended device's numbers are the CPU's
    played = []
    for device in (torch.device("cpu"), PRETEND):
        with PretendedDevice() as pretended:
            speaker = NeuralUser(
                RelativeCaptioner.load(tiny_captioner), dialog.gallery, device=device
            )
            env = DeviceDialogVectorEnv(
                dialog.with_(user=_slipping(dialog.with_(user=speaker), 0.3)), B,
                generator=generator,
            )  # fmt: skip
            env.reset(seed=5)
            actions = [torch.from_numpy(some_actions(dialog, it)).to(device) for it in range(7)]
            pretended.waits.clear()
            steps = [env.step(action) for action in actions]
            assert not pretended.waits
            played.append(
                [
                    [it.cpu().numpy() for it in (*seen.values(), *rest, *infos.values())]
                    for seen, *rest, infos in steps
                ]
            )
            assert bool(pretended.waits) == (device == PRETEND)  # which it does notice
    for plain, there in zip(*played, strict=True):
        for one, other in zip(plain, there, strict=True):
            np.testing.assert_array_equal(one, other)


def test_embeddings_can_be_anothers_space(dialog: Dialog) -> None:
    turned = torch.from_numpy(dialog.gallery.features).roll(1, dims=0)
    env = DeviceDialogVectorEnv(dialog, B, embeddings=turned)
    env.reset(seed=0)
    wanted = torch.arange(B)
    infos = env.step(torch.from_numpy(dialog.gallery.features[:B]))[-1]
    assert torch.equal(infos["image"], wanted + 1)
    env.embeddings = torch.eye(len(dialog.gallery))
    assert env.single_action_space.shape == (len(dialog.gallery),)
    assert torch.equal(env.step(torch.eye(len(dialog.gallery))[:B])[-1]["image"], wanted)


def test_words_are_spelled_anew() -> None:
    spoken = Vocabulary(["red", "end", "ball", "blue"])
    read = Vocabulary(["blue", "pad", "ball", "end"])
    ids = spelling(spoken, read)
    for caption in ("red ball", "end ball blue", ""):
        said = torch.from_numpy(spoken.encode([caption], 5))
        np.testing.assert_array_equal(ids[said], read.encode([caption], 5))
    assert ids[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"slate": 2}, {}, "slates, never repeating"),
        ({"never_repeat": True}, {}, "slates, never repeating"),
        ({"patience": 1}, {}, "slates, never repeating"),
        ({}, {"reward": "applause"}, "applause"),
        ({}, {"num_envs": 0}, "at least 1 dialog, got num_envs=0"),
        ({}, {"embeddings": torch.eye(3)}, "expected embeddings of 64 images, got 3"),
    ],
)
def test_what_it_cannot_play_is_refused(
    dialog: Dialog, changes: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        DeviceDialogVectorEnv(dialog.with_(**changes), **{"num_envs": 2, **options})


def test_only_the_neural_user_speaks_there(dialog: Dialog, tiny_dialog: Dialog) -> None:
    with pytest.raises(ValueError, match="only the neural user .* got AttributeUser"):
        DeviceDialogVectorEnv(tiny_dialog)
    env = DeviceDialogVectorEnv(dialog)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="pass one seed"):
        env.reset(seed=[1])
