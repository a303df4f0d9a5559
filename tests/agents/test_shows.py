"""What dialogs put on show: slates, patience and repeats in evaluation and report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.baselines import ImageOnlyAgent, OracleAgent, RandomAgent
from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent
from agents.report import compare, found_by_turn, repeat_share, repeats_by_turn, summarise
from agents.report.strip import draw_played
from agents.slates import SlateAgent
from envs.actions import ActionMode
from envs.dialog import Dialog, Observation
from envs.factory import make_dialog
from envs.slates import SLATES
from user_simulator.judging import judge_of


@pytest.fixture(scope="module")
def scenes(tiny_root: Path) -> Dialog:
    return make_dialog(root=tiny_root, encoder="scene")


class Scripted:
    """Shows what it was told to, turn by turn."""

    def __init__(self, turns: list[np.ndarray], mode: ActionMode | None = None):
        self.turns = turns
        self.mode = mode or ActionMode("image")

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        number = 0 if state is None else state
        return self.turns[number], number + 1


def rolled(dialog: Dialog) -> Any:
    """An agent whose query differs from what is on show, and differs from turn to turn."""

    class Rolled:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):  # type: ignore[no-untyped-def]
            return np.roll(observation["reference"], 16, axis=1), state

    return Rolled()


# ---- evaluation


def test_slates_are_played_and_noted(scenes: Dialog) -> None:
    dialog = scenes.with_(slate=3, max_turns=4)
    target, reference = evaluation_pairs(64, 30, seed=0)
    played = run_dialogs(dialog, rolled(dialog), target, reference, depth=5)
    assert played.slates.shape == (30, 5, 3)
    assert (played.slates[:, 0] == np.column_stack([reference, *[[-1] * 30] * 2])).all()
    features, codes = dialog.gallery.features, dialog.gallery.attributes
    assert codes is not None
    for turn in range(1, 5):
        query = np.roll(features[played.shown[:, turn - 1]], 16, axis=1)
        best = dialog.index.search(query, 5)
        np.testing.assert_array_equal(played.candidates[:, turn], best)
        np.testing.assert_array_equal(played.slates[:, turn], best[:, :3])
        np.testing.assert_array_equal(played.ranks[:, turn], dialog.index.rank(query, target))
        for row in range(30):
            slate = played.slates[row, turn].tolist()
            differ = [(codes[image] != codes[target[row]]).sum() for image in slate]
            picked = target[row] if target[row] in slate else slate[int(np.argmin(differ))]
            assert played.shown[row, turn] == picked
    parts = run_dialogs(dialog, rolled(dialog), target, reference, depth=5, batch_size=7)
    np.testing.assert_array_equal(played.slates, parts.slates)
    assert played.captions == parts.captions
    assert not played.left.any()


def test_an_agent_may_choose_by_k_queries(scenes: Dialog) -> None:
    dialog = scenes.with_(slate=2, max_turns=2)
    target, reference = evaluation_pairs(64, 10, seed=0)
    features = dialog.gallery.features
    chosen = [np.stack([target, (target + turn) % 64], axis=1) for turn in (1, 2)]
    agent = Scripted([features[images] for images in chosen], ActionMode("queries"))
    played = run_dialogs(dialog, agent, target, reference, depth=3)
    np.testing.assert_array_equal(played.ranks[:, 1], dialog.index.rank(features[target], target))
    np.testing.assert_array_equal(played.candidates[:, 2], dialog.index.search(features[target], 3))


def test_a_dialog_whose_user_left_stands_still(scenes: Dialog) -> None:
    """Each dialog against its own, played in the environment's rules until the user leaves."""
    dialog = scenes.with_(patience=1, max_turns=5)
    target, reference = evaluation_pairs(64, 40, seed=0)
    rng = np.random.default_rng(0)
    turns = [rng.integers(64, size=40) for _ in range(5)]
    turns[0][:8] = target[:8]
    played = run_dialogs(dialog, Scripted(turns), target, reference, seed=3)
    patient = run_dialogs(dialog.with_(patience=None), Scripted(turns), target, reference, seed=3)
    codes = dialog.gallery.attributes
    assert codes is not None
    gone = 0
    for row in range(40):
        goal, shown = codes[target[row]], [reference[row], *(turn[row] for turn in turns)]
        far = [(codes[image] != goal).sum() for image in shown]
        seen = [image == target[row] for image in shown]
        leaves = next(
            (t for t in range(1, 6) if not any(seen[: t + 1]) and far[t] >= min(far[:t])), None
        )
        wanted = [leaves is not None and turn >= leaves for turn in range(6)]
        assert played.left[row].tolist() == wanted
        until = 6 if leaves is None else leaves + 1
        assert played.shown[row].tolist()[:until] == shown[:until]
        assert set(played.shown[row, until:].tolist()) <= {played.shown[row, until - 1]}
        assert set(played.ranks[row, until:].tolist()) <= {played.ranks[row, until - 1]}
        assert played.captions[row][: until - 1] == patient.captions[row][: until - 1]
        if leaves is not None:
            assert set(played.captions[row][leaves:]) == {""}
            gone += 1
    assert 10 < gone < 40


