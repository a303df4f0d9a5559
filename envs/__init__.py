"""Dialog-based interactive image retrieval as Gymnasium environments.

Importing this package registers `dialog/CSS-v0` and its kin. It pulls in NumPy and Gymnasium
only; `gymnasium.make("envs:dialog/CSS-v0")` imports it by itself.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from envs.dialog import Dialog, DialogState
from envs.factory import make_dialog
from envs.rewards import REWARDS
from envs.single import DialogRetrievalEnv
from envs.vector import DialogRetrievalVectorEnv

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "dialog/CSS-v0": {"look": "3d"},
    "dialog/CSS2D-v0": {"look": "2d"},
    "dialog/CSS-Neural-v0": {"look": "3d", "user": "neural"},
    "dialog/CSS-Noisy-v0": {"look": "3d", "noise": 0.3},
    "dialog/CSS-Scene-v0": {"look": "2d", "encoder": "scene"},
    "dialog/CSS-OneTurn-v0": {"look": "3d", "max_turns": 1},
}
"""Registered ids and the arguments of `make_dialog` that make them differ."""

for _name, _arguments in ENVIRONMENTS.items():
    gym.register(
        _name,
        entry_point="envs.factory:make_env",
        vector_entry_point="envs.factory:make_vector_env",
        kwargs=dict(_arguments),
    )

__all__ = [
    "ENVIRONMENTS",
    "REWARDS",
    "Dialog",
    "DialogRetrievalEnv",
    "DialogRetrievalVectorEnv",
    "DialogState",
    "make_dialog",
]
