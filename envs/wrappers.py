"""Other faces of the observation."""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.dialog import CAPTION_LENGTH
from envs.single import DialogRetrievalEnv

CHARACTERS = string.ascii_lowercase + string.digits + " '<>-"
MAX_CHARACTERS = 256


class TextCaption(
    gym.ObservationWrapper[dict[str, Any], Any, dict[str, np.ndarray]],
    gym.utils.RecordConstructorArgs,
):
    """Give the caption as a string (`spaces.Text`) instead of token ids.

    Words the vocabulary does not know arrive as "<unk>", so the string holds exactly what the
    ids do. Stable-Baselines3 takes no Text: use the plain environment there.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        assert isinstance(env.observation_space, spaces.Dict)
        parts = dict(env.observation_space.spaces)
        parts["caption"] = spaces.Text(MAX_CHARACTERS, min_length=0, charset=CHARACTERS)
        self.observation_space = spaces.Dict(parts)

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, Any]:
        """Spell out the caption's token ids (16,)."""
        inner = self.env.unwrapped
        assert isinstance(inner, DialogRetrievalEnv)
        ids = observation["caption"].tolist()
        assert len(ids) == CAPTION_LENGTH
        return {**observation, "caption": inner.dialog.vocabulary.decode(ids)[:MAX_CHARACTERS]}
