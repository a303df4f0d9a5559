"""Self-critical REINFORCE against dialogs played one at a time, and against sums by hand."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.checkpoints import load_checkpoint
from agents.self_critical import (
    SelfCritical,
    advantages,
    choose,
    log_chance,
    play_groups,
    scores,
    self_critical_epoch,
)
from agents.supervised import (
    Training,
    epoch_rng,
    live_index,
    pretrain_epoch,
    start_batch,
    token_ids,
)
from agents.tracker import AGENTS, DialogTracker
from envs.dialog import Dialog
from envs.factory import make_dialog
from tests.command_line import do, refused

BATCH, TURNS = 5, 3
HOW = Training(BATCH, 2 * BATCH, TURNS, "triplet", seed=3)


@pytest.fixture(scope="module")
def scenes(tiny_root: Path) -> Dialog:
    """Dialogs over the 64 train scenes, one-hot."""
    return make_dialog(root=tiny_root, encoder="scene", max_turns=TURNS)


@pytest.fixture(scope="module", params=["tracker", "published"])
def start(request: pytest.FixtureRequest, scenes: Dialog) -> DialogTracker:
    """A tracker after a moment of training."""
    torch.manual_seed(2)
    agent = AGENTS[request.param](scenes.vocabulary, scenes.gallery.features.shape[1], 24)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    list(pretrain_epoch(agent, scenes, optimizer, 0, Training(16, 64, TURNS, "triplet")))
    return agent.eval()


def played(agent: DialogTracker, dialog: Dialog, policy: SelfCritical) -> tuple[Any, Any, Any]:
    """Groups played by an agent at rest, with the rules and the states they began with."""
    rng = np.random.default_rng(0)
    live = dialog.with_(index=live_index(agent, torch.from_numpy(dialog.gallery.features)))
    state = start_batch(live, BATCH, rng)
    return live, state, play_groups(agent, live, state, HOW, policy, rng)


def test_the_first_of_a_group_is_the_greedy_dialog(start: DialogTracker, scenes: Dialog) -> None:
    """Played again alone, with the random numbers that the group had in common."""
    policy = SelfCritical(top_k=6, samples=2)
    live, state, play = played(start, scenes, policy)
    draws = np.random.default_rng(0)
    start_batch(live, BATCH, draws)
    memory = None
    over = np.zeros(BATCH, dtype=bool)
    for turn in range(TURNS):
        state = live.listen(state, draws)
        shown = start.embed(torch.from_numpy(live.gallery.features[state.reference]))
        query, memory = start.respond(shown, token_ids(start, live, state), memory)
        if HOW.loss == "triplet":  # the group draws a negative for each of its dialogs
            draws.integers(64, size=BATCH * 3)
        asked = start.asked(query.detach()).numpy()
        state = live.show(state, asked)
        draws.random((BATCH * 3, policy.top_k))  # the choices by chance
        over |= state.found
        for row in range(BATCH):
            assert play.ranks[3 * row, turn + 1] == state.rank[row]
            worth = 0.0 if over[row] else -math.log2(1 + state.rank[row])
            assert play.gains[3 * row, turn] == pytest.approx(worth)


def test_groups_share_target_and_first_words(start: DialogTracker, scenes: Dialog) -> None:
    _, _, play = played(start, scenes, SelfCritical(top_k=6, samples=2))
    ranks = play.ranks.reshape(BATCH, 3, TURNS + 1)
    assert (ranks[:, :, :2] == ranks[:, :1, :2]).all()  # nothing was chosen yet
    assert (ranks[:, :, 2:] != ranks[:, :1, 2:]).any()  # then chance leads elsewhere


def test_chances_are_a_softmax_over_the_nearest(start: DialogTracker, scenes: Dialog) -> None:
    features = torch.from_numpy(scenes.gallery.features)
    query = start.embed(features[:4]) * 0.9
    candidates = np.array([[3, 8, 1], [2, 0, 9], [5, 6, 7], [1, 2, 3]])
    logits = scores(start, query, candidates, features)
    asked = start.asked(query).detach().numpy()
    table = start.searched(start.embed(features)).detach().numpy()
    for row, images in enumerate(candidates):
        for column, image in enumerate(images):
            expected = float(start.scale.detach().exp()) * float(asked[row] @ table[image])
            assert float(logits[row, column].detach()) == pytest.approx(expected, rel=1e-4)
    logits.sum().backward()
    assert start.scale.grad is None
    start.zero_grad()


def test_choices_follow_the_chances() -> None:
    """Ordered pairs out of three, by the rule of drawing without replacement."""
    share = np.array([0.5, 0.2, 0.3])
    logits = torch.log(torch.tensor(share)).float().repeat(9000, 1)
    greedy = np.arange(9000) < 1000
    chosen = choose(logits, 2, greedy, np.random.default_rng(0))
    assert (chosen[:1000] == [0, 2]).all()
    for first in range(3):
        for second in {0, 1, 2} - {first}:
            expected = share[first] * share[second] / (1 - share[first])
            often = (chosen[1000:] == [first, second]).all(1).mean()
            assert often == pytest.approx(expected, abs=0.02)
            pair = torch.tensor([[first, second]])
            chance = log_chance(logits[:1], pair).exp().item()
            assert chance == pytest.approx(expected, rel=1e-5)


def test_slates_and_patience(start: DialogTracker, scenes: Dialog) -> None:
    """Greedy slates are the dialog's own; who left sees and teaches nothing more."""
    policy = SelfCritical(top_k=6, samples=1)
    two = scenes.with_(slate=2, patience=1)
    live, state, play = played(start, two, policy)
    draws = np.random.default_rng(0)
    state = live.listen(start_batch(live, BATCH, draws), draws)
    shown = start.embed(torch.from_numpy(live.gallery.features[state.reference]))
    query, _ = start.respond(shown, token_ids(start, live, state), None)
    after = live.show(state, start.asked(query.detach()).numpy())
    left = live.left(after)
    assert left.any() and not left.all()
    for row in np.flatnonzero(left):
        assert (play.ranks[2 * row, 1:] == after.rank[row]).all()
        assert (play.chances[2 * row, 1:] == 0).all()
    assert (play.chances[:, 0] < 0).all()
    with pytest.raises(ValueError, match="at least 4 images to choose a slate of 4 from"):
        wide = SelfCritical(top_k=3)
        next(self_critical_epoch(start, scenes.with_(slate=4), None, 0, HOW, wide))  # type: ignore[arg-type]


