"""Slates, never repeating and patience as environments, in the single and in the batch form."""

import copy
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from agents.baselines import OracleAgent
from envs.actions import SLATE_ACTIONS, ActionMode
from envs.drawing import FOUND, GAP, LABEL, MARGIN
from envs.factory import make_dialog, make_env, make_vector_env
from envs.tiling import PICKED, tile
from retrieval.rendering.claims import read
from tests.envs.test_environment import (
    FORMS,
    Mute,
    assert_equal,
    make,
    play,
    some_actions,
    transcripts,
)
from user_simulator import AttributeUser, StrikingUser

SETTINGS = {
    "slate": {"slate": 4},
    "mmr": {"slate": 3, "slate_by": "mmr"},
    "medoids": {"slate": 4, "slate_by": "medoids", "never_repeat": True},
    "never repeat": {"never_repeat": True},
    "impatient": {"patience": 1},
    "all": {"slate": 2, "never_repeat": True, "patience": 1},
}
CASES = [
    (setting, action)
    for setting, changes in SETTINGS.items()
    for action in SLATE_ACTIONS
    if action != "queries" or changes.get("slate", 1) > 1
]


# ---- the contract


@pytest.mark.parametrize(("setting", "action"), CASES)
def test_two_checkers_have_nothing_to_say(tiny_dialog, setting, action):
    from stable_baselines3.common.env_checker import check_env as check

    dialog = tiny_dialog.with_(**SETTINGS[setting])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"action": action, "observe_slate": True, "reward": "early_hit"}
        check_env(make(dialog, render_mode="rgb_array", **options))
        check(make(dialog, **options))


@pytest.mark.parametrize(("setting", "action"), CASES)
def test_one_seed_gives_one_dialog_in_every_form(tiny_dialog, setting, action):
    dialog = tiny_dialog.with_(max_turns=3, **SETTINGS[setting])
    forms = FORMS if (setting, action) == ("all", "queries") else ("single", "sync", "native")
    told = {form: transcripts(form, dialog, action, steps=8) for form in forms}
    assert sum(step[5] is not None for row in told["single"] for step in row) >= 6
    for form in forms[1:]:
        for alone, among in zip(told["single"], told[form], strict=True):
            for left, right in zip(alone, among, strict=True):
                assert_equal(left[0], right[0])
                assert tuple(left[1:4]) == tuple(right[1:4])
                for one, other in zip(left[4:], right[4:], strict=True):
                    assert_equal(one, other)


@pytest.mark.parametrize("form", ["single", "native"])
@pytest.mark.parametrize("action", SLATE_ACTIONS)
def test_copies_go_on_as_the_original(tiny_dialog, form, action):
    dialog = tiny_dialog.with_(**SETTINGS["all"])
    options = {"action": action, "observe_slate": True}
    env = make(dialog, **options) if form == "single" else make_vector_env(3, dialog, **options)
    chosen = some_actions(env, 8)
    env.reset(seed=8)
    env.step(chosen[0])
    twins = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    told = play(env, chosen[1:]) if not over(env) else []
    for twin in twins:
        assert over(twin) == (told == [])
        for one, other in zip(told, play(twin, chosen[1:]) if told else [], strict=True):
            for left, right in zip(one, other, strict=True):
                assert_equal(left, right)


def over(env) -> bool:
    return env.num_envs == 1 if hasattr(env, "num_envs") else env._over(env.state)


@pytest.mark.parametrize("name", envs.SETTING_ENVIRONMENTS)
def test_every_id_is_registered_with_what_makes_it(name):
    assert gym.registry[name].kwargs == envs.SETTING_ENVIRONMENTS[name]
    described = {json.dumps(each, sort_keys=True) for each in envs.SETTING_ENVIRONMENTS.values()}
    assert len(described) == len(envs.SETTING_ENVIRONMENTS) == 3 * len(envs.SETTINGS)
    assert not set(envs.SETTING_ENVIRONMENTS) & {*envs.ENVIRONMENTS, *envs.CATALOG_ENVIRONMENTS}


