"""Both trainings of the dialog agent the straightforward way, for comparison.

What the system of 2018 does (Guo et al., NeurIPS 2018), in the manner of its released code: the
gallery is embedded anew in every batch, in pieces of 64; a loop over the rows of a batch measures
all distances, takes the nearest images and counts those nearer than the target; the captioner is
that of `benchmarks/plain_captioner.py`; candidates are looked ahead one by one. The draws are
those of `agents.supervised` and `agents.policy_improvement`, so that the losses should be the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.policy_improvement import Improvement
from agents.supervised import Training, epoch_rng
from agents.tracker import DialogTracker
from benchmarks.plain_captioner import decode_plainly
from envs.dialog import CAPTION_LENGTH, Dialog, draw_pair
from user_simulator.captioner import NeuralUser

PIECE = 64  # images embedded together
Batch = tuple[float, np.ndarray]  # the loss, and the targets' ranks (B, T)


class PlainWorld:
    """A gallery and a greedy neural user, as the plain training sees them.

    Args:
        dialog: with a neural user that does not sample.
    """

    def __init__(self, dialog: Dialog):
        assert isinstance(dialog.user, NeuralUser) and dialog.gallery.grids is not None
        self.features = torch.from_numpy(dialog.gallery.features)
        self.grids = torch.from_numpy(dialog.gallery.grids.astype(np.float32))
        self.captioner = dialog.user.captioner
        self.vocabulary = dialog.vocabulary

    def hear(self, reference: Tensor, target: Tensor) -> Tensor:
        """Token ids (B, L) of what the user says of references and targets (B,)."""
        ids = decode_plainly(self.captioner, self.features, self.grids, reference, target)
        captions = [self.captioner.vocabulary.decode(row) for row in ids.tolist()]
        return torch.from_numpy(self.vocabulary.encode(captions, CAPTION_LENGTH))

    def pairs(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Targets and first references (B,)."""
        drawn = [draw_pair(rng, len(self.features)) for _ in range(size)]
        target, reference = torch.tensor(drawn).T
        return target, reference

    @torch.no_grad()
    def embedded(self, agent: DialogTracker) -> Tensor:
        """The gallery under an agent's weights (N, D), piece by piece."""
        return torch.cat([agent.embed(piece) for piece in self.features.split(PIECE)])


def rank_rows(
    gallery: Tensor, query: Tensor, target: Tensor, count: int
) -> tuple[Tensor, np.ndarray]:
    """The nearest images (B, count) and the targets' ranks (B,), row by row."""
    nearest, ranks = [], []
    for row in range(len(query)):
        distance = (gallery - query[row]).square().sum(1)  # (N,)
        nearest.append(distance.argsort()[:count])
        ranks.append(int((distance < distance[target[row]]).sum()))
    return torch.stack(nearest), np.array(ranks)


def step(optimizer: torch.optim.Optimizer, agent: DialogTracker, loss: Tensor) -> None:
    """One step of the optimiser, clipped as the project does."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
    optimizer.step()


def pretrain_plainly(
    agent: DialogTracker,
    world: PlainWorld,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    how: Training,
) -> Iterator[Batch]:
    """Supervised training with the triplet loss; yields after each step of the optimiser."""
    rng = epoch_rng(how.seed, epoch)
    for _ in range(how.batches):
        agent.train()
        gallery = world.embedded(agent)
        target, reference = world.pairs(how.batch_size, rng)
        memory, losses, ranks = None, [], []
        for _ in range(how.turns):
            ids = world.hear(reference, target)
            shown = agent.embed(world.features[reference])
            query, memory = agent.respond(shown, ids, memory)
            negative = torch.from_numpy(rng.integers(len(gallery), size=len(query)))
            near = (query - agent.embed(world.features[target])).square().sum(1)
            far = (query - agent.embed(world.features[negative])).square().sum(1)
            losses.append((near - far + how.margin).clamp(min=0).mean())
            nearest, rank = rank_rows(gallery, query.detach(), target, 1)
            reference = nearest[:, 0]
            ranks.append(rank)
        loss = torch.stack(losses).mean()
        step(optimizer, agent, loss)
        yield loss.item(), np.stack(ranks, axis=1)


def improve_plainly(
    agent: DialogTracker,
    helper: DialogTracker,
    world: PlainWorld,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    how: Training,
    policy: Improvement,
) -> Iterator[Batch]:
    """Policy improvement in the published form; yields after each step of the optimiser."""
    rng = epoch_rng(how.seed, epoch)
    for _ in range(how.batches):
        agent.train()
        gallery, own = world.embedded(helper), world.embedded(agent)
        target, reference = world.pairs(how.batch_size, rng)
        memory, helper_memory, losses, ranks = None, None, [], []
        for turn in range(how.turns):
            ids = world.hear(reference, target)
            shown = world.features[reference]
            query, memory = agent.respond(agent.embed(shown), ids, memory)
            with torch.no_grad():
                proposal, helper_memory = helper.respond(helper.embed(shown), ids, helper_memory)
                nearest, _ = rank_rows(gallery, proposal, target, policy.top_k)  # (B, K)
                scores = [
                    play_on(
                        helper,
                        world,
                        gallery,
                        nearest[:, place],
                        target,
                        helper_memory,
                        how.turns - turn - 1,
                    )
                    for place in range(policy.top_k)
                ]
            winner = torch.from_numpy(np.stack(scores, axis=1).argmin(1))
            best = nearest[torch.arange(len(winner)), winner]
            losses.append(_improved(agent, world, query, best, target, policy, rng))
            ranks.append(rank_rows(own, query.detach(), target, 1)[1])
            reference = best
        loss = torch.stack(losses).sum()
        step(optimizer, agent, loss)
        yield loss.item(), np.stack(ranks, axis=1)


def play_on(
    helper: DialogTracker,
    world: PlainWorld,
    gallery: Tensor,
    reference: Tensor,
    target: Tensor,
    memory: Tensor | None,
    turns_left: int,
) -> np.ndarray:
    """Summed ranks (B,) of the turns after one candidate each (B,) is shown."""
    score = np.zeros(len(target))
    for _ in range(max(1, turns_left)):
        ids = world.hear(reference, target)
        query, memory = helper.respond(helper.embed(world.features[reference]), ids, memory)
        nearest, rank = rank_rows(gallery, query, target, 1)
        reference = nearest[:, 0]
        score += rank
    return score


def _improved(
    agent: DialogTracker,
    world: PlainWorld,
    query: Tensor,
    best: Tensor,
    target: Tensor,
    policy: Improvement,
    rng: np.random.Generator,
) -> Tensor:
    """Softmax of the winner against random images, row by row, and the distance to the target."""
    drawn = rng.integers(len(world.features), size=(len(best), policy.negatives))
    other = torch.from_numpy(drawn)
    losses = []
    for row in range(len(query)):
        images = torch.cat([best[row : row + 1], other[row]])
        offered = agent.embed(world.features[images])  # (1 + n, D)
        logits = -(query[row] - offered).square().sum(1) / policy.tau
        losses.append(-F.log_softmax(logits, dim=0)[0])
    goal = agent.embed(world.features[target])
    return torch.stack(losses).mean() + (query - goal).square().sum(1).mean()