def test_advantages_by_hand() -> None:
    """One group of a greedy and two other dialogs, one group in which nothing differs."""
    gains = np.array([[-3.0, -2], [-3, -1], [-1, -4], [-1, 0], [-1, 0], [-1, 0]])
    lead = np.array([[0, 0], [1, 1], [0, -2], [0, 0], [0, 0], [0, 0]])
    assert advantages(gains, 3) == pytest.approx(lead / lead.std())
    assert (advantages(gains[3:], 3) == 0).all()


def test_an_epoch_is_the_gradient_it_says(start: DialogTracker, scenes: Dialog) -> None:
    """One step of plain gradient descent, recomputed choice by choice."""
    agent, other = copy.deepcopy(start), copy.deepcopy(start)
    for one in (agent, other):
        for module in one.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    policy = SelfCritical(top_k=6, samples=2, weight=0.7)
    sgd = torch.optim.SGD(agent.parameters(), lr=0.1)
    step = next(self_critical_epoch(agent, scenes, sgd, 4, HOW, policy))

    rng = epoch_rng(HOW.seed, 4)
    other.train()
    live = scenes.with_(index=live_index(other, torch.from_numpy(scenes.gallery.features)))
    play = play_groups(other, live, start_batch(live, BATCH, rng), HOW, policy, rng)
    lead = np.zeros_like(play.gains)
    for row in range(len(lead)):
        for turn in range(TURNS):
            greedy = play.gains[row - row % 3, turn:].sum()
            lead[row, turn] = play.gains[row, turn:].sum() - greedy
    lead /= lead.std()
    reinforce = 0.0
    for row in range(len(lead)):
        for turn in range(TURNS):
            reinforce = reinforce - lead[row, turn] * play.chances[row, turn] / lead.size
    loss = play.supervised + 0.7 * reinforce
    assert step.loss == pytest.approx(loss.item(), rel=1e-4)
    assert step.ranks.shape == (BATCH, TURNS + 1)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(other.parameters(), 5.0)
    for (name, new), old in zip(agent.named_parameters(), other.parameters(), strict=True):
        if old.grad is not None:
            assert torch.allclose(new, old - 0.1 * old.grad, atol=1e-5), name


def test_what_makes_no_sense() -> None:
    for bad in ({"top_k": 1}, {"samples": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="at least 2 images, 1 sample and a temperature"):
            SelfCritical(**bad)  # type: ignore[arg-type]


def test_the_command(tiny_root: Path, tmp_path: Path) -> None:
    """`train_rl --method self-critical` goes on after a stop to the numbers of a whole run."""
    world = ["--data-path", tiny_root, "--user", "attribute", "--batch-size", 8]
    do(
        "train_sl", *world, "--dialogs-per-epoch", 16, "--test-pairs", 0, "--warm-up-epochs", 1,
        "--epochs", 1, "--model-folder", tmp_path,
    )  # fmt: skip
    typed = [
        *world, "--method", "self-critical", "--samples", 2, "--dialogs-per-epoch", 16,
        "--test-pairs", 8, "--pretrained-model", tmp_path / "sl-0.pt", "--schedule", "constant",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    do("train_rl", *typed, "--epochs", 2, "--model-folder", whole)
    do("train_rl", *typed, "--epochs", 1, "--model-folder", parts)
    do("train_rl", *typed, "--epochs", 2, "--model-folder", parts, "--resume")
    one, two = (load_checkpoint(folder / "rl-1.pt").agent for folder in (whole, parts))
    before = load_checkpoint(tmp_path / "sl-0.pt").agent
    pairs = zip(one.parameters(), two.parameters(), before.parameters(), strict=True)
    assert [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs].count((True, False)) > 5
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    message = refused("train_rl", *typed, "--method", "self-critic", "--model-folder", tmp_path)
    assert "Did you mean 'self-critical'" in message
