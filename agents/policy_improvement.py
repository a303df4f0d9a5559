"""Policy improvement: look ahead over the top candidates, then imitate the best of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.supervised import (
    Step,
    Training,
    epoch_rng,
    live_index,
    start_batch,
    supervised_loss,
    token_ids,
)
from agents.tracker import DialogTracker
from envs.dialog import Dialog, DialogState
from retrieval.errors import unknown
from retrieval.losses import squared_distance
from user_simulator.base import Draws, SharedDraws

FORMS = ("improved", "published")


@dataclass(frozen=True)
class Improvement:
    """How to look ahead and what to learn from it.

    Args:
        form: "improved" or "published".
        top_k: K candidates that are looked ahead from.
        tau: temperature of the published softmax over squared distances.
        negatives: random negatives of the published softmax.
        rollouts: roll-outs per candidate, averaged (more than one pays with users who sample).
        weight: of the improved policy loss beside the supervised loss.
        depth: turns played in a roll-out at most; 0 plays to the end of the dialog.
    """

    form: str = "improved"
    top_k: int = 4
    tau: float = 0.2
    negatives: int = 5
    rollouts: int = 1
    weight: float = 0.3
    depth: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("improvement", self.form, FORMS)
        if self.top_k < 2 or self.rollouts < 1 or self.depth < 0:
            raise ValueError(
                "expected at least 2 candidates, 1 roll-out and a depth of 0 or more, got "
                f"{self.top_k}, {self.rollouts} and {self.depth}"
            )


class Players(NamedTuple):
    """The network that learns and the one that looks ahead, each with its dialogs' rules."""

    behaviour: DialogTracker
    target: DialogTracker
    ahead: Dialog  # searched by the target network


def target_copy(agent: DialogTracker) -> DialogTracker:
    """A frozen copy in eval mode that looks ahead."""
    target = copy.deepcopy(agent).eval()
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    return target


def freeze_images(agent: DialogTracker) -> None:
    """Keep the image space as it is, as the published form does."""
    image = agent.get_submodule("image")
    for parameter in image.parameters():
        parameter.requires_grad_(False)


def improve_epoch(
    agent: DialogTracker,
    target: DialogTracker,
    dialog: Dialog,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    how: Training,
    policy: Improvement,
) -> Iterator[Step]:
    """One epoch of policy improvement; yields after each optimiser step.

    Guo et al., "Dialog-based Interactive Image Retrieval", NeurIPS 2018, sec. 3.3. At every
    turn the target network proposes its top K candidates; from each it plays the rest of the
    dialog greedily with the simulated user, and the candidate with the best outcome becomes
    the label of the policy loss.

    The form "published" follows the released code: labels against random negatives by squared
    distance over `tau`, the squared distance to the target as regulariser, turns summed, the
    dialog goes on with the winner, the target network stays as it was given (pass the same one
    every epoch and `freeze_images` first).

    The form "improved" (default) departs in four ways: the softmax is over the K candidates
    themselves, whose order is what the look-ahead tells about; the supervised loss stays on as
    regulariser; roll-outs are scored by log2 rank, so that the top counts, and share their
    random numbers across candidates; the dialog goes on with the learner's own choice, so that
    it learns in the dialogs it will meet. Sync the target network before every epoch.
    """
    rng = epoch_rng(how.seed, epoch)
    features = torch.from_numpy(dialog.gallery.features)
    short = dialog.with_(max_turns=how.turns)
    players = Players(agent, target, short.with_(index=live_index(target, features)))
    for batch in range(how.batches):
        agent.train()
        live = short.with_(index=live_index(agent, features))
        state = start_batch(live, how.batch_size, rng)
        goal = agent.embed(features[state.target])  # (B, D)
        memory = target_memory = None
        losses, agreed, ranks = [], [], [state.rank]
        for turn in range(how.turns):
            # Both networks hear the user; the target network proposes.
            state = short.listen(state, rng)
            ids = token_ids(short, state)
            shown = features[state.reference]
            query, memory = agent.respond(agent.embed(shown), ids, memory)
            with torch.no_grad():
                proposal, target_memory = target.respond(target.embed(shown), ids, target_memory)
                found = players.ahead.index.look_up(
                    target.asked(proposal).numpy(), state.target, policy.top_k
                )

            # Look ahead from each candidate; the best outcome is the label.
            score = look_ahead(
                players, state, found.candidates, target_memory, how.turns - turn - 1, policy, rng
            )  # (B, K), smaller is better
            winner = score.argmin(axis=1)
            best = found.candidates[np.arange(len(winner)), winner]

            # Learn to ask for it, without forgetting the target.
            if policy.form == "published":
                losses.append(published_loss(agent, query, best, goal, features, policy, rng))
                after = live.show_image(state, best)
                asked = live.index.rank(agent.asked(query.detach()).numpy(), state.target)
                ranks.append(asked)
            else:
                regularizer = supervised_loss(agent, query, goal, state, features, how, rng)
                chosen = candidate_loss(agent, query, found.candidates, score, features)
                losses.append(regularizer + policy.weight * chosen)
                after = live.show(state, agent.asked(query.detach()).numpy())
                ranks.append(after.rank)
            agreed.append(float((winner == 0).mean()))
            state = after

        total = torch.stack(losses)
        loss = total.sum() if policy.form == "published" else total.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
        optimizer.step()
        parts = {"first_candidate_wins": float(np.mean(agreed))}
        yield Step(batch, loss.item(), np.stack(ranks, axis=1), parts)


