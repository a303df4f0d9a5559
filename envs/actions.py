"""What an action means, by keyword: a query, an image, or one of the current candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.dialog import CAPTION_LENGTH, Dialog, DialogState, Observation
from retrieval.errors import unknown

ACTIONS = ("query", "image", "candidate")


@dataclass(frozen=True)
class ActionMode:
    """How actions drive a dialog, for batches; both faces of the environment use it.

    Args:
        name: "query" (a vector whose best match is shown), "image" (a row of the gallery) or
            "candidate" (one of the K images most similar to the reference on show).
        candidates: K of the mode "candidate".

    Raises:
        ValueError: an unknown name, or fewer than 2 candidates.
    """

    name: str = "query"
    candidates: int = 16

    def __post_init__(self) -> None:
        if self.name not in ACTIONS:
            raise unknown("action", self.name, ACTIONS)
        if self.candidates < 2:
            raise ValueError(f"expected at least 2 candidates, got {self.candidates}")

    def space(self, dialog: Dialog) -> spaces.Space:
        """The action space of one dialog.

        Raises:
            ValueError: more candidates than the gallery has other images.
        """
        if self.name == "candidate" and self.candidates >= len(dialog.gallery):
            raise ValueError(
                f"expected at most {len(dialog.gallery) - 1} candidates of a gallery of "
                f"{len(dialog.gallery)} images, got {self.candidates}"
            )
        if self.name == "query":
            return spaces.Box(-1.0, 1.0, (dialog.index.dim,), np.float32)
        return spaces.Discrete(len(dialog.gallery) if self.name == "image" else self.candidates)

    def observation_space(self, dialog: Dialog) -> spaces.Space[Any]:
        """The observation space of one dialog."""
        features = dialog.gallery.features.shape[1]
        parts: dict[str, spaces.Space] = {
            "reference": spaces.Box(-1.0, 1.0, (features,), np.float32),
            "caption": spaces.Box(0, len(dialog.vocabulary) - 1, (CAPTION_LENGTH,), np.int64),
            "turn": spaces.Box(0, dialog.max_turns, (1,), np.int64),
        }
        if self.name == "candidate":
            size = self.candidates * features
            parts["candidates"] = spaces.Box(-1.0, 1.0, (size,), np.float32)
        return spaces.Dict(parts)

    def observe(self, dialog: Dialog, state: DialogState) -> Observation:
        """The observations (leading axis B)."""
        seen = dialog.observe(state)
        if self.name == "candidate":
            near = dialog.candidates(state, self.candidates)
            seen["candidates"] = dialog.gallery.features[near].reshape(len(near), -1)  # (B, K F)
        return seen

    def apply(self, dialog: Dialog, before: DialogState, action: np.ndarray) -> DialogState:
        """Show what the actions (B, ...) ask for."""
        if self.name == "query":
            return dialog.show(before, np.asarray(action, dtype=np.float32))
        action = np.asarray(action, dtype=np.int64)
        if self.name == "candidate":
            near = dialog.candidates(before, self.candidates)
            action = near[np.arange(len(near)), action]
        return dialog.show_image(before, action)
