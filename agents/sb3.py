"""Stable-Baselines3: the batch environment as its VecEnv, and its saved models as agents."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from envs.actions import ActionMode
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


class SB3Agent:
    """A trained Stable-Baselines3 model as an agent, whatever its action space.

    Args:
        model: trained on a dialog environment.
        gallery_size: N, for models that choose images by number.

    Raises:
        ValueError: the model chooses images of a gallery of another size.
    """

    def __init__(self, model: BaseAlgorithm, gallery_size: int):
        self.model = model
        space = model.action_space
        if not isinstance(space, spaces.Discrete):
            self.mode = ActionMode("query")
        elif "candidates" in getattr(model.observation_space, "spaces", {}):
            self.mode = ActionMode("candidate", int(space.n))
        elif int(space.n) == gallery_size:
            self.mode = ActionMode("image")
        else:
            raise ValueError(
                f"the model chooses among {space.n} images, this gallery has {gallery_size}; "
                "train it with action='query' or 'candidate' to play on another gallery"
            )

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The model's own actions and state."""
        return self.model.predict(
            observation,
            state=state,
            episode_start=episode_start,
            deterministic=deterministic,
        )


def load_sb3(path: Path, gallery_size: int) -> SB3Agent:
    """A model saved by Stable-Baselines3. Its format can run code: load only what you trust.

    Raises:
        ValueError: the file is not such a model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            policy = json.loads(archive.read("data"))["policy_class"]
        described = json.dumps(policy)
        names = {"sac": "SAC", "td3": "TD3", "dqn": "DQN"}
        name = next((cls for key, cls in names.items() if f".{key}." in described), "PPO")
        model = getattr(stable_baselines3, name).load(path, device="cpu")
    except Exception as error:
        raise ValueError(
            f"{path} is not a model that Stable-Baselines3 saved ({type(error).__name__}: {error})"
        ) from error
    return SB3Agent(model, gallery_size)
