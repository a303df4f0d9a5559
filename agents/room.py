"""How much better an agent's dialogs could go: the best of its own roll-outs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from agents.evaluation import PairDraws
from agents.look_ahead import Improvement, Players, look_ahead, propose, show_chosen
from agents.supervised import live_index, token_ids
from agents.tracker import DialogTracker
from envs.dialog import Dialog


@torch.no_grad()
def found_by_best_rollouts(
    agent: DialogTracker,
    dialog: Dialog,
    target: np.ndarray,
    reference: np.ndarray,
    policy: Improvement,
    seed: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """Whether E dialogs have shown their target by each turn (E, T + 1), at the best choices.

    At every turn the agent proposes K candidates, greedy one first; from each the rest of the
    dialog is played with the very user and target, and the one that turns out best is shown. No
    agent could know that: it is what policy improvement takes its lessons from, and so the room
    that these K candidates leave. Words that are still to come may be drawn otherwise than in the
    roll-outs; of slates, K whole ones are compared.

    Args:
        agent: who asks, proposes and plays on.
        dialog: the rules.
        target: (E,).
        reference: (E,).
        policy: K, and how a roll-out is valued.
        seed: of the users' words, as in `agents.evaluation.run_dialogs`.
        batch_size: dialogs played together.
    """
    if dialog.slate > 1:
        policy = replace(policy, offer="slates")
    features = agent.here(dialog.gallery.features)
    live = dialog.with_(index=live_index(agent.eval(), features))
    players = Players(agent, agent, live)
    parts = []
    for begin in range(0, len(target), batch_size):
        rows = np.arange(begin, min(begin + batch_size, len(target)))
        chance = np.random.default_rng([seed, 19, begin])
        state = live.start(target[rows], reference[rows])
        found, memory = [state.found], None
        for turn in range(live.max_turns):
            state = live.listen(state, PairDraws(seed, turn, rows, len(target)))
            shown = agent.embed(features[state.reference])
            query, memory = agent.respond(shown, token_ids(agent, live, state), memory)
            asked = agent.asked(query).cpu().numpy()
            candidates = propose(players, state, asked, policy, chance)  # (B, K, k)
            score = look_ahead(
                players, state, candidates, asked, memory, live.max_turns - turn - 1, policy,
                chance,
            )  # fmt: skip
            best = candidates[np.arange(len(rows)), score.argmin(1)]
            gone = np.flatnonzero(live.left(state))
            after = show_chosen(live, state, best, asked)
            state = after.with_rows(gone, state.rows(gone)) if len(gone) else after
            found.append(found[-1] | state.found)
        parts.append(np.stack(found, axis=1))
    return np.concatenate(parts)
