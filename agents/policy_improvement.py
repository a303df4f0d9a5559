"""Policy improvement: look ahead over the top candidates, then imitate the best of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.look_ahead import Improvement, Players, look_ahead, propose
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
from envs.dialog import Dialog
from retrieval import distributed
from retrieval.devices import to_host
from retrieval.losses import squared_distance


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

    Raises:
        ValueError: the published form with slates.
    """
    if policy.form == "published" and dialog.slate > 1:
        raise ValueError(
            "the published form shows one image per turn; use the improved one for slates"
        )
    distributed.share(agent)
    rng = epoch_rng(how.seed, epoch)
    draws = distributed.own_draws(rng)
    features = agent.here(dialog.gallery.features)
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
            state = short.listen(state, draws)
            ids = token_ids(agent, short, state)
            shown = features[state.reference]
            query, memory = agent.respond(agent.embed(shown), ids, memory)
            with torch.no_grad():
                proposal, target_memory = target.respond(target.embed(shown), ids, target_memory)
            asked = to_host(target.asked(proposal))
            candidates = propose(players, state, asked, policy, draws)  # (B, K, k)

            # Look ahead from each candidate; the best outcome is the label.
            score = look_ahead(
                players, state, candidates, asked, target_memory, how.turns - turn - 1, policy,
                draws,
            )  # (B, K), smaller is better  # fmt: skip
            winner = score.argmin(axis=1)

            # Learn to ask for it, without forgetting the target.
            if policy.form == "published":
                best = candidates[np.arange(len(winner)), winner, 0]
                losses.append(published_loss(agent, query, best, goal, features, policy, draws))
                after = live.show_image(state, best)
                ranks.append(live.index.rank(to_host(agent.asked(query)), state.target))
            else:
                regularizer = supervised_loss(
                    agent, query, goal, state, features, how, draws, live.index
                )
                chosen = candidate_loss(
                    agent, query, candidates, score, features, policy.images_rest
                )
                losses.append(regularizer + policy.weight * chosen)
                after = live.show(state, to_host(agent.asked(query)))
                ranks.append(after.rank)
            agreed.append(float((winner == 0).mean()))
            state = after

        total = torch.stack(losses)
        loss = total.sum() if policy.form == "published" else total.mean()
        optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(agent)
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 5.0)
        optimizer.step()
        mean, agreed_mean = distributed.average(loss.item(), float(np.mean(agreed)))
        parts = {"first_candidate_wins": agreed_mean}
        yield Step(batch, mean, distributed.gather_array(np.stack(ranks, axis=1)), parts)


def candidate_loss(
    agent: DialogTracker,
    query: Tensor,
    candidates: np.ndarray,
    score: np.ndarray,
    features: Tensor,
    images_rest: bool = False,
) -> Tensor:
    """Cross-entropy of the winner among the K candidates under the learner's own scores.

    The score of a slate is the sum of its images' scores; candidates are slates (B, K, k). Rows
    whose outcomes are all equal teach nothing and are left out. With `images_rest` only the query
    gets a gradient.
    """
    embedded = agent.searched(agent.embed(features[agent.here(candidates)]).flatten(0, 2))
    offered = embedded.unflatten(0, candidates.shape).sum(2)  # (B, K, D)
    offered = offered.detach() if images_rest else offered
    logits = agent.scale.exp() * torch.einsum("bd,bkd->bk", agent.asked(query), offered)
    label = agent.here(score.argmin(axis=1))
    told = agent.here(score.max(axis=1) > score.min(axis=1)).float()
    each = F.cross_entropy(logits, label, reduction="none")
    mean = (each * told).sum() / told.sum().clamp(min=1.0)
    return distributed.weight(told.sum().item()) * mean


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
    offered = agent.embed(features[agent.here(np.column_stack([best, other]))])  # (B, 1+n, D)
    logits = -squared_distance(query[:, None], offered) / policy.tau
    label = torch.zeros(len(best), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, label) + squared_distance(query, goal).mean()
