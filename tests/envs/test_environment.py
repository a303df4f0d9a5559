"""The dialog as a Gymnasium environment, in its single and its batch form."""

import copy
import json
import math
import pickle
import subprocess
import sys
import warnings
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.actions import ACTIONS
from envs.dialog import Dialog
from envs.factory import make_dialog, make_env, make_vector_env
from envs.rewards import REWARDS
from envs.single import RENDER_MODES
from envs.wrappers import TextCaption
from retrieval.gallery import Gallery
from retrieval.text import Vocabulary

FORMS = ("single", "sync", "async", "native")
SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


class Mute:
    """Says the same of every pair, so that nothing it says can give the target away."""

    def describe(self, reference, target, rng):
        rng.random((len(target), 3))
        return ["has a red ball"] * len(target)


def make(dialog: Dialog, **options):
    return gym.make("dialog/CSS-v0", dialog=dialog, **options).unwrapped


def assert_equal(one, other) -> None:
    """Equal values, arrays and dicts of these, types and dtypes included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert sorted(one) == sorted(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        if one.dtype == object:
            assert len(one) == len(other)
            for left, right in zip(one, other, strict=True):
                assert_equal(left, right)
        else:
            np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def play(env, actions):
    """Everything that some steps return; a single environment starts anew where a dialog ends."""
    told = []
    for action in actions:
        told.append(env.step(action))
        if isinstance(env, gym.Env) and (told[-1][2] or told[-1][3]):
            env.reset()
    return told


def some_actions(env, count: int, seed: int = 0) -> list:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


# ---- the contract, as two libraries check it


@pytest.mark.parametrize("action", ACTIONS)
def test_gymnasiums_checker_has_nothing_to_say(tiny_dialog, action):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(tiny_dialog, action=action, render_mode="rgb_array"))


@pytest.mark.parametrize("action", ACTIONS)
def test_stable_baselines_checker_has_nothing_to_say(tiny_dialog, action):
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make(tiny_dialog, action=action, reward="log_rank_gain"))


@pytest.mark.parametrize("name", envs.ENVIRONMENTS)
def test_every_registered_id_plays(name, tiny_root, tiny_captioner):
    encoder = {"encoder": "scene"} if "CSS2D" in name else {}
    env = gym.make(f"envs:{name}", root=tiny_root, **encoder)
    wanted = {"look": "3d", "max_turns": 5, **envs.ENVIRONMENTS[name]}
    dialog = env.unwrapped.dialog
    assert dialog.gallery.kind == f"css-{wanted['look']}"
    assert dialog.max_turns == wanted["max_turns"]
    user = type(dialog.user).__name__
    assert user == {"dialog/CSS-Neural-v0": "NeuralUser", "dialog/CSS-Noisy-v0": "NoisyUser"}.get(
        name, "AttributeUser"
    )
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for turn in range(1, wanted["max_turns"] + 1):
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert observation["turn"].tolist() == [turn]
        if terminated or truncated:
            break
    assert (terminated or truncated) and (turn == wanted["max_turns"] or info["rank"] == 0)
    vector = gym.make_vec(f"envs:{name}", num_envs=2, root=tiny_root, **encoder)
    assert type(vector.unwrapped).__name__ == "DialogRetrievalVectorEnv"
    assert vector.unwrapped.dialog is dialog  # equal arguments share one object


def test_every_id_can_be_told_apart():
    assert all(name in gym.registry for name in envs.ENVIRONMENTS)
    described = {json.dumps(arguments, sort_keys=True) for arguments in envs.ENVIRONMENTS.values()}
    assert len(described) == len(envs.ENVIRONMENTS)


def test_the_root_may_be_a_string(tiny_root):
    env = gym.make("dialog/CSS-v0", root=str(tiny_root))
    assert len(env.unwrapped.dialog.gallery) == 64


# ---- what comes back


@pytest.mark.parametrize("action", ACTIONS)
def test_spaces_hold_what_they_say(tiny_dialog, action):
    env = make(tiny_dialog, action=action, candidates=4)
    features = tiny_dialog.gallery.features.shape[1]
    space = {
        "query": gym.spaces.Box(-1, 1, (features,), np.float32),
        "image": gym.spaces.Discrete(64),
        "candidate": gym.spaces.Discrete(4),
    }[action]
    assert env.action_space == space
    shapes = {"reference": (features,), "caption": (16,), "turn": (1,)}
    if action == "candidate":
        shapes["candidates"] = (4 * features,)
    assert {key: part.shape for key, part in env.observation_space.items()} == shapes
    observation, _ = env.reset(seed=1)
    assert {key: part.shape for key, part in observation.items()} == shapes


def test_observations_show_the_reference_the_words_and_the_turn(tiny_dialog):
    env = make(tiny_dialog, action="image")
    observation, info = env.reset(seed=1, options={"target": 9})
    for turn, image in enumerate((3, 60, 4, 3)):
        assert observation["turn"].tolist() == [turn]
        assert observation["turn"].dtype == np.int64
        np.testing.assert_array_equal(
            observation["reference"], tiny_dialog.gallery.features[info["image"]]
        )
        said = tiny_dialog.vocabulary.decode(observation["caption"].tolist())
        assert said and said == info["caption"]
        observation, *_, info = env.step(image)
        assert info["image"] == image


def test_candidates_are_what_an_action_chooses_among(tiny_dialog):
    env = make(tiny_dialog, action="candidate", candidates=5)
    features = tiny_dialog.gallery.features
    observation, info = env.reset(seed=3)
    for choice in (4, 0, 2, 3):
        offered = observation["candidates"].reshape(5, -1)
        shown = features[info["image"]]
        scores = [float(row @ shown) for row in features]
        near = sorted(set(range(64)) - {int(info["image"])}, key=lambda i: -scores[i])[:5]
        np.testing.assert_array_equal(offered, features[near])
        observation, _, terminated, _, info = env.step(choice)
        assert info["image"] == near[choice]
        if terminated:
            break


def test_a_query_shows_its_best_match(tiny_dialog):
    env = make(tiny_dialog)
    env.reset(seed=0, options={"target": 1, "reference": 2})
    for image in (7, 33, 1):
        *_, info = env.step(tiny_dialog.gallery.features[image])
        assert info["image"] == image
    assert info["rank"] == 0


def test_observations_are_fresh_arrays(tiny_dialog):
    for action in ACTIONS:
        env = make(tiny_dialog, action=action)
        vector = make_vector_env(3, tiny_dialog, action=action)
        table = tiny_dialog.gallery.features.copy()
        observation, _ = env.reset(seed=5)
        first = copy.deepcopy(observation)
        batch, infos = vector.reset(seed=5)
        batch_first = copy.deepcopy(batch)
        for part in (*observation.values(), *batch.values()):
            part[...] = 1
        infos["image"][:] = 0
        infos["rank"][:] = 0
        np.testing.assert_array_equal(tiny_dialog.gallery.features, table)
        assert_equal(env.reset(seed=5)[0], first)
        assert_equal(vector.mode.observe(vector.dialog, vector.state), batch_first)


@pytest.mark.parametrize("privileged", [False, True])
def test_infos_are_constant_small_and_finite(tiny_dialog, privileged):
    env = make(tiny_dialog, privileged=privileged)
    keys = ["best_rank", "caption", "image", "percentile", "rank"] + ["target"] * privileged
    ranks: list[float] = []
    _, info = env.reset(seed=2)
    for action in [*some_actions(env, 5), None]:
        assert sorted(info) == keys
        ranks.append(info["rank"])
        assert 0 <= info["rank"] <= 63
        assert info["percentile"] == 1 - info["rank"] / 63
        assert info["best_rank"] == min(ranks)
        assert all(np.isfinite(info[key]) for key in keys if key != "caption")
        assert len(pickle.dumps(info)) < 1000
        if privileged:
            assert info["target"] == env.state.target[0]
        if action is not None:
            *_, info = env.step(action)
    assert len(ranks) == 6


def test_the_target_is_told_to_the_privileged_alone(tiny_dialog):
    for form in (make(tiny_dialog), make_vector_env(2, tiny_dialog)):
        _, info = form.reset(seed=0)
        assert not {"target", "_target"} & set(info)
    vector = make_vector_env(2, tiny_dialog, privileged=True)
    _, info = vector.reset(seed=0)
    np.testing.assert_array_equal(info["target"], vector.state.target)


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_observed_leaks_the_target(tiny_dialog, action):
    """Two dialogs that differ in the target alone look alike if the words do."""
    dialog = tiny_dialog.with_(user=Mute())
    one, other = make(dialog, action=action), make(dialog, action=action)
    chosen = some_actions(one, 4)
    seen = [
        (env.reset(seed=1, options={"target": target, "reference": 5}), play(env, chosen))
        for env, target in ((one, 50), (other, 51))
    ]
    assert one.state.target[0] != other.state.target[0]
    shown = {int(step[4]["image"]) for step in seen[0][1]}
    assert not shown & {50, 51}  # or the dialogs would rightly differ
    assert_equal(seen[0][0][0], seen[1][0][0])
    for left, right in zip(seen[0][1], seen[1][1], strict=True):
        assert_equal(left[0], right[0])
    assert any(a[4]["rank"] != b[4]["rank"] for a, b in zip(*(s[1] for s in seen), strict=True))


# ---- how dialogs begin and end


def test_dialogs_start_with_two_different_random_images(tiny_dialog):
    env = make(tiny_dialog)
    pairs = []
    env.reset(seed=0)
    for _ in range(300):
        env.reset()
        pairs.append((int(env.state.target[0]), int(env.state.reference[0])))
    assert all(target != reference for target, reference in pairs)
    for column in zip(*pairs, strict=True):
        assert len(set(column)) > 55  # of 64


def test_options_fix_either_image(tiny_dialog):
    env = make(tiny_dialog, privileged=True)
    _, info = env.reset(seed=4, options={"target": 3, "reference": 7})
    assert (info["target"], info["image"]) == (3, 7)
    targets = {int(env.reset(seed=s, options={"reference": 7})[1]["target"]) for s in range(20)}
    assert len(targets) > 10
    for label, image in (("target", 64), ("reference", -1)):
        with pytest.raises(ValueError, match=f"expected a {label} between 0 and 63, got {image}"):
            env.reset(options={label: image})


@pytest.mark.parametrize("turn", [1, 2, 5])
def test_terminates_exactly_when_the_target_is_on_show(tiny_dialog, turn):
    env = make(tiny_dialog, action="image")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    for at in range(1, turn + 1):
        image = 20 if at == turn else 30 + at
        _, reward, terminated, truncated, info = env.step(image)
        assert terminated == (at == turn)
        assert not truncated  # found at the last turn is an end, not a cut
    assert (reward, info["rank"], info["caption"]) == (1.0, 0, "")
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) first"):
        env.step(3)


def test_truncated_after_the_last_turn(tiny_dialog):
    env = make(tiny_dialog.with_(max_turns=3), action="image")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    ends = [env.step(image)[2:4] for image in (2, 3, 4)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert env.state.captions[0]  # the dialog was cut, so the user still speaks
    with pytest.raises(gym.error.ResetNeeded):
        env.step(5)
    env.reset()
    env.step(5)


def test_one_turn_dialogs_terminate(tiny_dialog):
    dialog = tiny_dialog.with_(max_turns=1)
    env = make(dialog, action="image")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    _, _, terminated, truncated, info = env.step(2)
    assert (terminated, truncated) == (True, False)
    assert info["rank"] > 0  # it was not found
    vector = make_vector_env(2, dialog, action="image")
    vector.reset(seed=0)
    _, _, terminated, truncated, _ = vector.step(np.array([2, 3]))
    assert terminated.all() and not truncated.any()


def test_a_step_needs_a_reset(tiny_dialog):
    for form in (make(tiny_dialog), make_vector_env(2, tiny_dialog)):
        with pytest.raises(gym.error.ResetNeeded):
            form.step(form.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded, match="no dialog to render"):
        make(tiny_dialog, render_mode="ansi").render()


def test_a_dialog_may_start_at_its_target_and_goes_on(tiny_dialog):
    env = make(tiny_dialog, action="image")
    _, info = env.reset(seed=0, options={"target": 20, "reference": 20})
    assert info["rank"] == 0 and info["caption"]
    assert not env.step(2)[2]


# ---- rewards


def slow_rank(dialog: Dialog, image: int, target: int) -> float:
    """By a loop over the gallery, from the similarities to an image."""
    shown = dialog.gallery.features[image]
    scores = [float(score) for score in dialog.gallery.features @ shown]
    above = sum(score > scores[target] for score in scores)
    return above + (sum(score == scores[target] for score in scores) - 1) / 2


BY_HAND = {
    "rank_percentile": lambda before, after, found: 1 - after / 63,
    "rank_gain": lambda before, after, found: before / 63 - after / 63,
    "log_rank_gain": lambda before, after, found: math.log2((1 + before) / (1 + after)),
    "reciprocal_rank": lambda before, after, found: 1 / (1 + after),
    "hit": lambda before, after, found: float(found),
    "early_hit": lambda before, after, found: found / 3,  # found at the third turn
}


@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_are_their_formulas(tiny_dialog, reward):
    images = {True: (13, 40, 20), False: (13, 40, 50)}
    for finds in (True, False):
        env = make(tiny_dialog, action="image", reward=reward)
        env.reset(seed=0, options={"target": 20, "reference": 1})
        before = slow_rank(tiny_dialog, 1, 20)
        for image in images[finds]:
            after = slow_rank(tiny_dialog, image, 20)
            given = env.step(image)[1]
            assert type(given) is float
            assert given == pytest.approx(BY_HAND[reward](before, after, image == 20), abs=1e-9)
            before = after


# ---- one seed, one dialog, in every form


def transcripts(form: str, dialog: Dialog, action: str, steps: int) -> list[list]:
    """For each of three dialogs seeded 11, 12, 13: what every step gave it, in Gymnasium's order.

    Each row is a list of (observation, reward, terminated, truncated, info, last observation,
    last info), the latter two None unless a dialog ended.
    """
    options = {"dialog": dialog, "action": action, "privileged": True}
    if form == "single":
        rows = []
        for row in range(3):
            env = make(**options)
            observation, info = env.reset(seed=11 + row)
            rows.append([(observation, 0.0, False, False, info, None, None)])
            for chosen in batch_actions(dialog, action, steps):
                observation, reward, terminated, truncated, info = env.step(chosen[row])
                last = None, None
                if terminated or truncated:
                    last = observation, info
                    observation, info = env.reset()
                rows[row].append((observation, reward, terminated, truncated, info, *last))
        return rows
    vector = gym.make_vec(
        "dialog/CSS-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point" if form == "native" else form,
        vector_kwargs=None if form == "native" else SAME_STEP,
        **options,
    )
    observation, infos = vector.reset(seed=11)
    rows = [[(*split(observation, infos, row)[:1], 0.0, False, False, pick(infos, row), None, None)]
            for row in range(3)]  # fmt: skip
    for chosen in batch_actions(dialog, action, steps):
        observation, reward, terminated, truncated, infos = vector.step(chosen)
        for row in range(3):
            now, last = split(observation, infos, row)
            rows[row].append(
                (now, reward[row], terminated[row], truncated[row], pick(infos, row), *last)
            )
    vector.close()
    return rows


def batch_actions(dialog: Dialog, action: str, steps: int) -> list[np.ndarray]:
    vector = make_vector_env(3, dialog, action=action)
    vector.action_space.seed(5)
    chosen = [vector.action_space.sample() for _ in range(steps)]
    if action == "image":
        chosen[1][1] = np.random.default_rng(0).integers(64)
    return chosen


def split(observation, infos, row):
    last = (None, None)
    if "_final_obs" in infos and infos["_final_obs"][row]:
        last = infos["final_obs"][row], pick(infos["final_info"], row)
    return {key: values[row] for key, values in observation.items()}, last


def pick(infos, row):
    return {
        key: values[row]
        for key, values in infos.items()
        if not key.startswith(("_", "final_")) and infos[f"_{key}"][row]
    }


@pytest.mark.parametrize("action", ACTIONS)
def test_one_seed_gives_one_dialog_in_every_form(tiny_dialog, action):
    dialog = tiny_dialog.with_(max_turns=3)
    told = {form: transcripts(form, dialog, action, steps=10) for form in FORMS}
    ends = sum(step[5] is not None for row in told["single"] for step in row)
    assert ends >= 9
    for form in FORMS[1:]:
        for alone, among in zip(told["single"], told[form], strict=True):
            for left, right in zip(alone, among, strict=True):
                assert_equal(left[0], right[0])
                assert left[1] == right[1]
                assert tuple(left[2:4]) == tuple(right[2:4])
                assert_equal(left[4], right[4])
                assert_equal(left[5], right[5])
                assert_equal(left[6], right[6])


def test_seeds_make_dialogs(tiny_dialog):
    def told(seed):
        env = make(tiny_dialog, privileged=True)
        _, info = env.reset(seed=seed)
        return info, [step[4] for step in play(env, some_actions(env, 4, seed=0))]

    assert_equal(told(3)[0], told(3)[0])
    assert told(3)[1] == told(3)[1]
    assert len({json.dumps(str(told(seed))) for seed in range(10)}) == 10


def force_ends(dialog: Dialog, form: str):
    """Two dialogs of which the second finds its target at once, in a batch form."""
    options = {"dialog": dialog, "action": "image", "privileged": True}
    if form == "native":
        vector = gym.make_vec("dialog/CSS-v0", num_envs=2, **options)
    else:
        vector = gym.make_vec(
            "dialog/CSS-v0",
            num_envs=2,
            vectorization_mode="sync",
            vector_kwargs=SAME_STEP,
            **options,
        )
    _, infos = vector.reset(seed=4)
    target = infos["target"]
    return vector, vector.step(np.array([(target[0] + 1) % 64, target[1]]))


def test_the_whole_batch_answer_is_gymnasiums_own(tiny_dialog):
    """Arrays, masks and dtypes of observations, infos, final_obs and final_info."""
    (native, one), (sync, other) = (force_ends(tiny_dialog, form) for form in ("native", "sync"))
    assert one[2].tolist() == [False, True]
    for left, right in zip(one, other, strict=True):
        assert_equal(left, right)
    assert one[4]["_final_info"].tolist() == [False, True]
    assert one[4]["final_info"]["rank"].tolist() == [0.0, 0.0]
    assert one[4]["final_info"]["_rank"].tolist() == [False, True]
    assert one[4]["final_obs"][0] is None
    assert one[0]["turn"].tolist() == [[1], [0]]  # the second has begun anew
    assert one[4]["final_obs"][1]["turn"].tolist() == [1]
    for _ in range(6):  # infos of steps in which none, some and all dialogs end
        actions = sync.action_space.sample()
        for left, right in zip(native.step(actions), sync.step(actions), strict=True):
            assert_equal(left, right)


def test_autoreset_is_declared(tiny_dialog):
    vector = gym.make_vec("dialog/CSS-v0", num_envs=2, dialog=tiny_dialog)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector.observation_space["reference"].shape == (2, tiny_dialog.index.dim)
    assert vector.action_space.shape == (2, tiny_dialog.index.dim)
    assert vector.num_envs == 2


@pytest.mark.parametrize("limit", [1, 2, 4, 9])
def test_max_episode_steps_is_honoured(tiny_dialog, limit):
    dialog = tiny_dialog.with_(max_turns=4)
    native = gym.make_vec(
        "dialog/CSS-v0", num_envs=2, dialog=dialog, action="image", max_episode_steps=limit
    )
    alone = gym.make("dialog/CSS-v0", dialog=dialog, action="image", max_episode_steps=limit)
    native.reset(seed=1)
    alone.reset(seed=1)
    wrong = np.setdiff1d(np.arange(64), native.unwrapped.state.target)
    for turn in range(1, min(limit, 4) + 1):
        image = wrong[turn]
        *_, truncated, _ = native.step(np.array([image, image]))
        *_, cut, _ = alone.step(image)
        assert truncated.tolist() == [cut, cut] == [turn == min(limit, 4)] * 2


def test_seed_lists_and_reset_masks(tiny_dialog):
    options = {"dialog": tiny_dialog, "action": "image", "privileged": True}
    native = gym.make_vec("dialog/CSS-v0", num_envs=3, **options)
    sync = gym.make_vec(
        "dialog/CSS-v0", num_envs=3, vectorization_mode="sync", vector_kwargs=SAME_STEP, **options
    )
    assert isinstance(sync, SyncVectorEnv)
    actions = np.array([1, 2, 3])

    def both(call):
        for left, right in zip(call(native), call(sync), strict=True):
            assert_equal(left, right)

    both(lambda env: env.reset(seed=[5, 9, 5]))
    assert native.unwrapped.state.target[0] == native.unwrapped.state.target[2]
    both(lambda env: env.step(actions))
    mask = np.array([False, True, False])
    before = native.unwrapped.state
    both(lambda env: env.reset(seed=[1, 2, 3], options={"reset_mask": mask.copy()}))
    after = native.unwrapped.state
    assert after.turn.tolist() == [1, 0, 1]
    kept = np.array([0, 2])
    np.testing.assert_array_equal(after.reference[kept], before.reference[kept])
    both(lambda env: env.step(actions))
    both(lambda env: env.reset(options={"reset_mask": ~mask}))
    both(lambda env: env.step(actions))
    both(lambda env: env.reset(options={"target": 3, "reference": 7}))
    assert native.unwrapped.state.target.tolist() == [3, 3, 3]
    both(lambda env: env.reset(seed=[None, 4, None]))
    for seeds in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=f"expected 3 seeds, one per dialog, got {len(seeds)}"):
            native.reset(seed=seeds)
    fresh = make_vector_env(3, tiny_dialog)
    with pytest.raises(gym.error.ResetNeeded, match="must start all dialogs"):
        fresh.reset(options={"reset_mask": mask})


def test_a_dialog_of_the_batch_depends_on_its_own_seed_alone(tiny_dialog):
    noisy = tiny_dialog.with_(user=make_dialog_user(tiny_dialog))
    small, large = make_vector_env(2, noisy), make_vector_env(6, noisy)
    small.reset(seed=7)
    large.reset(seed=7)
    actions = np.random.default_rng(0).normal(size=(8, 6, noisy.index.dim)).astype(np.float32)
    for chosen in actions:
        one, other = small.step(chosen[:2]), large.step(chosen)
        for key, values in one[0].items():
            np.testing.assert_array_equal(values, other[0][key][:2])
        assert list(one[4]["caption"]) == list(other[4]["caption"][:2])


def make_dialog_user(dialog: Dialog):
    from user_simulator import NoisyUser

    return NoisyUser(dialog.user, 0.5, len(dialog.gallery))


@pytest.mark.parametrize("split", ["train", "test"])
def test_ties_are_ties_in_every_form(tiny_root, split):
    """Scenes tie often: ranks and candidates must not hang on how a batch rounds."""
    dialog = make_dialog(root=tiny_root, split=split, encoder="scene", max_turns=9)
    options = {"dialog": dialog, "action": "candidate", "candidates": 20}
    size = 40
    vector = make_vector_env(size, **options)
    observation, infos = vector.reset(seed=9)
    singles = [make(**options) for _ in range(size)]
    seen = [env.reset(seed=9 + row) for row, env in enumerate(singles)]
    scenes = dialog.gallery.attributes.reshape(-1, 9, 3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        for row, (alone, info) in enumerate(seen):
            np.testing.assert_array_equal(alone["candidates"], observation["candidates"][row])
            assert info["rank"] == infos["rank"][row]
        actions = rng.integers(20, size=size)
        before = vector.state
        observation, _, terminated, _, infos = vector.step(actions)
        for row, env in enumerate(singles):
            alone, _, ended, _, info = env.step(actions[row])
            assert ended == terminated[row]
            # counted in whole numbers: how many codes each scene shares with the one now on show
            indicators = (scenes == scenes[info["image"]]).sum((1, 2))
            mine = indicators[before.target[row]]
            tied = (indicators == mine).sum() - 1
            assert info["rank"] == (indicators > mine).sum() + tied / 2
            seen[row] = env.reset() if ended else (alone, info)


# ---- copies in mid-dialog


@pytest.mark.parametrize("via", ["pickle", "deepcopy"])
@pytest.mark.parametrize("form", ["single", "native"])
@pytest.mark.parametrize("action", ACTIONS)
def test_copies_go_on_as_the_original(tiny_dialog, via, form, action):
    if form == "single":
        env = make(tiny_dialog, action=action, render_mode="ansi")
    else:
        env = make_vector_env(3, tiny_dialog, action=action)
    chosen = some_actions(env, 9)
    env.reset(seed=8)
    play(env, chosen[:2])
    twin = copy.deepcopy(env) if via == "deepcopy" else pickle.loads(pickle.dumps(env))
    if form == "single":
        assert env.render() == twin.render()  # the history came along
    for one, other in zip(play(env, chosen[2:]), play(twin, chosen[2:]), strict=True):
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)


def test_a_copy_leaves_the_original_alone(tiny_dialog):
    env = make(tiny_dialog)
    env.reset(seed=8)
    twin = copy.deepcopy(env)
    assert twin.dialog is env.dialog  # the gallery is not copied
    twin.step(twin.action_space.sample())
    assert (env.state.turn[0], twin.state.turn[0]) == (0, 1)
    assert (len(env.history), len(twin.history)) == (1, 2)


# ---- rendering


def test_rgb_array_draws_the_dialog_so_far(tiny_dialog):
    env = make(tiny_dialog, action="image", render_mode="rgb_array")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    frames = [env.render()]
    for image in (2, 20):
        env.step(image)
        frames.append(env.render())
    assert len({frame.shape for frame in frames}) == 1
    assert frames[0].dtype == np.uint8
    assert all((a != b).any() for a, b in pairwise(frames))
    pictures = tiny_dialog.gallery.pictures
    for image, turn in ((1, 0), (2, 1), (20, 2)):
        drawn = np.asarray(pictures[image]).repeat(2, 0).repeat(2, 1)
        for at, frame in enumerate(frames):
            assert contains(frame, drawn) == (at >= turn or image == 20)  # the target is drawn


def contains(frame: np.ndarray, patch: np.ndarray) -> bool:
    height, width, _ = patch.shape
    for top, left in np.argwhere((frame == patch[0, 0]).all(-1)):
        if np.array_equal(frame[top : top + height, left : left + width], patch):
            return True
    return False


def test_ansi_gives_the_words(tiny_dialog):
    env = make(tiny_dialog, action="image", render_mode="ansi")
    _, info = env.reset(seed=0, options={"target": 20, "reference": 1})
    env.step(20)
    first, said, last = (line.rstrip() for line in env.render().splitlines()[:3])
    names = tiny_dialog.gallery.names
    assert first.startswith(f"turn 0  {names[1]}")
    assert said == f"        user: {info['caption']}"
    assert last.startswith(f"turn 1  {names[20]}") and last.endswith("found")


def test_human_shows_every_state_in_a_window(tiny_dialog, monkeypatch):
    import matplotlib.pyplot as plt

    import envs.window

    shown = []
    original = envs.window.Window.show
    monkeypatch.setattr(
        envs.window.Window, "show", lambda self, seen: (shown.append(seen), original(self, seen))
    )
    env = make(tiny_dialog, action="image", render_mode="human")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    env.step(2)
    assert len(shown) == 2 and (shown[0] != shown[1]).any()
    assert env.render() is None
    figures = plt.get_fignums()
    assert len(figures) == 1
    env.close()
    assert not plt.get_fignums()
    env.close()  # twice is no harm


def test_a_window_on_a_screen_is_kept_alive(monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    from envs.window import Window

    calls = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(plt, "show", lambda block: calls.append(("show", block)))
    monkeypatch.setattr(plt, "pause", lambda seconds: calls.append(("pause", seconds)))
    window = Window("dialog")
    window.show(np.zeros((4, 4, 3), np.uint8))
    window.close()
    assert [call[0] for call in calls] == ["show", "pause"]
    assert calls[0][1] is False  # it must not wait for the reader


def test_rendering_without_a_mode_warns(tiny_dialog):
    env = make(tiny_dialog)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None


def test_a_gallery_without_pictures_says_so(tiny_dialog):
    bare = Gallery(tiny_dialog.gallery.names, tiny_dialog.gallery.features)
    env = make(tiny_dialog.with_(gallery=bare), render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="no pictures to draw; use the render mode 'ansi'"):
        env.render()


def test_videos_can_be_recorded(tiny_dialog, tmp_path):
    import imageio_ffmpeg

    env = gym.make("dialog/CSS-v0", dialog=tiny_dialog, action="image", render_mode="rgb_array")
    recorded = gym.wrappers.RecordVideo(
        env, str(tmp_path / "videos"), episode_trigger=lambda number: True
    )
    recorded.reset(seed=0, options={"target": 20, "reference": 1})
    for image in (2, 3, 20):
        recorded.step(image)
    size = env.render().shape
    recorded.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    reader = imageio_ffmpeg.read_frames(str(video))
    described = next(reader)
    assert described["size"] == (size[1], size[0])
    assert sum(1 for _ in reader) >= 4  # turn 0 and three more


# ---- wrappers


def test_text_caption_spells_what_the_ids_say(tiny_dialog):
    env = TextCaption(make(tiny_dialog, action="image"))
    observation, info = env.reset(seed=0, options={"target": 20, "reference": 1})
    assert observation["caption"] == info["caption"] != ""
    assert observation in env.observation_space
    observation, *_ = env.step(20)
    assert observation["caption"] == ""  # found: nothing left to say
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation["reference"], tiny_dialog.gallery.features[20])


def test_text_caption_can_be_made_again_from_its_spec(tiny_dialog):
    env = TextCaption(gym.make("dialog/CSS-v0", dialog=tiny_dialog))
    twin = gym.make(env.spec)
    assert isinstance(twin, TextCaption)
    assert_equal(env.reset(seed=3)[0], twin.reset(seed=3)[0])


def test_text_caption_has_room_and_letters_for_any_caption(tiny_dialog):
    class Stranger:
        def describe(self, reference, target, rng):
            return ["Isn't it 2-tone, <ODD> & très weird?", "w" * 40 + " word" * 40][: len(target)]

    class Shouter:
        def describe(self, reference, target, rng):
            return [" ".join(["w" * 40] * 16)] * len(target)

    env = TextCaption(make(tiny_dialog.with_(user=Stranger())))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert "<unk>" in observation["caption"]
    letters = env.observation_space["caption"].character_set
    for word in tiny_dialog.vocabulary.words:
        assert set(word) <= letters
    env.unwrapped.dialog.vocabulary = Vocabulary(["w" * 40])
    env.unwrapped.dialog.user = Shouter()
    observation, _ = env.reset(seed=0)
    assert observation["caption"].startswith("w" * 40 + " ")
    assert observation in env.observation_space  # cut, if it must be
    longest = max(map(len, tiny_dialog.vocabulary.words))
    assert 16 * (longest + 1) <= env.observation_space["caption"].max_length


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "querry"}, "unknown action 'querry'. Did you mean 'query'"),
        ({"reward": "hits"}, "unknown reward 'hits'. Did you mean 'hit'"),
        ({"action": "candidate", "candidates": 1}, "at least 2 candidates, got 1"),
        (
            {"action": "candidate", "candidates": 64},
            "at most 63 candidates of a gallery of 64 images, got 64",
        ),
    ],
)
def test_wrong_arguments_are_named_by_both_faces(tiny_dialog, options, message):
    with pytest.raises(ValueError, match=message):
        make_env(tiny_dialog, **options)
    with pytest.raises(ValueError, match=message):
        make_vector_env(2, tiny_dialog, **options)


def test_wrong_render_modes_and_numbers_are_named(tiny_dialog):
    with pytest.raises(
        ValueError, match=r"unknown render mode 'rgb'.*Known: ansi, human, rgb_array"
    ):
        make_env(tiny_dialog, render_mode="rgb")
    with pytest.raises(ValueError, match=r"cannot render .'rgb_array'.; render a single one"):
        make_vector_env(2, tiny_dialog, render_mode="rgb_array")
    with pytest.raises(ValueError, match="at least 1 dialog, got num_envs=0"):
        make_vector_env(0, tiny_dialog)
    assert make_env(tiny_dialog).metadata["render_modes"] == list(RENDER_MODES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "neurall"}, "unknown user 'neurall'. Did you mean 'neural'"),
        ({"look": "4d"}, "unknown look '4d'.*Known: 2d, 3d"),
        ({"split": "tests"}, "unknown split 'tests'. Did you mean 'test'"),
        ({"noise": 1.5}, r"expected a probability in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_parts_of_a_dialog_are_named(tiny_root, options, message):
    with pytest.raises(ValueError, match=message):
        make_dialog(root=tiny_root, **options)


def test_a_captioner_not_trained_yet_is_named(tiny_root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no captioner at .*; train one with `train_capt"):
        make_dialog(root=tiny_root, user="neural", captioner=tmp_path / "none.pt")


def test_splits_and_users_are_those_asked_for(tiny_root):
    test = make_dialog(root=tiny_root, split="test", noise=0.25)
    assert len(test.gallery) == 32
    assert test.gallery.names[0] == "css_test_000000.png"
    assert test.user.probability == 0.25
    train = make_dialog(root=tiny_root)
    assert train.vocabulary == test.vocabulary  # always that of the train split


# ---- light, and ready for Stable-Baselines3

HEAVY = ("torch", "torchvision", "matplotlib", "stable_baselines3")


def in_a_fresh_process(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_envs_is_light():
    code = f"import sys, envs; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert in_a_fresh_process(code).strip() == "[]"


def test_a_whole_dialog_needs_numpy_alone(tiny_root):
    """Made by the id alone, without importing envs first, in both forms."""
    code = f"""
