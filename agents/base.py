"""The protocol of an agent: the `predict` of Stable-Baselines3."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from envs.dialog import Observation


class Agent(Protocol):
    """Anything with Stable-Baselines3's `predict`; a trained SB3 model is an agent."""

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """What to do about B observations.

        Args:
            observation: as `DialogRetrievalEnv` describes, with a leading axis B.
            state: what the last call returned; None at the start.
            episode_start: True (B,) where a new dialog begins.
            deterministic: whether to choose the likeliest action.

        Returns:
            Actions (B, ...) and the state to pass to the next call.
        """
        ...
