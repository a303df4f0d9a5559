"""What an action means, by keyword: a query, an image, or one of the current candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.dialog import CAPTION_LENGTH, Dialog, DialogState, Observation
from envs.state import NOTHING
from retrieval.errors import unknown

ACTIONS = ("query", "image", "candidate")
SLATE_ACTIONS = (*ACTIONS, "queries")
"""What dialogs that show slates take."""


@dataclass(frozen=True)
class ActionMode:
    """How actions drive a dialog, for batches; both faces of the environment use it.

    Where the dialog shows slates of K images, "query" leaves their choice to `slate_by`, "image"
    and "candidate" choose all K by number, and "queries" shows the best match of each of K.

    Args:
        name: "query" (a vector whose best match is shown), "image" (a row of the gallery),
            "candidate" (one of the M images most similar to the reference on show), or, of
            slates alone, "queries" (K vectors).
        candidates: M of the mode "candidate".
        observe_slate: whether observations of slates hold the features of all K images.

    Raises:
        ValueError: an unknown name, or fewer than 2 candidates.
    """

    name: str = "query"
    candidates: int = 16
    observe_slate: bool = False

    def __post_init__(self) -> None:
        if self.name not in SLATE_ACTIONS:
            raise unknown("action", self.name, SLATE_ACTIONS)
        if self.candidates < 2:
            raise ValueError(f"expected at least 2 candidates, got {self.candidates}")

    def space(self, dialog: Dialog) -> spaces.Space:
        """The action space of one dialog.

        Raises:
            ValueError: more candidates than the gallery has other images that may be shown, fewer
                than a slate holds, or K queries for a dialog without slates.
        """
        dim = dialog.index.dim
        if self.name == "query":
            return spaces.Box(-1.0, 1.0, (dim,), np.float32)
        if self.name == "queries":
            if dialog.slate == 1:
                raise ValueError(
                    "the action 'queries' is for dialogs that show slates; pass slate=4, say, or "
                    "action='query'"
                )
            return spaces.Box(-1.0, 1.0, (dialog.slate, dim), np.float32)
        choices = len(dialog.gallery)
        if self.name == "candidate":
            self._check_candidates(dialog)
            choices = self.candidates
        if dialog.slate == 1:
            return spaces.Discrete(choices)
        return spaces.MultiDiscrete(np.full(dialog.slate, choices))

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
        if self.observe_slate and dialog.slate > 1:
            parts["slate"] = spaces.Box(-1.0, 1.0, (dialog.slate * features,), np.float32)
        return spaces.Dict(parts)

    def observe(self, dialog: Dialog, state: DialogState) -> Observation:
        """The observations (leading axis B)."""
        seen = dialog.observe(state)
        features = dialog.gallery.features
        if self.name == "candidate":
            near = dialog.candidates(state, self.candidates)
            seen["candidates"] = features[near].reshape(len(near), -1)  # (B, M F)
        if self.observe_slate and dialog.slate > 1:
            there = (state.slate != NOTHING)[:, :, None]
            slate = np.where(there, features[state.slate], np.float32(0))  # (B, K, F)
            seen["slate"] = slate.reshape(len(slate), -1)  # (B, K F)
        return seen

    def apply(self, dialog: Dialog, before: DialogState, action: np.ndarray) -> DialogState:
        """Show what the actions (B, ...) ask for."""
        if self.name == "query":
            return dialog.show(before, np.asarray(action, dtype=np.float32))
        if self.name == "queries":
            return dialog.show_queries(before, np.asarray(action, dtype=np.float32))
        chosen = np.asarray(action, dtype=np.int64).reshape(len(before.turn), -1)  # (B, K)
        if self.name == "candidate":
            near = dialog.candidates(before, self.candidates)
            chosen = np.take_along_axis(near, chosen, axis=1)
        if dialog.slate == 1:
            return dialog.show_image(before, chosen[:, 0])
        return dialog.show_slate(before, chosen)

    def asked(self, dialog: Dialog, action: np.ndarray, after: DialogState) -> np.ndarray:
        """The queries (B, D) that the ranks after an action are by."""
        if self.name == "query":
            return np.asarray(action)
        if self.name == "queries":
            return np.asarray(action)[:, 0]
        return dialog.index.query_of(after.slate[:, 0])

    def _check_candidates(self, dialog: Dialog) -> None:
        size = len(dialog.gallery)
        shown = dialog.slate * dialog.max_turns if dialog.never_repeat else 0
        if self.candidates >= size - shown:
            left = f" that never shows {shown} of them again" if shown else ""
            raise ValueError(
                f"expected at most {size - shown - 1} candidates of a gallery of {size} images"
                f"{left}, got {self.candidates}"
            )
        if self.candidates < dialog.slate:
            raise ValueError(
                f"expected at least {dialog.slate} candidates for slates of {dialog.slate}, got "
                f"{self.candidates}"
            )
