"""Look-ahead: what could be shown next, and how the dialog would go on from each of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.chances import draw_columns
from agents.supervised import token_ids
from agents.tracker import DialogTracker
from envs.dialog import Dialog, DialogState
from envs.slates import POOL
from retrieval.devices import to_host
from retrieval.errors import unknown
from user_simulator.base import Draws, SharedDraws

FORMS = ("improved", "published")
OUTCOMES = ("turns", "end", "finding", "target")
OFFERS = ("images", "slates")


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
        outcome: what a roll-out is worth: "turns" sums over its turns, "end" takes the last one,
            "finding" adds one for each turn that the target was not yet on show before it, so
            that it is better found now than in the next turn; "target" plays none, whatever
            `depth` and `rollouts` say: 0 for candidates that show the target, 1 for all others.
        pool: candidates beyond the nearest K: half of them are drawn from the nearest `pool`
            images, likelier ones more often; 0 takes the nearest K.
        offer: where slates are shown, what a candidate is: "images" looks ahead from images shown
            alone, and so learns which ones to put on the slate; "slates" from the greedy slate
            and others drawn from 8 images for each place.
        images_rest: the policy loss moves the queries alone, not the embeddings of the images it
            compares.

    Raises:
        ValueError: an unknown form, outcome or offer, or numbers that leave nothing to compare.
    """

    form: str = "improved"
    top_k: int = 4
    tau: float = 0.2
    negatives: int = 5
    rollouts: int = 1
    weight: float = 25.0
    depth: int = 0
    outcome: str = "turns"
    pool: int = 0
    offer: str = "images"
    images_rest: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("improvement", self.form, FORMS)
        if self.outcome not in OUTCOMES:
            raise unknown("outcome", self.outcome, OUTCOMES)
        if self.offer not in OFFERS:
            raise unknown("offer", self.offer, OFFERS)
        if self.top_k < 2 or self.rollouts < 1 or self.depth < 0:
            raise ValueError(
                "expected at least 2 candidates, 1 roll-out and a depth of 0 or more, got "
                f"{self.top_k}, {self.rollouts} and {self.depth}"
            )
        if self.pool and self.pool < self.top_k:
            raise ValueError(
                f"expected a pool of at least the {self.top_k} candidates, or 0, got {self.pool}"
            )


class Players(NamedTuple):
    """The network that learns and the one that looks ahead, each with its dialogs' rules."""

    behaviour: DialogTracker
    target: DialogTracker
    ahead: Dialog  # searched by the target network


def propose(
    players: Players,
    state: DialogState,
    query: np.ndarray,
    policy: Improvement,
    rng: np.random.Generator,
) -> np.ndarray:
    """What might be shown in answer to queries (B, D): K slates (B, K, k), the greedy one first.

    Images are the nearest K, or half of them where `policy.pool` says to look beyond. The others,
    and slates, are drawn without replacement from the target network's softmax over a pool of the
    nearest. Images that must not be shown again are in none.
    """
    ahead = players.ahead
    shown = ahead.slate if policy.offer == "slates" else 1
    if shown == 1 and not policy.pool:
        return ahead.search(state, query, policy.top_k)[:, :, None]
    wide = max(policy.pool, policy.top_k, POOL * shown if shown > 1 else 0)
    near = ahead.search(state, query, wide)  # (B, M)
    logits = players.target.scale.exp().item() * np.einsum(
        "bd,bmd->bm", query, ahead.index.query_of(near.reshape(-1)).reshape(*near.shape, -1)
    )
    logits = np.where(state.was_shown(near), -np.inf, logits)  # a small gallery runs out
    if shown == 1:
        kept = -(-policy.top_k // 2)
        beyond = draw_columns(logits[:, kept:], policy.top_k - kept, rng) + kept
        first = np.tile(np.arange(kept), (len(near), 1))
        columns = np.concatenate([first, beyond], axis=1)[:, :, None]  # (B, K, 1)
    else:
        drawn = [draw_columns(logits, shown, rng) for _ in range(policy.top_k - 1)]
        columns = np.stack([np.tile(np.arange(shown), (len(near), 1)), *drawn], axis=1)
    chosen: np.ndarray = near[np.arange(len(near))[:, None, None], columns]
    return chosen


@torch.no_grad()
def look_ahead(
    players: Players,
    state: DialogState,
    slates: np.ndarray,
    query: np.ndarray,
    memory: Tensor | None,
    turns_left: int,
    policy: Improvement,
    rng: Draws,
) -> np.ndarray:
    """Play on greedily from each candidate; returns the outcomes (B, K), smaller is better.

    With the outcome "target" nothing is played: see `Improvement`. Else:

    All B x K roll-outs are one batch. As published, at least one turn is played, so that the
    last turn of a dialog has an outcome too. Outcomes are sums over the turns (or the last one,
    by `policy.outcome`) of the target's rank (published) or of log2(1 + rank) (improved),
    averaged over roll-outs. In the improved form a dialog ends well once the target is on show,
    as it does in the environment: the turns after that add nothing. One whose user lost patience
    ends badly: the rank it was left with counts for all the turns that are missing.

    Args:
        players: who looks ahead.
        state: B dialogs whose users have spoken.
        slates: candidates (B, K, k).
        query: what is asked for (B, D); ranks are by it until the next turn.
        memory: the target network's, after the words.
        turns_left: of the dialog, once a candidate was shown.
        policy: how far to look.
        rng: the users' chances, common to the candidates of a dialog.
    """
    dialogs, count = slates.shape[:2]
    if policy.outcome == "target":
        return (slates != state.target[:, None, None]).all(2).astype(float)
    turns = min(max(1, turns_left), policy.depth or max(1, turns_left))
    rows = np.repeat(np.arange(dialogs), count)
    score = np.zeros(dialogs * count)
    for _ in range(policy.rollouts):
        ahead = show_chosen(
            players.ahead, state.rows(rows), slates.reshape(len(rows), -1), query[rows]
        )
        recalled = None if memory is None else memory[players.target.here(rows)]
        shared = SharedDraws(rng, count)
        found, left = ahead.found, players.ahead.left(ahead)
        for turn in range(turns):
            before = ahead
            ahead, recalled = _answer(players, players.ahead.listen(ahead, shared), recalled)
            if len(gone := np.flatnonzero(left)):
                ahead = ahead.with_rows(gone, before.rows(gone))
            worth = policy.outcome != "end" or turn == turns - 1
            if policy.form == "published":
                score += worth * ahead.rank
            else:
                late = policy.outcome == "finding"
                score += worth * np.where(found, 0.0, late + np.log2(1.0 + ahead.rank))
            found = found | ahead.found
            left = left | players.ahead.left(ahead)
    return score.reshape(dialogs, count)


def show_chosen(
    dialog: Dialog, state: DialogState, slate: np.ndarray, query: np.ndarray
) -> DialogState:
    """Show slates (B, k), or images (B, 1) alone; ranks are by queries (B, D)."""
    if slate.shape[1] == 1:
        return dialog.show_image(state, slate[:, 0], query)
    return dialog.show_slate(state, slate, query)


def _answer(
    players: Players, state: DialogState, memory: Tensor | None
) -> tuple[DialogState, Tensor | None]:
    """The target network's reply to what the users said, and its memory."""
    features = players.ahead.gallery.features[state.reference]
    reference = players.target.embed(players.target.here(features))
    ids = token_ids(players.target, players.ahead, state)
    query, memory = players.target.respond(reference, ids, memory)
    return players.ahead.show(state, to_host(players.target.asked(query))), memory