def test_a_rule_for_slates_goes_with_an_agent(scenes: Dialog) -> None:
    dialog = scenes.with_(slate=3, max_turns=2)
    target, reference = evaluation_pairs(64, 30, seed=0)
    first = {}
    for rule in SLATES:
        agent = SlateAgent(rolled(dialog), rule)
        one = run_dialogs(dialog, agent, target, reference)
        other = run_dialogs(dialog.with_(slate_by=rule), rolled(dialog), target, reference)
        np.testing.assert_array_equal(one.slates, other.slates)
        first[rule] = one
        np.testing.assert_array_equal(one.ranks[:, 1], first["greedy"].ranks[:, 1])
    assert (first["mmr"].slates != first["greedy"].slates).any()
    assert (first["medoids"].slates != first["mmr"].slates).any()
    with pytest.raises(ValueError, match="this one chooses what to show"):
        SlateAgent(Scripted([]), "mmr")


def test_an_agents_own_index_comes_along(scenes: Dialog) -> None:
    dialog = scenes.with_(slate=3, max_turns=2)
    target, reference = evaluation_pairs(64, 30, seed=0)
    wrapped = SlateAgent(RandomAgent(64, np.random.default_rng(0)), "greedy")
    played = run_dialogs(dialog, wrapped, target, reference)
    plain = run_dialogs(dialog, RandomAgent(64, np.random.default_rng(0)), target, reference)
    np.testing.assert_array_equal(played.slates, plain.slates)


def test_never_repeating_helps_an_agent_that_asks_the_same_again(scenes: Dialog) -> None:
    target, reference = evaluation_pairs(64, 64, seed=0)
    agent = ImageOnlyAgent(scenes.gallery)
    stuck = run_dialogs(scenes, agent, target, reference)
    moving = run_dialogs(scenes.with_(never_repeat=True), agent, target, reference)
    assert repeat_share(stuck.slates, target, stuck.left) == 1
    assert repeat_share(moving.slates, target, moving.left) == 0
    assert all(len(set(row)) == 6 for row in moving.shown.tolist())
    assert found_by_turn(moving.slates, target)[:, 5].mean() > 0
    assert found_by_turn(stuck.slates, target)[:, 5].mean() == 0


def test_a_strip_shows_every_turn(scenes: Dialog, tiny_dialog: Dialog) -> None:
    target, reference = evaluation_pairs(64, 2, seed=0)
    sizes = []
    for slate in (1, 4):
        dialog = tiny_dialog.with_(slate=slate)
        played = run_dialogs(dialog, rolled(dialog), target, reference)
        first, second = (draw_played(dialog, played, row, int(target[row])) for row in (0, 1))
        assert first.shape == second.shape and (first != second).any()
        sizes.append(first.shape)
    assert sizes[1] > sizes[0]


# ---- the report


