"""Supervised pretraining: simulated dialogs whose target is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.tracker import DialogTracker
from envs.dialog import Dialog, DialogState, draw_pair
from retrieval.errors import unknown
from retrieval.index import ExactIndex
from retrieval.losses import in_batch_softmax, triplet_hinge

LOSSES = ("in_batch", "triplet")


@dataclass(frozen=True)
class Training:
    """What both ways of training share.

    Args:
        batch_size: dialogs advanced together (B).
        dialogs_per_epoch: dialogs in an epoch; batches are never cut short.
        turns: T of training dialogs.
        loss: "in_batch" (softmax over the batch's targets, learned scale) or "triplet"
            (published: one random negative).
        margin: of the triplet loss.
        seed: fixes the dialogs, the users' words and dropout, epoch by epoch.
    """

    batch_size: int = 128
    dialogs_per_epoch: int = 10_000
    turns: int = 5
    loss: str = "in_batch"
    margin: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.dialogs_per_epoch // self.batch_size)


class Step(NamedTuple):
    """What is reported after each batch."""

    batch: int
    loss: float
    ranks: np.ndarray  # (B, T + 1) under the agent as it is while training
    parts: dict[str, float]


Report = Callable[[Step], Any]


def pretrain_epoch(
    agent: DialogTracker,
    dialog: Dialog,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    how: Training,
) -> Iterator[Step]:
    """One epoch of supervised training; yields after each optimiser step.

    Guo et al., NeurIPS 2018, as released: in every turn of a simulated dialog the query is
    pulled to the target, the dialog goes on with the query's nearest image, and one step is
    taken per dialog through all its turns. Departures: the in-batch softmax (by default) in
    place of the triplet hinge; the gallery is embedded once per batch without gradient, which
    the choice of the next image does not need.
    """
    rng = epoch_rng(how.seed, epoch)
    features = torch.from_numpy(dialog.gallery.features)
    for batch in range(how.batches):
        agent.train()
        played = dialog.with_(index=live_index(agent, features), max_turns=how.turns)
        state = start_batch(played, how.batch_size, rng)
        target = agent.embed(features[state.target])
        memory = None
        losses, ranks = [], [state.rank]
        for _ in range(how.turns):
            state = played.listen(state, rng)
            reference = agent.embed(features[state.reference])
            query, memory = agent.respond(reference, token_ids(played, state), memory)
            losses.append(supervised_loss(agent, query, target, state, features, how, rng))
            state = played.show(state, agent.asked(query.detach()).numpy())
            ranks.append(state.rank)

        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
        optimizer.step()
        yield Step(batch, loss.item(), np.stack(ranks, axis=1), {})


def supervised_loss(
    agent: DialogTracker,
    query: Tensor,
    target: Tensor,
    state: DialogState,
    features: Tensor,
    how: Training,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of one turn's queries (B, D) against the embedded targets (B, D)."""
    if how.loss == "triplet":
        negative = features[torch.from_numpy(rng.integers(len(features), size=len(query)))]
        return triplet_hinge(query, target, agent.embed(negative), how.margin)
    scale = agent.scale.exp()
    return in_batch_softmax(query, target, scale, torch.from_numpy(state.target))


def start_batch(dialog: Dialog, size: int, rng: np.random.Generator) -> DialogState:
    """B new dialogs."""
    pairs = [draw_pair(rng, len(dialog.gallery)) for _ in range(size)]
    target, reference = np.array(pairs, dtype=np.int64).T
    return dialog.start(target, reference)


@torch.no_grad()
def live_index(agent: DialogTracker, features: Tensor) -> ExactIndex:
    """The gallery under the agent's present weights."""
    return ExactIndex(agent.searched(agent.embed(features)).numpy())


def token_ids(dialog: Dialog, state: DialogState) -> Tensor:
    """The captions' token ids (B, L)."""
    return torch.from_numpy(dialog.observe(state)["caption"])


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The epoch's own source of chance, so that a resumed run draws what it would have drawn."""
    torch.manual_seed(seed * 1_000_003 + epoch)
    return np.random.default_rng([seed, epoch])