import sys, gymnasium
env = gymnasium.make("envs:dialog/CSS-v0", root=sys.argv[1])
env.reset(seed=0)
env.action_space.seed(0)
turns, ended = 0, False
while not ended:
    _, _, terminated, truncated, info = env.step(env.action_space.sample())
    turns, ended = turns + 1, terminated or truncated
vector = gymnasium.make_vec("envs:dialog/CSS-v0", num_envs=3, root=sys.argv[1])
vector.reset(seed=0)
vector.step(vector.action_space.sample())
print(turns, len(info["caption"]) > 0, [m for m in {HEAVY!r} if m in sys.modules])
"""
    assert in_a_fresh_process(code, str(tiny_root)).strip() == "5 True []"


def small_ppo(env, **options):
    from stable_baselines3 import PPO

    return PPO(
        "MultiInputPolicy", env, n_epochs=2, seed=0, device="cpu",
        policy_kwargs={"net_arch": [16]}, **options,
    )  # fmt: skip


def weights_of(model) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


def test_ppo_trains_on_it_unadapted(tiny_dialog):
    model = small_ppo(make(tiny_dialog, reward="rank_gain"), n_steps=200, batch_size=100)
    before = weights_of(model)
    model.learn(2000)
    assert model.num_timesteps >= 2000
    after = weights_of(model)
    assert np.isfinite(after).all() and (before != after).mean() > 0.9
    episodes = model.ep_info_buffer
    assert len(episodes) > 50
    assert all(1 <= episode["l"] <= 5 for episode in episodes)


@pytest.mark.parametrize("action", ["query", "candidate"])
def test_ppo_trains_on_the_native_batch(tiny_dialog, action):
    from agents.sb3 import DialogVecEnv

    native = DialogVecEnv(
        gym.make_vec(
            "dialog/CSS-v0", num_envs=20, dialog=tiny_dialog, action=action, reward="rank_gain"
        )
    )
    model = small_ppo(native, n_steps=20, batch_size=100)
    before = weights_of(model)
    model.learn(2000)
    assert model.num_timesteps >= 2000
    assert np.isfinite(weights_of(model)).all() and (weights_of(model) != before).mean() > 0.9


def test_a_reset_mask_of_nothing_is_refused(tiny_dialog):
    env = make_vector_env(3, tiny_dialog)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="at least one True"):
        env.reset(options={"reset_mask": np.zeros(3, dtype=bool)})