@pytest.mark.parametrize("data", ["CSS", "CSS2D"])
@pytest.mark.parametrize("setting", envs.SETTINGS)
def test_the_ids_of_the_built_in_data_play(tiny_root, setting, data):
    name = f"dialog/{data}-{setting}-v0"
    env = gym.make(f"envs:{name}", root=tiny_root)
    dialog = env.unwrapped.dialog
    wanted = {"slate": 1, "never_repeat": False, "patience": None, **envs.SETTINGS[setting]}
    wanted.pop("user", None)
    assert {key: getattr(dialog, key) for key in wanted} == wanted
    assert isinstance(dialog.user, StrikingUser) == (setting == "Striking")
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space
        if terminated or truncated:
            break
    assert terminated or truncated
    vector = gym.make_vec(f"envs:{name}", num_envs=2, root=tiny_root)
    assert vector.unwrapped.dialog is dialog


def test_ten_turns(tiny_root):
    env = gym.make("dialog/CSS-v0", root=tiny_root, max_turns=10, action="image")
    env.reset(seed=0, options={"target": 60, "reference": 1})
    ends = [env.step(image)[2:4] for image in range(2, 12)]
    assert ends == [(False, False)] * 9 + [(False, True)]


# ---- slates


def test_spaces_of_slates(tiny_dialog):
    features = tiny_dialog.gallery.features.shape[1]
    dialog = tiny_dialog.with_(slate=3)
    wanted = {
        "query": gym.spaces.Box(-1, 1, (features,), np.float32),
        "queries": gym.spaces.Box(-1, 1, (3, features), np.float32),
        "image": gym.spaces.MultiDiscrete([64] * 3),
        "candidate": gym.spaces.MultiDiscrete([5] * 3),
    }
    for action in SLATE_ACTIONS:
        for observe_slate in (False, True):
            env = make(dialog, action=action, candidates=5, observe_slate=observe_slate)
            assert env.action_space == wanted[action]
            shapes = {"reference": (features,), "caption": (16,), "turn": (1,)}
            if action == "candidate":
                shapes["candidates"] = (5 * features,)
            if observe_slate:
                shapes["slate"] = (3 * features,)
            observation, _ = env.reset(seed=0)
            assert {key: part.shape for key, part in observation.items()} == shapes
            assert {key: part.shape for key, part in env.observation_space.items()} == shapes
    single = make(tiny_dialog, observe_slate=True)  # nothing to add to one image
    assert sorted(single.observation_space) == ["caption", "reference", "turn"]


def test_a_slate_is_told_in_observation_and_info(tiny_dialog):
    dialog = tiny_dialog.with_(slate=3)
    features, codes = dialog.gallery.features, dialog.gallery.attributes
    env = make(dialog, action="image", observe_slate=True)
    observation, info = env.reset(seed=1, options={"target": 9, "reference": 2})
    assert info["slate"].tolist() == [2, -1, -1]
    first = observation["slate"].reshape(3, -1)
    np.testing.assert_array_equal(first[0], features[2])
    assert not first[1:].any()
    for slate in ([3, 60, 4], [5, 7, 8], [30, 9, 12]):
        observation, _, terminated, _, info = env.step(slate)
        differ = [(codes[image] != codes[9]).mean() for image in slate]
        picked = 9 if 9 in slate else slate[int(np.argmin(differ))]
        assert info["image"] == picked
        assert info["slate"].tolist() == slate
        np.testing.assert_array_equal(observation["reference"], features[picked])
        np.testing.assert_array_equal(observation["slate"].reshape(3, -1), features[slate])
        assert terminated == (9 in slate)
    assert info["caption"] == ""


def test_found_anywhere_on_the_slate_is_an_end_and_a_hit(tiny_dialog):
    rules = tiny_dialog.with_(slate=3)
    for reward, worth in (("hit", 1.0), ("early_hit", 0.5)):
        env = make(rules, action="image", reward=reward)
        env.reset(seed=0, options={"target": 20, "reference": 1})
        assert env.step([2, 3, 4])[1:3] == (0.0, False)
        _, given, terminated, truncated, info = env.step([5, 6, 20])
        assert (given, terminated, truncated) == (worth, True, False)
        assert info["rank"] == tiny_dialog.index.rank(rules.gallery.features[[5]], [20])[0] > 0


def test_infos_have_the_same_keys_at_every_step(tiny_dialog):
    keys = ["best_rank", "caption", "image", "percentile", "rank"]
    for setting, more in (
        ("slate", ["slate"]),
        ("never repeat", []),
        ("all", ["slate", "stalled"]),
    ):
        env = make(tiny_dialog.with_(**SETTINGS[setting]))
        _, info = env.reset(seed=2)
        infos = [info, *(step[4] for step in play(env, some_actions(env, 6)))]
        for info in infos:
            assert sorted(info) == sorted(keys + more)
            assert all(np.isfinite(info[key]).all() for key in info if key != "caption")
            assert len(pickle.dumps(info)) < 1000


