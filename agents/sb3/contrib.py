"""Policies for sb3-contrib: MaskablePPO over candidates, RecurrentPPO with a tracker's memory.

Needs sb3-contrib, so nothing imports this file before such a model is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentMultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.sb3.features import DialogFeatures, answer, context_of, make_tracker
from agents.sb3.policies import AnswerAndValue, Answering, make_optimizer
from agents.tracker import DialogTracker


class DialogMaskablePolicy(Answering, MaskableMultiInputActorCriticPolicy):
    """MaskablePPO's: a softmax over the candidates that `DialogHistory.action_masks` leaves."""

    def __init__(self, *args: Any, **options: Any):
        options = {"features_extractor_class": DialogFeatures, "ortho_init": False, **options}
        super().__init__(*args, **options)


class TurnFeatures(BaseFeaturesExtractor):
    """The present turn as one row: reference, caption ids, turn, and candidates if any."""

    def __init__(self, observation_space: spaces.Dict):
        self.sizes = {key: space.shape[0] for key, space in observation_space.spaces.items()}  # type: ignore[index]
        super().__init__(observation_space, sum(self.sizes.values()))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """(B, sum of the sizes), in the order of `sizes`."""
        return torch.cat([observation[key] for key in self.sizes], dim=-1)


class TrackerMemory(nn.Module):
    """A tracker in the place of RecurrentPPO's LSTM: its memory is the hidden state.

    Takes and gives what `nn.LSTM` does; the cell state passes through unchanged. The output is
    the tracker's answer and the critic's context, as of `DialogFeatures`.

    Args:
        tracker: one whose memory is a vector per dialog that starts at 0, or that has none.
        sizes: of the parts of a row of `TurnFeatures`.
        turns: T + 1.

    Raises:
        ValueError: a memory of another form.
    """

    num_layers = 1

    def __init__(self, tracker: DialogTracker, sizes: dict[str, int], turns: int):
        super().__init__()
        self.tracker = tracker
        self.sizes = sizes
        self.turns = turns
        self.input_size = sum(sizes.values())
        with torch.no_grad():
            captions = torch.zeros((2, sizes["caption"]), dtype=torch.long)
            blank = tracker.embed(torch.zeros((2, sizes["reference"])))
            _, memory = tracker.respond(blank, captions, None)
        if memory is not None and not (isinstance(memory, Tensor) and memory.ndim == 2):
            raise ValueError(
                "RecurrentPPO keeps one vector per dialog, which this tracker's memory is not; "
                "train it with PPO, which reads the whole dialog"
            )
        self.remembers = memory is not None
        self.hidden_size = 1 if memory is None else memory.shape[1]
        with torch.no_grad():
            head, context = self._turn(torch.zeros((2, self.input_size)), self._nothing(2))[:2]
        self.actions, self.output_size = head.shape[1], head.shape[1] + context.shape[1]

    def train(self, mode: bool = True) -> TrackerMemory:
        """The tracker stays in eval mode, see `DialogFeatures.train`."""
        super().train(mode)
        self.tracker.eval()
        return self

    def forward(
        self, rows: Tensor, states: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Rows (L, B, input), states (1, B, H) twice; outputs (L, B, A + C) and the states."""
        hidden, cell = states[0][0], states[1]
        outputs = []
        for row in rows:
            head, context, hidden = self._turn(row, hidden)
            outputs.append(torch.cat([head, context], dim=-1))
        return torch.stack(outputs), (hidden[None], cell)

    def _turn(self, row: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = dict(zip(self.sizes, row.split(list(self.sizes.values()), dim=-1), strict=True))
        reference = self.tracker.embed(parts["reference"])
        query, memory = self.tracker.respond(
            reference, parts["caption"].long(), hidden if self.remembers else None
        )
        candidates = parts.get("candidates")
        if candidates is not None:
            candidates = candidates.unflatten(1, (-1, self.sizes["reference"]))  # (B, K, F)
        context = context_of(query, memory, parts["turn"][:, 0].long(), self.turns)
        head = answer(self.tracker, query, candidates)
        return head, context, hidden if memory is None else memory

    def _nothing(self, dialogs: int) -> Tensor:
        return torch.zeros((dialogs, self.hidden_size))


class DialogRecurrentPolicy(Answering, RecurrentMultiInputActorCriticPolicy):
    """RecurrentPPO's: as `DialogPolicy`, but the memory is carried from turn to turn.

    The tracker's own memory stands where RecurrentPPO has an LSTM, so that pretrained weights
    keep their meaning. The critic reads the same memory and does not change it.

    Args:
        args: as Stable-Baselines3 gives them.
        features_extractor_kwargs: the `spec` and `words` of the tracker.
        options: of `RecurrentMultiInputActorCriticPolicy`.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        features_extractor_kwargs: dict[str, Any],
        **options: Any,
    ):
        spec: dict[str, Any] = features_extractor_kwargs["spec"]
        words: Sequence[str] = features_extractor_kwargs["words"]
        sizes = {key: space.shape[0] for key, space in observation_space.spaces.items()}  # type: ignore[index]
        turns = int(observation_space["turn"].high[0]) + 1  # type: ignore[attr-defined]
        memory = TrackerMemory(make_tracker(spec, words, sizes["reference"]), sizes, turns)
        self._sizes = (memory.output_size, memory.actions)
        options = {
            "features_extractor_class": TurnFeatures,
            "ortho_init": False,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "lstm_hidden_size": 1,  # of the LSTM that the tracker replaces
            **options,
        }
        super().__init__(observation_space, action_space, lr_schedule, **options)
        self.features_extractor_kwargs = features_extractor_kwargs
        self.lstm_actor = memory  # type: ignore[assignment]
        self.lstm_hidden_state_shape = (1, 1, memory.hidden_size)
        self.optimizer = make_optimizer(self, lr_schedule)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: Tensor, lstm_states: Any, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-likelihoods and entropies; 0 is the log-likelihood of rows that only pad.

        RecurrentPPO pads sequences with zeros and leaves those rows out after it has raised e to
        their log-likelihood, which for a query of many numbers is beyond what a float holds:
        infinity times nothing, in the gradients too. A reference has length 1, so a row without
        one is padding.
        """
        values, log_prob, entropy = super().evaluate_actions(
            obs, actions, lstm_states, episode_starts
        )
        padding = (obs["reference"] == 0).all(dim=1)
        return values, torch.where(padding, 0.0, log_prob), entropy

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = AnswerAndValue(*self._sizes)
