"""The dialog as a batch environment that lives on one device: a turn copies nothing to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.actions import ActionMode
from envs.dialog import CAPTION_LENGTH, Dialog
from envs.rewards import REWARDS
from retrieval.errors import unknown
from retrieval.indexes.on_device import DeviceIndex
from retrieval.text import END, PADDING, UNKNOWN, Vocabulary
from user_simulator.captioner import NeuralUser
from user_simulator.decoding import MAX_WORDS
from user_simulator.noisy import NoisyUser

Observations = dict[str, Tensor]


@dataclass(frozen=True)
class Standing:
    """Where B dialogs stand; `DialogState` in tensors, as far as these dialogs need it.

    Args:
        target, reference, turn: (B,) int64.
        rank, best_rank: (B,) float32.
        size: number N of images.
    """

    target: Tensor
    reference: Tensor
    turn: Tensor
    rank: Tensor
    best_rank: Tensor
    size: int

    @property
    def found(self) -> Tensor:
        """Whether the target is on show (B,)."""
        return self.reference == self.target

    @property
    def percentile(self) -> Tensor:
        """Rank percentiles (B,): 1 is best, 0.5 is chance."""
        return 1.0 - self.rank / (self.size - 1)


class DeviceDialogVectorEnv(VectorEnv[Observations, Tensor, Tensor]):
    """`DialogRetrievalVectorEnv` with gallery, captioner and rules on one device.

    Observations, rewards, ends and infos are tensors there, actions are query tensors (B, D), and
    no number of a turn is looked at by the host, so that a GPU's queue never runs dry. One image
    is shown per turn. Where a GPU has to be waited for, that is the agent's doing.

    Autoreset is NEXT_STEP, Gymnasium's default: the step after a dialog's end ignores its action
    and returns the next dialog's first observation, with reward 0.

    Departures from the NumPy environment: products are taken as they come (`DeviceIndex`), and
    all chances are drawn from one generator of the device.

    Args:
        dialog: the rules, whose user is the neural one on this device (`make_dialog(user="neural",
            device="cuda")`), or that user misspeaking (`noise`).
        num_envs: B.
        embeddings: what queries are searched in (N, D); by default the gallery's features. A
            learning agent sets `embeddings` anew when its weights have changed.
        reward: a name in `REWARDS`.
        privileged: whether infos tell the `target`.
        generator: of the device; what all chances are drawn from. `reset(seed=...)` seeds it.

    Raises:
        ValueError: an unknown reward, no dialog at all, a user who does not speak on a device, or
            rules that only the NumPy environment knows (slates, never repeating, patience).
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        dialog: Dialog,
        num_envs: int = 1,
        embeddings: Tensor | None = None,
        reward: str = "rank_percentile",
        privileged: bool = False,
        generator: torch.Generator | None = None,
    ):
        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        if num_envs < 1:
            raise ValueError(f"expected at least 1 dialog, got num_envs={num_envs}")
        if dialog.slate > 1 or dialog.never_repeat or dialog.patience is not None:
            raise ValueError(
                "slates, never repeating and patience are not for the environment on a device; "
                "use envs.factory.make_vector_env"
            )
        noise, speaker = 0.0, dialog.user
        if isinstance(speaker, NoisyUser):
            noise, speaker = speaker.probability, speaker.user
        if not isinstance(speaker, NeuralUser):
            raise ValueError(
                f"only the neural user speaks on a device, got {type(speaker).__name__}; pass "
                "user='neural', or use envs.factory.make_vector_env"
            )
        self.num_envs = num_envs
        self.device = speaker.device
        self.privileged = privileged
        self.render_mode = None
        self.max_turns = dialog.max_turns
        self.index: DeviceIndex
        self._user, self._noise = speaker, noise
        self._reward: Any = REWARDS[reward]
        self._features = torch.from_numpy(dialog.gallery.features).to(self.device)
        self._ids = spelling(speaker.captioner.vocabulary, dialog.vocabulary).to(self.device)
        self._generator = generator or torch.Generator(self.device)
        self._state: Standing | None = None
        self._over = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self.embeddings = self._features if embeddings is None else embeddings
        self.single_observation_space = ActionMode().observation_space(dialog)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    @property
    def embeddings(self) -> Tensor:
        """What queries are searched in (N, D), on the device."""
        return self.index.embeddings

    @embeddings.setter
    def embeddings(self, rows: Tensor) -> None:
        if len(rows) != len(self._features):
            raise ValueError(
                f"expected embeddings of {len(self._features)} images, got {len(rows)}"
            )
        self.index = DeviceIndex(rows.to(self.device))
        self.single_action_space = spaces.Box(-1.0, 1.0, (self.index.dim,), np.float32)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Tensor]]:
        """Start B dialogs.

        Args:
            seed: one number for all.
            options: `target` and `reference`, tensors (B,) of images to start with.

        Raises:
            ValueError: a list of seeds; dialogs here share one generator.
        """
        if isinstance(seed, list):
            raise ValueError("dialogs on a device share one generator; pass one seed")
        if seed is not None:
            self._generator.manual_seed(seed)
        fresh = self._fresh()
        given = {name: image.to(self.device) for name, image in (options or {}).items()}
        target = given.get("target", fresh[0])
        reference = given.get("reference", fresh[1])
        _, _, rank = self.index.find(self.embeddings[reference], target, 1)
        turn = torch.zeros_like(target)
        self._state = Standing(target, reference, turn, rank, rank, len(self._features))
        self._over = torch.zeros_like(self._over)
        return self._observe(self._state), self._infos(self._state)

    @torch.no_grad()
    def step(
        self, actions: Tensor
    ) -> tuple[Observations, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Advance all dialogs by one turn; those that have ended start anew."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() first: there are no dialogs under way")
        before, over = self._state, self._over
        target, reference = self._fresh()  # of those that start anew; they ask for the reference
        target = torch.where(over, target, before.target)
        asked = torch.where(over[:, None], self.embeddings[reference], actions)
        candidates, _, rank = self.index.find(asked, target, 1)
        state = Standing(
            target,
            torch.where(over, reference, candidates[:, 0]),
            torch.where(over, 0, before.turn + 1),
            rank,
            torch.where(over, rank, torch.minimum(before.best_rank, rank)),
            before.size,
        )
        reward = torch.where(over, 0.0, self._reward(before, state))
        ends_at_once = self.max_turns == 1
        terminated = ~over & (state.found | ends_at_once)
        truncated = ~over & ~terminated & (state.turn >= self.max_turns)
        self._state, self._over = state, terminated | truncated
        return self._observe(state, terminated), reward, terminated, truncated, self._infos(state)

    def _fresh(self) -> tuple[Tensor, Tensor]:
        """Targets and first references (B,) of new dialogs, two different images each."""
        size, chance = len(self._features), self._chance(2)
        target = (chance[0] * size).long().clamp(max=size - 1)
        apart = (chance[1] * (size - 1)).long().clamp(max=size - 2)
        return target, (target + 1 + apart) % size

    @torch.no_grad()
    def _observe(self, state: Standing, silent: Tensor | None = None) -> Observations:
        """What the agents see; users who have been shown what they want are silent."""
        meant = state.target
        if self._noise:
            slips, towards = self._chance(2)
            other = (towards * (state.size - 1)).long().clamp(max=state.size - 2)
            meant = torch.where(slips < self._noise, (meant + 1 + other) % state.size, meant)
        draws = None
        if self._user.temperature > 0:
            draws = self._chance(MAX_WORDS).T.double()
        ids = self._ids[self._user.speak(state.reference, meant, draws)]  # (B, L)
        if silent is not None:
            ids = ids.masked_fill(silent[:, None], PADDING)
        return {
            "reference": self._features[state.reference],
            "caption": ids,
            "turn": state.turn[:, None],
        }

    def _infos(self, state: Standing) -> dict[str, Tensor]:
        found = {
            "rank": state.rank, "percentile": state.percentile, "best_rank": state.best_rank,
            "image": state.reference,
        }  # fmt: skip
        return {**found, "target": state.target} if self.privileged else found

    def _chance(self, rows: int) -> Tensor:
        """Uniform numbers (rows, B)."""
        return torch.rand(rows, self.num_envs, generator=self._generator, device=self.device)


def spelling(spoken: Vocabulary, read: Vocabulary) -> Tensor:
    """How word ids of one vocabulary are spelled in another (V,): for words without punctuation.

    The end of a caption is padding, as in observations.
    """
    assert CAPTION_LENGTH == MAX_WORDS
    ids = read.encode(spoken.words, 1)[:, 0]
    ids[[PADDING, END]] = PADDING
    ids[UNKNOWN] = UNKNOWN
    return torch.from_numpy(ids)