def test_nothing_observed_of_a_slate_leaks_the_target(tiny_dialog):
    """Two targets for whom the same images are nearest look alike if the words do."""
    dialog = tiny_dialog.with_(user=Mute(), slate=3, patience=4)
    one, other = (make(dialog, action="image", observe_slate=True) for _ in range(2))
    seen = []
    for env, target in ((one, 50), (other, 51)):
        first, _ = env.reset(seed=1, options={"target": target, "reference": 5})
        steps = play(env, [[5, 5, 5], [7, 7, 7]])  # each with two others like it
        seen.append([first, *(step[0] for step in steps)])
        assert steps[-1][4]["image"] == seen_picks(dialog, env)
    for left, right in zip(*seen, strict=True):
        if np.array_equal(left["reference"], right["reference"]):
            assert_equal(left, right)
        else:  # the pick is all that may differ
            assert_equal(left["slate"], right["slate"])


def seen_picks(dialog, env) -> int:
    return int(env.state.reference[0])


# ---- never repeat, and patience


@pytest.mark.parametrize("action", SLATE_ACTIONS)
def test_no_image_comes_twice(tiny_dialog, action):
    dialog = tiny_dialog.with_(slate=3, never_repeat=True)
    env = make(dialog, action=action, candidates=8)
    same = some_actions(env, 1)[0]
    for seed in range(5):
        _, info = env.reset(seed=seed)
        seen, ended = [info["image"]], False
        while not ended:
            *_, terminated, truncated, info = env.step(same)
            seen += info["slate"].tolist()
            ended = terminated or truncated
        assert len(seen) == len(set(seen))


def test_candidates_leave_out_what_was_shown(tiny_dialog):
    env = make(tiny_dialog.with_(never_repeat=True), action="candidate", candidates=4)
    features = tiny_dialog.gallery.features
    observation, info = env.reset(seed=3)
    seen = {int(info["image"])}
    for _ in range(4):
        like = sorted(range(64), key=lambda i: -float(features[i] @ observation["reference"]))
        near = [image for image in like if image not in seen][:4]
        np.testing.assert_array_equal(observation["candidates"].reshape(4, -1), features[near])
        observation, _, terminated, _, info = env.step(2)
        assert info["image"] == near[2]
        seen.add(near[2])
        if terminated:
            break


def test_the_impatient_user_ends_the_dialog(tiny_dialog):
    codes = tiny_dialog.gallery.attributes
    env = make(tiny_dialog.with_(patience=2, max_turns=9), action="image")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    nearest, waited = (codes[1] != codes[20]).sum(), 0
    rng = np.random.default_rng(0)
    for _ in range(9):
        image = int(rng.choice([row for row in range(64) if row != 20]))
        _, _, terminated, truncated, info = env.step(image)
        far = (codes[image] != codes[20]).sum()
        waited, nearest = (0 if far < nearest else waited + 1), min(far, nearest)
        assert info["stalled"] == waited
        assert terminated == (waited == 2) and not truncated
        assert (info["caption"] == "") == terminated
        if terminated:
            break
    assert terminated
    with pytest.raises(gym.error.ResetNeeded):
        env.step(3)


def test_leaving_is_worth_nothing(tiny_dialog):
    env = make(tiny_dialog.with_(patience=1), action="image", reward="early_hit")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    _, reward, terminated, *_ = env.step(1)  # the same again
    assert terminated and reward == 0


# ---- rendering


def frames_of(picture: np.ndarray, colour) -> int:
    return int((picture == np.array(colour, np.uint8)).all(-1).sum())


def test_the_slate_is_drawn_with_what_was_picked_and_found(tiny_dialog):
    env = make(tiny_dialog.with_(slate=3), action="image", render_mode="rgb_array")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    frames = [env.render()]
    for slate in ([2, 3, 4], [5, 20, 6]):
        env.step(slate)
        frames.append(env.render())
    assert len({frame.shape for frame in frames}) == 1
    pictures = tiny_dialog.gallery.pictures
    for turn, slate in ((1, [2, 3, 4]), (2, [5, 20, 6])):
        picked = slate.index(int(env.history[turn].reference[0]))
        target = 1 if turn == 2 else None
        drawn = tile([pictures[image] for image in slate], picked, target, 192)
        left, top = MARGIN + turn * (192 + GAP), MARGIN + LABEL
        for at, frame in enumerate(frames):
            there = frame[top : top + 192, left : left + 192]
            assert np.array_equal(there, drawn) == (at >= turn)
    blue = [frames_of(frame, PICKED) for frame in frames]
    green = [frames_of(frame, FOUND) for frame in frames]
    assert blue[0] == 0 < blue[1] == blue[2]  # the target's frame takes the pick's place
    assert green[0] == green[1] < green[2]


