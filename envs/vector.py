"""The dialog as a native batch environment: B dialogs in one step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import ActionMode
from envs.dialog import Dialog, DialogState, Observation, draw_pair
from envs.rewards import REWARDS
from envs.single import chosen_pair, info_table
from retrieval.errors import unknown
from user_simulator.base import RowDraws


class DialogRetrievalVectorEnv(VectorEnv[Observation, Any, np.ndarray]):
    """`DialogRetrievalEnv` for B dialogs, step for step what B single ones would do.

    Autoreset is SAME_STEP: the step that ends a dialog returns the next dialog's first
    observation, with the last one in `final_obs` and its info in `final_info`. Dialog b is
    seeded with `seed + b`, as Gymnasium's `SyncVectorEnv` does.

    Args:
        dialog: the rules with gallery, index and user.
        num_envs: B.
        action, candidates, reward, privileged, observe_slate: as for `DialogRetrievalEnv`.
        max_episode_steps: truncate earlier than `dialog.max_turns` (Gymnasium passes it).
        render_mode: must be None; render a single environment.

    Raises:
        ValueError: an unknown action or reward, no dialog at all, or a render mode.
    """

    metadata: dict[str, Any] = {
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        dialog: Dialog,
        num_envs: int = 1,
        action: str = "query",
        candidates: int = 16,
        reward: str = "rank_percentile",
        privileged: bool = False,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        observe_slate: bool = False,
    ):
        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        if num_envs < 1:
            raise ValueError(f"expected at least 1 dialog, got num_envs={num_envs}")
        if render_mode is not None:
            raise ValueError(
                f"the batch environment cannot render ({render_mode!r}); render a single one"
            )
        self.dialog = dialog
        self.num_envs = num_envs
        self.mode = ActionMode(action, candidates, observe_slate)
        self.reward_fn = REWARDS[reward]
        self.privileged = privileged
        self.render_mode = None
        self.max_steps = min(dialog.max_turns, max_episode_steps or dialog.max_turns)
        self.single_action_space = self.mode.space(dialog)
        self.single_observation_space = self.mode.observation_space(dialog)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.generators: list[np.random.Generator] = []
        self.state: DialogState | None = None

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start B dialogs, or with `options["reset_mask"]` (B,) some of them anew."""
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        if not len(rows):
            raise ValueError("expected a reset_mask with at least one True, got none")
        self._seed(seed, rows)
        fresh = self._start(rows, options)
        if mask is not None and self.state is not None:
            self.state = self.state.with_rows(rows, fresh)
        elif len(rows) == self.num_envs:
            self.state = fresh
        else:
            raise gym.error.ResetNeeded("the first reset() must start all dialogs")
        return self.mode.observe(self.dialog, self.state), self._infos(self.state, rows)

    def step(
        self, actions: Any
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all dialogs by one turn; those that end start anew."""
        if self.state is None:
            raise gym.error.ResetNeeded("call reset() first: there are no dialogs under way")
        before = self.state
        after = self.mode.apply(self.dialog, before, np.asarray(actions))
        terminated = self.dialog.terminated(after)
        truncated = ~terminated & (after.turn >= self.max_steps)
        going = np.flatnonzero(~terminated)
        if len(going) == self.num_envs:
            after = self.dialog.listen(after, self._draws(going))
        elif len(going):
            after = after.with_rows(
                going, self.dialog.listen(after.rows(going), self._draws(going))
            )
        reward = np.asarray(self.reward_fn(before, after), dtype=np.float64)

        ended = np.flatnonzero(terminated | truncated)
        infos: dict[str, Any] = {}
        self.state = after
        if len(ended):
            self.state = after.with_rows(ended, self._start(ended, {}))
            last = self.mode.observe(self.dialog, after.rows(ended))
            final_obs = np.full(self.num_envs, None, dtype=object)
            for at, row in enumerate(ended):
                final_obs[row] = {key: value[at] for key, value in last.items()}
            infos["final_obs"] = final_obs
            infos["final_info"] = self._infos(after, ended)
            infos["_final_obs"] = infos["_final_info"] = self._mask(ended)
        infos |= self._infos(self.state, np.arange(self.num_envs))
        observation = self.mode.observe(self.dialog, self.state)
        return observation, reward, terminated, truncated, infos

    def _seed(self, seed: int | list[int | None] | None, rows: np.ndarray) -> None:
        """Give the chosen dialogs new generators, as SyncVectorEnv would."""
        if not self.generators:
            self.generators = [gym.utils.seeding.np_random()[0] for _ in range(self.num_envs)]
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is None:
            return
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one per dialog, got {len(seeds)}")
        for row in rows:
            if seeds[row] is not None:
                self.generators[row] = gym.utils.seeding.np_random(seeds[row])[0]

    def _start(self, rows: np.ndarray, options: dict[str, Any]) -> DialogState:
        """New dialogs for the chosen rows, the users' first words included."""
        size = len(self.dialog.gallery)
        pairs = [chosen_pair(options, *draw_pair(self.generators[row], size), size) for row in rows]
        target, reference = np.array(pairs, dtype=np.int64).T
        return self.dialog.listen(self.dialog.start(target, reference), self._draws(rows))

    def _draws(self, rows: np.ndarray) -> RowDraws:
        return RowDraws([self.generators[row] for row in rows])

    def _infos(self, state: DialogState, rows: np.ndarray) -> dict[str, Any]:
        """Infos as Gymnasium's vector environments give them: arrays with `_key` masks."""
        mask = self._mask(rows)
        infos: dict[str, Any] = {}
        for key, values in info_table(self.dialog, state, self.privileged).items():
            array = np.array(values, dtype=object if key == "caption" else None)
            array[~mask] = None if key == "caption" else 0
            infos[key], infos[f"_{key}"] = array, mask.copy()
        return infos

    def _mask(self, rows: np.ndarray) -> np.ndarray:
        """Which of the B dialogs are among the rows (B,)."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[rows] = True
        return mask