@torch.no_grad()
def look_ahead(
    players: Players,
    state: DialogState,
    candidates: np.ndarray,
    memory: Tensor | None,
    turns_left: int,
    policy: Improvement,
    rng: Draws,
) -> np.ndarray:
    """Play on greedily from each candidate; returns the outcomes (B, K), smaller is better.

    All B x K roll-outs are one batch. As published, at least one turn is played, so that the
    last turn of a dialog has an outcome too. Outcomes are sums over the turns of the target's
    rank (published) or of log2(1 + rank) (improved), averaged over roll-outs. In the improved
    form a dialog ends well once the target is on show, as it does in the environment: the turns
    after that add nothing.
    """
    dialogs, count = candidates.shape
    turns = min(max(1, turns_left), policy.depth or max(1, turns_left))
    rows = np.repeat(np.arange(dialogs), count)
    score = np.zeros(dialogs * count)
    for _ in range(policy.rollouts):
        ahead = players.ahead.show_image(state.rows(rows), candidates.reshape(-1))
        recalled = None if memory is None else memory[torch.from_numpy(rows)]
        shared = SharedDraws(rng, count)
        going_on = ~ahead.found
        for _ in range(turns):
            ahead = players.ahead.listen(ahead, shared)
            reference = players.target.embed(
                torch.from_numpy(players.ahead.gallery.features[ahead.reference])
            )
            query, recalled = players.target.respond(
                reference, token_ids(players.ahead, ahead), recalled
            )
            ahead = players.ahead.show(ahead, players.target.asked(query).numpy())
            if policy.form == "published":
                score += ahead.rank
            else:
                score += going_on * np.log2(1.0 + ahead.rank)
                going_on &= ~ahead.found
    return score.reshape(dialogs, count)


def candidate_loss(
    agent: DialogTracker, query: Tensor, candidates: np.ndarray, score: np.ndarray, features: Tensor
) -> Tensor:
    """Cross-entropy of the winner among the K candidates under the learner's own scores.

    Rows whose outcomes are all equal teach nothing and are left out. (Weighting the rows by the
    winner's lead was tried and did worse: see the README.)
    """
    embedded = agent.searched(agent.embed(features[torch.from_numpy(candidates)]).flatten(0, 1))
    offered = embedded.unflatten(0, candidates.shape)  # (B, K, D)
    logits = agent.scale.exp() * torch.einsum("bd,bkd->bk", agent.asked(query), offered)
    label = torch.from_numpy(score.argmin(axis=1))
    told = torch.from_numpy(score.max(axis=1) > score.min(axis=1)).float()
    each = F.cross_entropy(logits, label, reduction="none")
    return (each * told).sum() / told.sum().clamp(min=1.0)


def published_loss(
    agent: DialogTracker,
    query: Tensor,
    best: np.ndarray,
    goal: Tensor,
    features: Tensor,
    policy: Improvement,
    rng: np.random.Generator,
) -> Tensor:
    """Softmax of the winner against random negatives, plus the squared distance to the target."""
    other = rng.integers(len(features), size=(len(best), policy.negatives))
    offered = agent.embed(features[torch.from_numpy(np.column_stack([best, other]))])  # (B, 1+n, D)
    logits = -squared_distance(query[:, None], offered) / policy.tau
    label = torch.zeros(len(best), dtype=torch.long)
    return F.cross_entropy(logits, label) + squared_distance(query, goal).mean()
