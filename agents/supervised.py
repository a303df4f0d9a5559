"""Supervised pretraining: simulated dialogs whose target is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.tracker import DialogTracker
from envs.dialog import CAPTION_LENGTH, Dialog, DialogState, draw_pair
from retrieval import distributed
from retrieval.devices import CPU, to_host
from retrieval.errors import unknown
from retrieval.gallery import Gallery, Triplet
from retrieval.index import ExactIndex, Index
from retrieval.indexes.on_device import DeviceIndex
from retrieval.losses import in_batch_softmax, triplet_hinge

LOSSES = ("in_batch", "hard_negatives", "gallery", "triplet")
WARM_UP = 1_000_000  # its place among the epochs, as far as chance is concerned
WARM_UP_BATCH = 64


@dataclass(frozen=True)
class Training:
    """What both ways of training share.

    Args:
        batch_size: dialogs advanced together (B), by all processes (`retrieval.distributed`).
        dialogs_per_epoch: dialogs in an epoch; batches are never cut short.
        turns: T of training dialogs.
        loss: "in_batch" (softmax over the batch's targets and images on show, learned scale),
            "hard_negatives" (over these and the wrong image nearest to each query), "gallery"
            (over all images) or "triplet" (published: one random negative).
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


class Pair(NamedTuple):
    """What B dialogs are about at one turn: rows of the gallery."""

    target: np.ndarray  # (B,)
    reference: np.ndarray  # (B,)


class Step(NamedTuple):
    """What is reported after each batch."""

    batch: int
    loss: float
    ranks: np.ndarray  # (B, T + 1) under the agent as it is while training
    parts: dict[str, float]


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
    place of the triplet hinge, with the images on show as further negatives; the gallery is
    embedded once per batch without gradient, which the choice of the next image does not need.
    """
    distributed.share(agent)
    rng = epoch_rng(how.seed, epoch)
    draws = distributed.own_draws(rng)
    features = agent.here(dialog.gallery.features)
    for batch in range(how.batches):
        agent.train()
        played = dialog.with_(index=live_index(agent, features), max_turns=how.turns)
        state = start_batch(played, how.batch_size, rng)
        target = agent.embed(features[state.target])
        memory = None
        losses, ranks = [], [state.rank]
        for _ in range(how.turns):
            state = played.listen(state, draws)
            reference = agent.embed(features[state.reference])
            query, memory = agent.respond(reference, token_ids(agent, played, state), memory)
            loss = supervised_loss(agent, query, target, state, features, how, draws, played.index)
            losses.append(loss)
            state = played.show(state, to_host(agent.asked(query)))
            ranks.append(state.rank)

        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(agent)
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
        optimizer.step()
        (mean,) = distributed.average(loss.item())
        yield Step(batch, mean, distributed.gather_array(np.stack(ranks, axis=1)), {})


def warm_up(
    agent: DialogTracker,
    gallery: Gallery,
    triplets: Sequence[Triplet],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    how: Training,
) -> Iterator[float]:
    """Training on a split's own relative captions, before any dialog; yields losses.

    Captions of one target, in the order of how near their references come to it, make a dialog
    that nobody had to simulate (`chains`). So words and memory are learnt here first; simulated
    dialogs then teach what the agent's own replies lead to. Not part of the published training.
    """
    distributed.share(agent)
    rng = epoch_rng(how.seed, WARM_UP)
    draws = distributed.own_draws(rng)
    features = agent.here(gallery.features)
    ids = agent.here(
        agent.vocabulary.encode([triplet.caption for triplet in triplets], CAPTION_LENGTH)
    )
    pairs = np.array([(triplet.reference, triplet.target) for triplet in triplets])
    agent.train()
    for _ in range(epochs):
        dialogs = chains(pairs, gallery.features, how.turns, rng)  # (M, T)
        size = distributed.even(min(WARM_UP_BATCH, len(dialogs)))
        for begin in range(0, len(dialogs) - size + 1, size):
            batch = dialogs[begin : begin + size][distributed.own_rows(size)]
            target = pairs[batch[:, 0], 1]
            goal = agent.embed(features[target])
            memory = None
            losses = []
            for rows in batch.T:
                reference = agent.embed(features[pairs[rows, 0]])
                query, memory = agent.respond(reference, ids[rows], memory)
                pair = Pair(target, pairs[rows, 0])
                losses.append(supervised_loss(agent, query, goal, pair, features, how, draws))
            loss = torch.stack(losses).mean()
            optimizer.zero_grad()
            loss.backward()
            distributed.average_gradients(agent)
            torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
            optimizer.step()
            yield distributed.average(loss.item())[0]


def warm_up_steps(triplets: Sequence[Triplet], turns: int) -> int:
    """How many losses one epoch of `warm_up` yields."""
    captions = Counter(triplet.target for triplet in triplets)
    dialogs = sum(-(-count // turns) for count in captions.values())
    return dialogs // distributed.even(min(WARM_UP_BATCH, dialogs))


def chains(
    pairs: np.ndarray, features: np.ndarray, turns: int, rng: np.random.Generator
) -> np.ndarray:
    """Dialogs (M, T) of rows of `pairs` that share a target, the farthest reference first.

    Args:
        pairs: images (S, 2) = reference, target.
        features: of the gallery, unit-norm rows (N, F).
        turns: T. A target's captions fill as many dialogs as they can; what is left over is
            filled up with captions of the same target drawn again.
        rng: for the order, within a target and of the dialogs.
    """
    order = rng.permutation(len(pairs))
    order = order[np.argsort(pairs[order, 1], kind="stable")]  # by target, shuffled inside
    starts = np.flatnonzero(np.diff(pairs[order, 1], prepend=-1))
    dialogs = []
    for rows in np.split(order, starts[1:]):
        lacking = -len(rows) % turns
        rows = np.concatenate([rows, rng.choice(rows, size=lacking)])
        dialogs.append(rows.reshape(-1, turns))
    chained = rng.permutation(np.concatenate(dialogs))  # (M, T)
    nearness = np.einsum("sf,sf->s", features[pairs[:, 0]], features[pairs[:, 1]])
    return np.take_along_axis(chained, np.argsort(nearness[chained], axis=1), axis=1)


def supervised_loss(
    agent: DialogTracker,
    query: Tensor,
    target: Tensor,
    about: Pair | DialogState,
    features: Tensor,
    how: Training,
    rng: np.random.Generator,
    index: Index | None = None,
) -> Tensor:
    """The loss of one turn's queries (B, D) against the embedded targets (B, D).

    In the in-batch softmax the images on show are negatives too: a user who still speaks has
    not been shown the target, and a query made from the image on show lies nearest to it, so
    that without them the agent shows the same image again. Hard negatives are found in the
    `index`; where there is none (warm-up) there are none. The negatives of other processes are
    negatives here too.
    """
    if how.loss == "triplet":
        drawn = features[agent.here(rng.integers(len(features), size=len(query)))]
        return triplet_hinge(query, target, agent.embed(drawn), how.margin)
    if how.loss == "gallery":
        logits = agent.scale.exp() * query @ agent.embed(features).T  # (B, N)
        return F.cross_entropy(logits, agent.here(about.target))
    negative = about.reference
    if how.loss == "hard_negatives" and index is not None:
        hard = nearest_wrong(index, to_host(agent.asked(query)), about.target)
        negative = np.concatenate([negative, hard])
    chosen, own = agent.here(negative), agent.here(about.target)
    offered = agent.embed(features[chosen])
    others = distributed.elsewhere(torch.cat([target, offered]))
    ids = distributed.elsewhere(torch.cat([own, chosen]))
    return in_batch_softmax(
        query, target, agent.scale.exp(), own,
        torch.cat([offered, others]), torch.cat([chosen, ids]),
    )  # fmt: skip


def nearest_wrong(index: Index, query: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The images (B,) nearest to queries (B, D) that are not their targets (B,)."""
    near = index.search(query, 2)
    wrong: np.ndarray = np.where(near[:, 0] == target, near[:, 1], near[:, 0])
    return wrong


def start_batch(dialog: Dialog, size: int, rng: np.random.Generator) -> DialogState:
    """B new dialogs; of several processes each has its own of them."""
    pairs = [draw_pair(rng, len(dialog.gallery)) for _ in range(size)]
    target, reference = np.array(pairs, dtype=np.int64)[distributed.own_rows(size)].T
    return dialog.start(target, reference)


@torch.no_grad()
def live_index(agent: DialogTracker, features: Tensor) -> Index:
    """The gallery under the agent's present weights; it stays on the agent's device."""
    embeddings = agent.searched(agent.embed(features))
    return ExactIndex(embeddings.numpy()) if features.device == CPU else DeviceIndex(embeddings)


def token_ids(agent: DialogTracker, dialog: Dialog, state: DialogState) -> Tensor:
    """The captions' token ids (B, L), on the agent's device."""
    return agent.here(dialog.observe(state)["caption"])


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The epoch's own source of chance, so that a resumed run draws what it would have drawn."""
    distributed.seed_dropout(seed * 1_000_003 + epoch)
    return np.random.default_rng([seed, epoch])
