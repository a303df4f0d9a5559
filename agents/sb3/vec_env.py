"""The batch environment as the VecEnv of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from envs.dialog import Observation
from envs.vector import DialogRetrievalVectorEnv


class DialogVecEnv(VecEnv):
    """The native batch environment with the four-value `step` of Stable-Baselines3.

    Example::

        env = DialogVecEnv(gymnasium.make_vec("envs:dialog/CSS-v0", num_envs=64))
        PPO("MultiInputPolicy", env).learn(100_000)

    Args:
        env: made by `gymnasium.make_vec` or `envs.factory.make_vector_env`.
    """

    def __init__(self, env: DialogRetrievalVectorEnv):
        self.env = env
        self.render_mode = None
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Observation:
        """Start all dialogs; the seeds of `seed()` are used once."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        observation, infos = self.env.reset(seed=seeds)
        self._reset_seeds()
        self.reset_infos = [self._row(infos, row) for row in range(self.num_envs)]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards, dones and infos; an info tells how a dialog ended."""
        observation, reward, terminated, truncated, table = self.env.step(self._actions)
        done = terminated | truncated
        infos = [self._row(table, row) for row in range(self.num_envs)]
        for row in np.flatnonzero(done):
            infos[row] = self._row(table["final_info"], int(row))
            infos[row]["terminal_observation"] = table["final_obs"][row]
            infos[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """One value for all dialogs: they share one environment."""
        return [getattr(self.env, attr_name) for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set it on the shared environment."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call it once per chosen dialog on the shared environment."""
        method = getattr(self.env, method_name)
        return [method(*method_args, **method_kwargs) for _ in self._rows(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """The batch environment has no wrappers."""
        return [False for _ in self._rows(indices)]

    def _rows(self, indices: Any) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)

    @staticmethod
    def _row(table: dict[str, Any], row: int) -> dict[str, Any]:
        """The infos of one dialog out of the vector environment's arrays."""
        return {
            key: values[row]
            for key, values in table.items()
            if not key.startswith(("_", "final_")) and table[f"_{key}"][row]
        }
