"""The best of an agent's own roll-outs: what it shows is what turns out best."""

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.evaluation import evaluation_pairs, run_dialogs
from agents.look_ahead import Improvement
from agents.report import found_by_turn
from agents.room import found_by_best_rollouts
from agents.supervised import Training, pretrain_epoch
from agents.tracker import DialogTracker, TrackerAgent
from envs.dialog import Dialog
from envs.factory import make_dialog

PAIRS, TURNS, K = 64, 3, 6
BEST = Improvement(top_k=K, outcome="finding")


@pytest.fixture(scope="module")
def dialog(tiny_root: Path) -> Dialog:
    return make_dialog(root=tiny_root, encoder="scene", max_turns=TURNS)


@pytest.fixture(scope="module")
def agent(dialog: Dialog) -> DialogTracker:
    torch.manual_seed(0)
    agent = TrackerAgent(dialog.vocabulary, dialog.gallery.features.shape[1], 24)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    list(pretrain_epoch(agent, dialog, optimizer, 0, Training(16, 512, TURNS)))
    return agent.eval()


@pytest.mark.parametrize("play", [{}, {"never_repeat": True}, {"patience": 1}, {"slate": 2}])
def test_it_is_never_worse_than_greedy_on_the_whole(
    play: dict[str, int], agent: DialogTracker, dialog: Dialog
) -> None:
    rules = dialog.with_(**play)
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    found = found_by_best_rollouts(agent, rules, target, reference, BEST, batch_size=16)
    greedy = found_by_turn(run_dialogs(rules, agent, target, reference).slates, target)
    assert found.shape == greedy.shape == (PAIRS, TURNS + 1)
    assert not found[:, 0].any() and (np.diff(found.astype(int), axis=1) >= 0).all()
    assert found[:, -1].mean() > greedy[:, -1].mean()


def test_with_one_turn_it_finds_what_is_among_the_candidates(
    agent: DialogTracker, dialog: Dialog
) -> None:
    rules = dialog.with_(max_turns=1)
    target, reference = evaluation_pairs(len(dialog.gallery), PAIRS, 3)
    ranks = run_dialogs(rules, agent, target, reference).ranks[:, 1]
    found = found_by_best_rollouts(agent, rules, target, reference, BEST)[:, 1]
    np.testing.assert_array_equal(found, ranks < K)
    assert 0 < found.mean() < 1
