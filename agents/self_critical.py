"""Self-critical REINFORCE: play by chance, learn from what that gained over greedy play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.chances import gumbel
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
from retrieval import distributed
from retrieval.devices import to_host
from user_simulator.base import SharedDraws


@dataclass(frozen=True)
class SelfCritical:
    """How to play by chance and what to learn from it.

    Args:
        top_k: K images nearest to the query that chance chooses among.
        samples: dialogs played by chance beside each greedy one.
        temperature: of the softmax over the K scores, which the tracker's scale sharpens.
        weight: of the policy gradient beside the supervised loss.

    Raises:
        ValueError: fewer than 2 images to choose among, no sample, or no chance.
    """

    top_k: int = 8
    samples: int = 3
    temperature: float = 1.0
    weight: float = 0.3

    def __post_init__(self) -> None:
        if self.top_k < 2 or self.samples < 1 or self.temperature <= 0:
            raise ValueError(
                "expected at least 2 images, 1 sample and a temperature above 0, got "
                f"{self.top_k}, {self.samples} and {self.temperature}"
            )


class Play(NamedTuple):
    """Groups of 1 + S dialogs about the same targets, the first of each group played greedily."""

    ranks: np.ndarray  # (B (1 + S), T + 1) the targets' ranks under the queries
    gains: np.ndarray  # (B (1 + S), T) what each turn was worth
    chances: Tensor  # (B (1 + S), T) log-probabilities of what was shown
    supervised: Tensor  # mean loss of all queries


def self_critical_epoch(
    agent: DialogTracker,
    dialog: Dialog,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    how: Training,
    policy: SelfCritical,
) -> Iterator[Step]:
    r"""One epoch of self-critical training; yields after each optimiser step.

    Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017, carried over
    from words to images: the baseline of REINFORCE is what the same network reaches when it plays
    greedily.

    .. math:: L = -\sum_t (G_t - G^{greedy}_t) \log \pi(i_t), \quad
        G_t = \sum_{s \ge t} -\log_2 (1 + rank_s)

    The policy is a softmax over the K images nearest to the query; where slates are shown, their
    images are drawn from it one after another. A turn's outcome is that of its query, and nothing
    is lost any more once the target is on show. Departures: G_t counts
    from the turn of the choice on, not over the whole dialog, which a choice cannot change
    backwards; the users' chances are common to a group of dialogs, so that a difference is the
    choices' doing; advantages are divided by their standard deviation; the supervised loss stays
    on, as in `agents.policy_improvement`.

    Raises:
        ValueError: slates of more images than there are to choose among.
    """
    if policy.top_k < dialog.slate:
        raise ValueError(
            f"expected at least {dialog.slate} images to choose a slate of {dialog.slate} from, "
            f"got top_k={policy.top_k}"
        )
    distributed.share(agent)
    rng = epoch_rng(how.seed, epoch)
    draws = distributed.own_draws(rng)
    features = agent.here(dialog.gallery.features)
    for batch in range(how.batches):
        agent.train()
        live = dialog.with_(index=live_index(agent, features), max_turns=how.turns)
        play = play_groups(agent, live, start_batch(live, how.batch_size, rng), how, policy, draws)
        gains = distributed.gather_array(play.gains)  # (B (1 + S), T)
        advantage = advantages(gains, 1 + policy.samples)[distributed.own_rows(len(gains))]
        gradient = -(agent.here(advantage).float() * play.chances).mean()
        loss = play.supervised + policy.weight * gradient
        optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(agent)
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
        optimizer.step()
        grouped = gains.sum(1).reshape(how.batch_size, -1)
        by_chance = float((grouped[:, 1:].mean(1) - grouped[:, 0]).mean())
        greedy = distributed.gather_array(play.ranks)[:: 1 + policy.samples]
        (mean,) = distributed.average(loss.item())
        yield Step(batch, mean, greedy, {"gain_of_chance": by_chance})


def play_groups(
    agent: DialogTracker,
    dialog: Dialog,
    start: DialogState,
    how: Training,
    policy: SelfCritical,
    rng: np.random.Generator,
) -> Play:
    """Play each of B dialogs once greedily and S times by chance."""
    size = 1 + policy.samples
    is_greedy = np.arange(len(start.turn) * size) % size == 0
    state = start.rows(np.repeat(np.arange(len(start.turn)), size))
    features = agent.here(dialog.gallery.features)
    goal = agent.embed(features[state.target])
    shared = SharedDraws(rng, size)
    memory = None
    is_over = state.found
    ranks, gains, chances, losses = [state.rank], [], [], []
    for _ in range(how.turns):
        state = dialog.listen(state, shared)
        reference = agent.embed(features[state.reference])
        query, memory = agent.respond(reference, token_ids(agent, dialog, state), memory)
        loss = supervised_loss(agent, query, goal, state, features, how, rng, dialog.index)
        losses.append(loss)
        asked = to_host(agent.asked(query))
        offered = dialog.search(state, asked, policy.top_k)  # (B, K)
        logits = scores(agent, query, offered, features) / policy.temperature
        chosen = choose(logits, dialog.slate, is_greedy, rng)  # (B, k)
        gone = dialog.left(state)
        told = agent.here(~(is_over | gone)).float()  # what follows the end is no choice
        chances.append(log_chance(logits, agent.here(chosen)) * told)
        after = dialog.show_slate(state, np.take_along_axis(offered, chosen, axis=1), asked)
        stays = np.flatnonzero(gone)
        state = after.with_rows(stays, state.rows(stays)) if len(stays) else after
        is_over = is_over | state.found
        gains.append(np.where(is_over, 0.0, -np.log2(1.0 + state.rank)))
        ranks.append(state.rank)
    supervised = torch.stack(losses).mean()
    return Play(
        np.stack(ranks, axis=1), np.stack(gains, axis=1), torch.stack(chances, dim=1), supervised
    )


def scores(agent: DialogTracker, query: Tensor, candidates: np.ndarray, features: Tensor) -> Tensor:
    """Similarities (B, K) of queries to candidates, sharpened by the tracker's scale.

    The images rest: the gradient moves the queries alone.
    """
    with torch.no_grad():
        embedded = agent.searched(agent.embed(features[agent.here(candidates)]).flatten(0, 1))
    offered = embedded.unflatten(0, candidates.shape)  # (B, K, D)
    return agent.scale.exp().detach() * torch.einsum("bd,bkd->bk", agent.asked(query), offered)


def choose(
    logits: Tensor, count: int, is_greedy: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Columns (B, k) to show: the k best in greedy rows, drawn without replacement elsewhere."""
    noise = gumbel(tuple(logits.shape), rng)
    keys = to_host(logits) + np.where(is_greedy[:, None], 0.0, noise)
    return np.argsort(-keys, axis=1, kind="stable")[:, :count]


def log_chance(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probabilities (B,) of drawing the columns (B, k) in this order from logits (B, K)."""
    total = logits.new_zeros(len(logits))
    left = logits
    for column in chosen.T:
        picked = column[:, None]
        total = total + F.log_softmax(left, dim=-1).gather(1, picked)[:, 0]
        left = left.scatter(1, picked, -torch.inf)
    return total


def advantages(gains: np.ndarray, size: int) -> np.ndarray:
    """What was gained from each turn on over the greedy dialog of the group, scaled (B, T).

    Args:
        gains: per turn (B, T); rows of a group are neighbours, the greedy one first.
        size: rows of a group.
    """
    to_come = gains[:, ::-1].cumsum(axis=1)[:, ::-1]  # (B, T)
    greedy = np.repeat(to_come[::size], size, axis=0)
    lead = to_come - greedy
    spread = lead.std()
    return lead / spread if spread > 0 else lead
