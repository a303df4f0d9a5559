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
from envs.slates import SLATES
from envs.vector import DialogRetrievalVectorEnv

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "dialog/CSS-v0": {"look": "3d"},
    "dialog/CSS2D-v0": {"look": "2d"},
    "dialog/CSS-Neural-v0": {"look": "3d", "user": "neural"},
    "dialog/CSS-Noisy-v0": {"look": "3d", "noise": 0.3},
    "dialog/CSS-Scene-v0": {"look": "2d", "encoder": "scene"},
    "dialog/CSS-OneTurn-v0": {"look": "3d", "max_turns": 1},
}
"""Built-in ids, which need no data, and the arguments of `make_dialog` that make them differ."""

CATALOG_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "dialog/Catalog-v0": {"dataset": "catalog"},
    "dialog/Catalog-Neural-v0": {"dataset": "catalog", "user": "neural"},
    "dialog/Catalog-Noisy-v0": {"dataset": "catalog", "noise": 0.3},
}
"""Ids for one's own products: `gymnasium.make("envs:dialog/Catalog-v0", root=FOLDER)`."""

SETTINGS: dict[str, dict[str, Any]] = {
    "Slate": {"slate": 4},
    "NeverRepeat": {"never_repeat": True},
    "Striking": {"user": "striking"},
    "Impatient": {"patience": 2},
}
"""Settings in which the choice of what to show matters more, and what makes them."""

SETTING_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    f"dialog/{data}-{setting}-v0": {**made_of, **arguments}
    for data, made_of in {
        "CSS": {"look": "3d"},
        "CSS2D": {"look": "2d"},
        "Catalog": {"dataset": "catalog"},
    }.items()
    for setting, arguments in SETTINGS.items()
}
"""Ids of these settings, for the built-in data and for one's own products."""

for _name, _arguments in (ENVIRONMENTS | CATALOG_ENVIRONMENTS | SETTING_ENVIRONMENTS).items():
    gym.register(
        _name,
        entry_point="envs.factory:make_env",
        vector_entry_point="envs.factory:make_vector_env",
        kwargs=dict(_arguments),
    )

__all__ = [
    "CATALOG_ENVIRONMENTS",
    "ENVIRONMENTS",
    "REWARDS",
    "SETTING_ENVIRONMENTS",
    "SETTINGS",
    "SLATES",
    "Dialog",
    "DialogRetrievalEnv",
    "DialogRetrievalVectorEnv",
    "DialogState",
    "make_dialog",
]
