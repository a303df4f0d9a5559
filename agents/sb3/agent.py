"""Trained Stable-Baselines3 models as agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.sb3.history import History, fresh_candidates
from agents.sb3.untrusted import read_model
from agents.tracker import DialogTracker
from envs.actions import ActionMode
from envs.dialog import Observation


def tracker_of(model: BaseAlgorithm) -> DialogTracker | None:
    """The tracker inside a model's policy; None in a policy of another kind."""
    modules = model.policy.modules()
    return next((module for module in modules if isinstance(module, DialogTracker)), None)


def mode_of(model: BaseAlgorithm, gallery_size: int) -> ActionMode:
    """What a model's actions mean, and whether it sees whole slates, as its spaces tell.

    Raises:
        ValueError: it chooses images of a gallery of another size than N.
    """
    space, seen = model.action_space, getattr(model.observation_space, "spaces", {})
    sees_slate = "slate" in seen
    if isinstance(space, spaces.Box):
        return ActionMode("query" if len(space.shape) == 1 else "queries", observe_slate=sees_slate)
    every: Any = space
    # A slate's places all have the same choices.
    choices = int(every.nvec[0] if isinstance(space, spaces.MultiDiscrete) else every.n)
    if "candidates" in seen:
        return ActionMode("candidate", choices, sees_slate)
    if choices == gallery_size:
        return ActionMode("image", observe_slate=sees_slate)
    raise ValueError(
        f"the model chooses among {choices} images, this gallery has {gallery_size}; "
        "train it with action='query' or 'candidate' to play on another gallery"
    )


class SB3Agent:
    """A trained Stable-Baselines3 model as an agent, whatever its action space.

    A model of `DialogHistory` is told the dialog so far; one with a tracker inside brings the
    tracker's index; a MaskablePPO that reads the whole dialog repeats no candidate while there
    are others.

    Args:
        model: trained on a dialog environment.
        gallery_size: N, for models that choose images by number.

    Raises:
        ValueError: the model chooses images of a gallery of another size.
    """

    def __init__(self, model: BaseAlgorithm, gallery_size: int):
        self.model = model
        seen = getattr(model.observation_space, "spaces", {})
        self.slots = seen["references"].shape[0] if "references" in seen else 0
        self.masks = self.slots and "candidates" in seen and type(model).__name__ == "MaskablePPO"
        if (tracker := tracker_of(model)) is not None:
            self.index = tracker.index
        self.mode = mode_of(model, gallery_size)

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The model's own actions; the state is the dialog so far and the model's own state."""
        history, inner = state or (None, None)
        options: dict[str, Any] = {}
        if self.slots:
            history = self._told(history, observation, episode_start)
            observation = history.seen(observation)
        if self.masks:
            options["action_masks"] = fresh_candidates(observation)
        action, inner = self.model.predict(
            observation, state=inner, episode_start=episode_start, deterministic=deterministic,
            **options,
        )  # fmt: skip
        return action, (history, inner)

    def _told(
        self, history: History | None, observation: Observation, begins: np.ndarray | None
    ) -> History:
        if history is None:
            history = History.empty(len(observation["turn"]), self.slots, observation)
        elif begins is not None:
            history = history.begun(begins)
        return history.told(observation)


def load_sb3(path: Path, gallery_size: int) -> SB3Agent:
    """A model saved by Stable-Baselines3 or sb3-contrib, read without running its pickles.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not such a model, or asks for what could run code.
        ImportError: it is a model of sb3-contrib, which is missing.
    """
    return SB3Agent(read_model(path), gallery_size)