SLATES_SHOWN = np.array(
    [
        [[9, -1], [1, 2], [9, 3], [1, 4], [5, 6]],  # target 4 at turn 3
        [[9, -1], [9, 1], [9, 1], [2, 1], [2, 3]],  # target 7 never
        [[0, -1], [1, 2], [1, 2], [1, 2], [1, 2]],  # target 8; the user left at turn 2
        [[6, -1], [1, 2], [3, 4], [6, 1], [3, 4]],  # target 6 was the reference
    ]
)
TARGET = np.array([4, 7, 8, 6])
LEFT = np.array([[0] * 5, [0] * 5, [0, 0, 1, 1, 1], [0] * 5], dtype=bool)


def test_found_by_hand() -> None:
    assert found_by_turn(SLATES_SHOWN, TARGET).tolist() == [
        [0, 0, 0, 1, 1], [0] * 5, [0] * 5, [0, 0, 0, 1, 1],
    ]  # fmt: skip


def test_repeats_by_hand() -> None:
    """Turn 1: 9; turn 2: 9 | 9, 1 | 1, 2 | -; turn 3: 1 | 1 | gone | 6, 1; turn 4: 2 alone."""
    shares = [0, 1 / 8, 5 / 8, 4 / 6, 1 / 2]
    assert repeats_by_turn(SLATES_SHOWN, TARGET, LEFT) == pytest.approx(shares)
    assert repeat_share(SLATES_SHOWN, TARGET, LEFT) == pytest.approx((1 + 5 + 4 + 1) / 24)
    gone = np.ones_like(LEFT)
    assert repeats_by_turn(SLATES_SHOWN, TARGET, gone) == [0.0] * 5
    assert repeat_share(SLATES_SHOWN, TARGET, gone) == 0


def test_what_was_shown_is_summarised_and_compared() -> None:
    rng = np.random.default_rng(0)
    ranks = {name: rng.integers(0, 100, (50, 4)).astype(float) for name in "ab"}
    found = {name: np.maximum.accumulate(rng.random((50, 4)) < 0.3, axis=1) for name in "ab"}
    drawn: dict[str, Any] = {"bootstrap": 200}
    plain = summarise(ranks, 100, rng=np.random.default_rng(1), **drawn)
    told = summarise(ranks, 100, rng=np.random.default_rng(1), found=found, **drawn)
    for name in "ab":
        assert told["agents"][name].pop("found") == found[name].mean(0).tolist()
        interval = told["intervals"][name].pop("found")
        mean = found[name].mean(0)
        assert (np.array(interval["low"]) <= mean).all() and (mean <= interval["high"]).all()
        assert told["agents"][name] == plain["agents"][name]
        for metric, bounds in plain["intervals"][name].items():
            for side in ("low", "high"):
                np.testing.assert_allclose(told["intervals"][name][metric][side], bounds[side])  # type: ignore[literal-required]
    rows = compare(
        ranks, 100, rng=np.random.default_rng(1), found=found, randomisations=200, **drawn
    )
    differences = [row["difference"] for row in rows if row["metric"] == "found"]
    np.testing.assert_allclose(differences, found["a"].mean(0) - found["b"].mean(0))
    with pytest.raises(ValueError, match=r"found of 'a' has shape \(50, 3\), expected \(50, 4\)"):
        summarise(ranks, 100, rng=rng, found={"a": found["a"][:, 1:], "b": found["b"]}, **drawn)


def test_the_oracle_of_the_benchmark_reads_picks(scenes: Dialog) -> None:
    """Loaded by name, it judges as the dialog's user does."""
    dialog = scenes.with_(slate=3, max_turns=4)
    target, reference = evaluation_pairs(len(dialog.gallery), 30, 3)

    def ranks(agent: Any) -> np.ndarray:
        return run_dialogs(dialog, agent, target, reference).ranks

    def oracle(judge: Any) -> OracleAgent:
        rng = np.random.default_rng([5, 13])
        return OracleAgent(dialog.gallery, dialog.vocabulary, rng, judge)

    loaded = ranks(load_agent("oracle", dialog, seed=5))
    np.testing.assert_array_equal(loaded, ranks(oracle(judge_of(dialog.user, dialog.gallery))))
    assert (loaded != ranks(oracle(None))).any()
