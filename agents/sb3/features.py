"""What a policy of Stable-Baselines3 makes of a dialog: a tracker's query, and what a critic needs.

A policy's action is the tracker's own answer: the mean of a Gaussian over queries is the composed
query, and the logits over candidates are their scores. So the policy starts as good as the
tracker, and every gradient goes through caption encoder, composer and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from agents.checkpoints import make_agent
from agents.policy_improvement import freeze_images
from agents.tracker import DialogTracker
from retrieval.text import Vocabulary


def make_tracker(spec: dict[str, Any], words: Sequence[str], feature_dim: int) -> DialogTracker:
    """A tracker with a frozen image space, which the index of the environment was made from."""
    tracker = make_agent(spec, Vocabulary(words), feature_dim)
    freeze_images(tracker)
    return tracker.eval()


def answer(tracker: DialogTracker, query: Tensor, candidates: Tensor | None) -> Tensor:
    """What a tracker's queries (B, D) come to as actions.

    Args:
        tracker: whose queries they are.
        query: (B, D).
        candidates: features (B, K, F) to choose from, or None where the action is a query.

    Returns:
        Queries as the index takes them, at unit norm so that they lie in the action space
        (B, D'); or the candidates' scores, sharpened by the tracker's scale, as logits (B, K).
    """
    asked = tracker.asked(query)
    if candidates is None:
        return F.normalize(asked, dim=-1)
    embedded = tracker.searched(tracker.embed(candidates).flatten(0, 1))
    offered = embedded.unflatten(0, candidates.shape[:2])  # (B, K, D')
    logits: Tensor = tracker.scale.exp() * torch.einsum("bd,bkd->bk", asked, offered)
    return logits


def respond_to_dialog(
    tracker: DialogTracker, references: Tensor, captions: Tensor, turn: Tensor
) -> tuple[Tensor, Any]:
    """Run a tracker from the first turn of B dialogs of different lengths.

    Args:
        tracker: starts without a memory.
        references: features (B, S, F) of what was on show.
        captions: token ids (B, S, L) of what was said.
        turn: the last slot of each dialog that counts (B,).

    Returns:
        The queries (B, D) after each dialog's last turn, and the memories then (None where the
        tracker keeps none).
    """
    shown = tracker.embed(references)  # (B, S, D)
    rows = torch.arange(len(turn), device=turn.device)
    queries, memories, ended = [], [], []
    memory: Any = None
    for slot in range(int(turn.max()) + 1):
        query, memory = tracker.respond(shown[rows, slot], captions[rows, slot], memory)
        ends = turn[rows] == slot
        queries.append(query[ends])
        ended.append(rows[ends])
        rows = rows[~ends]
        if memory is not None:
            memories.append(memory[ends])
            memory = memory[~ends]
    order = torch.cat(ended).argsort()
    return torch.cat(queries)[order], torch.cat(memories)[order] if memories else None


class DialogFeatures(BaseFeaturesExtractor):
    """A tracker over the whole dialog: its answer (A,), then what a critic may want to know.

    Args:
        observation_space: of `DialogHistory`.
        spec: of the tracker, as `agents.checkpoints.make_agent` takes it.
        words: of its vocabulary.

    Attributes:
        tracker: the network whose answer the action is.
        actions: A, how many of the features are the answer.
    """

    def __init__(
        self, observation_space: spaces.Dict, spec: dict[str, Any], words: Sequence[str]
    ) -> None:
        nn.Module.__init__(self)  # the number of features is known once the tracker is made
        references = observation_space["references"].shape
        assert references is not None
        self.turns = references[0]
        tracker = make_tracker(spec, words, references[1])
        with torch.no_grad():
            blank = {
                key: torch.zeros((2, *space.shape))  # type: ignore[misc]
                for key, space in observation_space.spaces.items()
            }
            head, context = self._look(tracker, blank)
        super().__init__(observation_space, head.shape[1] + context.shape[1])
        self.tracker = tracker
        self.actions = head.shape[1]

    def train(self, mode: bool = True) -> DialogFeatures:
        """The tracker stays in eval mode: a policy gradient compares the policy with itself.

        With dropout or statistics of the batch the probability of an action would change
        between playing and learning with no weight changed.
        """
        super().train(mode)
        self.tracker.eval()
        return self

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Answer and context (B, A + C)."""
        return torch.cat(self._look(self.tracker, observation), dim=-1)

    def _look(
        self, tracker: DialogTracker, observation: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        turn = observation["turn"][:, 0].long()
        references, captions = observation["references"], observation["captions"].long()
        query, memory = respond_to_dialog(tracker, references, captions, turn)
        candidates = observation.get("candidates")
        if candidates is not None:
            candidates = candidates.unflatten(1, (-1, references.shape[-1]))  # (B, K, F)
        head = answer(tracker, query, candidates)
        return head, context_of(query, memory, turn, self.turns)


def context_of(query: Tensor, memory: Any, turn: Tensor, turns: int) -> Tensor:
    """What a critic reads (B, C): the query, the turn, and a memory that is one vector."""
    parts = [query, F.one_hot(turn, turns).float()]
    if isinstance(memory, Tensor) and memory.ndim == 2:
        parts.append(memory)
    return torch.cat(parts, dim=-1)
