"""The whole dialog in every observation, so that an agent without a memory can have one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from envs.dialog import Observation


class History(NamedTuple):
    """What B dialogs have shown and heard, one slot per turn; slots to come are 0."""

    references: np.ndarray  # (B, S, F)
    captions: np.ndarray  # (B, S, L)

    @classmethod
    def empty(cls, dialogs: int, slots: int, observation: Observation) -> History:
        """Nothing yet, in the sizes of an observation; S = T + 1 slots."""
        features, words = observation["reference"].shape[-1], observation["caption"].shape[-1]
        return cls(
            np.zeros((dialogs, slots, features), np.float32),
            np.zeros((dialogs, slots, words), np.int64),
        )

    def begun(self, begins: np.ndarray) -> History:
        """The same with the chosen dialogs (B,) empty."""
        keep = ~np.asarray(begins, dtype=bool)[:, None, None]
        return History(self.references * keep, self.captions * keep)

    def told(self, observation: Observation) -> History:
        """The same with an observation in the slots of its turns.

        Raises:
            ValueError: a dialog is longer than there are slots.
        """
        turn = observation["turn"][:, 0]
        slots = self.references.shape[1]
        if turn.max(initial=0) >= slots:
            raise ValueError(
                f"the model reads dialogs of up to {slots - 1} turns, got turn {turn.max()}; "
                "play fewer turns, or train it with more"
            )
        rows = np.arange(len(turn))
        references, captions = self.references.copy(), self.captions.copy()
        references[rows, turn] = observation["reference"]
        captions[rows, turn] = observation["caption"]
        return History(references, captions)

    def seen(self, observation: Observation) -> Observation:
        """The observation with the whole dialog in place of its last turn."""
        rest = {key: observation[key] for key in observation if key not in ("reference", "caption")}
        return {"references": self.references, "captions": self.captions, **rest}


def history_space(space: spaces.Dict) -> spaces.Dict:
    """The observation space of `History.seen` for an environment's own."""
    parts = dict(space.spaces)
    reference, caption, turn = parts.pop("reference"), parts.pop("caption"), parts["turn"]
    if not all(isinstance(part, spaces.Box) for part in (reference, caption, turn)):
        raise ValueError(f"expected the observations of a dialog environment, got {space}")
    slots = int(turn.high[0]) + 1  # type: ignore[attr-defined]
    (features,), (words,) = reference.shape, caption.shape  # type: ignore[misc]
    most = int(caption.high.max())  # type: ignore[attr-defined]
    return spaces.Dict(
        {
            "references": spaces.Box(-1.0, 1.0, (slots, features), np.float32),
            "captions": spaces.Box(0, most, (slots, words), np.int64),
            **parts,
        }
    )


def fresh_candidates(observation: Observation) -> np.ndarray:
    """Which candidates (B, K) were not on show before; all of them where none is left.

    An image is known by its features, which is all that an agent sees of it: twins with the same
    features count as one image.
    """
    references = observation["references"]  # (B, S, F)
    dialogs, _, features = references.shape
    offered = observation["candidates"].reshape(dialogs, -1, 1, features)  # (B, K, 1, F)
    fresh: np.ndarray = ~(offered == references[:, None]).all(axis=-1).any(axis=-1)
    return fresh | ~fresh.any(axis=1, keepdims=True)


class DialogHistory(VecEnvWrapper):
    """Observations of the whole dialog: `references` (T + 1, F), `captions` (T + 1, L), `turn`.

    The environment's own observation is of the present turn alone, so only a recurrent policy
    could remember. With all turns in view PPO, A2C and SAC can run a tracker from the first turn
    inside their features extractor, and candidates that were on show already are known:
    `action_masks` leaves them out.

    The end of the last turn counts as an end, not as an interruption: the turn is in the
    observation, and no value lies beyond it. (Stable-Baselines3 would add the value of an
    observation at turn T, which nothing ever trains.)

    Args:
        venv: a `DialogVecEnv`, or any VecEnv of dialogs.
    """

    def __init__(self, venv: VecEnv):
        space = venv.observation_space
        if not isinstance(space, spaces.Dict) or "reference" not in space.spaces:
            raise ValueError(f"expected the observations of a dialog environment, got {space}")
        wide = history_space(space)
        super().__init__(venv, observation_space=wide)
        self._slots: int = wide["references"].shape[0]  # type: ignore[index]
        self._history: History | None = None
        self._seen: Observation = {}

    def reset(self) -> Observation:
        """Start all dialogs."""
        observation: Any = self.venv.reset()
        self._history = History.empty(self.num_envs, self._slots, observation).told(observation)
        self._seen = self._history.seen(observation)
        return self._seen

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """The next turn; dialogs that ended begin anew."""
        observation: Any
        observation, rewards, dones, infos = self.venv.step_wait()
        if self._history is None:
            raise ValueError("call reset() first: there are no dialogs under way")
        for row in np.flatnonzero(dones):
            last = {key: value[None] for key, value in infos[row]["terminal_observation"].items()}
            own = History(self._history.references[[row]], self._history.captions[[row]])
            whole = own.told(last).seen(last)
            infos[row]["terminal_observation"] = {key: value[0] for key, value in whole.items()}
            infos[row]["TimeLimit.truncated"] = False
        self._history = self._history.begun(dones).told(observation)
        self._seen = self._history.seen(observation)
        return self._seen, rewards, dones, infos

    def has_attr(self, attr_name: str) -> bool:
        """Whether it or what it wraps has an attribute; `action_masks` needs candidates."""
        if attr_name == "action_masks":
            return "candidates" in self.observation_space.spaces  # type: ignore[attr-defined]
        return super().has_attr(attr_name)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """`action_masks` of the dialogs (K,) each; anything else is asked of the environment."""
        if method_name != "action_masks":
            return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)
        masks = fresh_candidates(self._seen)
        return list(masks if indices is None else np.atleast_2d(masks[indices]))