def test_a_tile_shows_each_picture_in_its_place():
    plain = [np.full((20, 20, 3), 30 * (at + 1), np.uint8) for at in range(5)]
    square = tile(plain, picked=1, target=4, side=192)
    assert square.shape == (192, 192, 3) and square.dtype == np.uint8
    for at in range(5):
        row, column = divmod(at, 3)
        inside = square[row * 64 + 10 : row * 64 + 54, column * 64 + 10 : column * 64 + 54]
        assert (inside == 30 * (at + 1)).all()
        framed = {1: PICKED, 4: FOUND}.get(at)
        edge = tuple(square[row * 64 + 32, column * 64 + 3].tolist())
        assert edge == (framed or (255, 255, 255))


def test_words_name_the_whole_slate(tiny_dialog):
    env = make(tiny_dialog.with_(slate=2), action="image", render_mode="ansi")
    env.reset(seed=0, options={"target": 20, "reference": 1})
    env.step([2, 20])
    names = tiny_dialog.gallery.names
    lines = env.render().splitlines()
    assert lines[0].startswith(f"turn 0  {names[1]} ")
    assert lines[2].startswith(f"turn 1  {names[20]} (beside {names[2]})")
    assert lines[2].endswith("found")


# ---- users, and mistakes


def test_the_striking_user_of_an_environment_says_one_thing(tiny_root):
    dialog = make_dialog(root=tiny_root, user="striking")
    assert isinstance(dialog.user, StrikingUser)
    assert type(make_dialog(root=tiny_root).user) is AttributeUser
    state = dialog.listen(dialog.start([3] * 20, [9] * 20), np.random.default_rng(0))
    assert all(len(read(caption)) == 1 for caption in state.captions)


def test_the_oracle_reads_slates_and_picks(tiny_root):
    """What it learns from slates makes it find more; picks help on top."""
    dialog = make_dialog(root=tiny_root, encoder="scene").with_(slate=4, max_turns=2)
    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.report import found_by_turn

    target, reference = evaluation_pairs(64, 256, seed=0)
    found = []
    for judge in (None, dialog.user):
        agent = OracleAgent(dialog.gallery, dialog.vocabulary, np.random.default_rng(0), judge)
        played = run_dialogs(dialog, agent, target, reference)
        found.append(found_by_turn(played.slates, target).mean(0)[2])
    assert found[1] > found[0] + 0.02


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {"action": "queries"}, "'queries' is for dialogs that show slates"),
        (
            {"slate": 4},
            {"action": "candidate", "candidates": 3},
            "at least 4 candidates for slates",
        ),
        (
            {"never_repeat": True},
            {"action": "candidate", "candidates": 59},
            "at most 58 candidates of a gallery of 64 images that never shows 5 of them again",
        ),
        ({}, {"action": "slates"}, "unknown action 'slates'"),
    ],
)
def test_what_does_not_go_together_is_refused_by_both_faces(
    tiny_dialog, settings, options, message
):
    dialog = tiny_dialog.with_(**settings)
    with pytest.raises(ValueError, match=message):
        make_env(dialog, **options)
    with pytest.raises(ValueError, match=message):
        make_vector_env(2, dialog, **options)


def test_modes_say_what_ranks_are_by(tiny_dialog):
    dialog = tiny_dialog.with_(slate=2)
    before = dialog.start(np.array([3, 4]), np.array([9, 8]))
    rng = np.random.default_rng(0)
    for mode in (ActionMode(name) for name in SLATE_ACTIONS):
        space = mode.space(dialog)
        space.seed(1)
        action = np.stack([space.sample(), space.sample()])
        if mode.name == "candidate":
            action = rng.permuted(np.tile(np.arange(16), (2, 1)), axis=1)[:, :2]
        after = mode.apply(dialog, before, action)
        asked = mode.asked(dialog, action, after)
        np.testing.assert_array_equal(dialog.index.rank(asked, before.target), after.rank)
