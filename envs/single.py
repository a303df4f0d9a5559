"""The dialog as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from envs.actions import ActionMode
from envs.dialog import Dialog, DialogState, Observation, draw_pair
from envs.rewards import REWARDS
from retrieval.errors import unknown

Info = dict[str, Any]
BELIEVED = 8
"""Images that a picture of what the system believes is drawn from."""
RENDER_MODES = ("rgb_array", "human", "ansi")


class DialogRetrievalEnv(gym.Env[Observation, Any]):
    """Find the image a user has in mind, one caption and one candidate at a time.

    ## Description
    A user has a target image in mind. Each turn the user says how the target differs from the
    reference image on show, the agent answers, and what it shows becomes the next reference.
    Where the dialog shows slates of K images at once, the user picks the one nearest to the
    target by their own judgement; the picked image becomes the reference.

    ## Action Space
    By `action`: `"query"` (default) is `Box(-1, 1, (D,), float32)`, a vector whose best match in
    the index is shown next; `"image"` is `Discrete(N)`, a row of the gallery; `"candidate"` is
    `Discrete(M)`, one of the M images most similar to the reference on show. With slates of K, a
    query shows its best matches by the dialog's rule (`slate_by`), `"image"` and `"candidate"`
    are `MultiDiscrete` of length K (an image chosen twice gives way to the most similar one that
    is free), and `"queries"` is `Box(-1, 1, (K, D))`, of each of which the best match is shown.

    ## Observation Space
    A `Dict`: `reference` (F,), unit-norm features of the image on show; `caption` (16,), token
    ids of what the user said about it, padded with 0; `turn` (1,), how many candidates have
    been shown. With `action="candidate"` also `candidates` (M F,), their features
    one after another (flat, as Stable-Baselines3 wants them). With slates the reference is the
    one picked; with `observe_slate=True` also `slate` (K F,), the features of all images on show
    in the order shown, zero where there are fewer.

    ## Rewards
    By `reward`: the target's rank percentile (default), its gain, the gain in log2 rank, the
    reciprocal rank, 1 when the target is on show, or 1 / turn then; see `envs.rewards`. Ranks are
    by the query, or by similarity to the image shown; of slates by the first query or image.
    Images shown before are ranked like all others, also where they are never shown again.

    ## Starting State
    A random target and a different random reference; `reset(options={"target": 3,
    "reference": 7})` fixes either.

    ## Episode End
    Terminated once the target is on show (anywhere on a slate), when the user loses patience
    (`patience` turns in a row that showed nothing nearer to the target by their judgement), and
    after the turn of a one-turn dialog; truncated after `max_turns` turns otherwise. After
    termination the user has nothing more to say.

    ## Information
    `rank`: images between query and target (half of ties counted); `percentile`; `best_rank`:
    smallest so far; `image`: the row on show; `caption`: the user's words. With slates also
    `slate` (K,): all rows on show, -1 where there are fewer; with patience `stalled`: turns in a
    row without progress. With `privileged=True` also `target`: for supervised training and
    metrics only.

    ## Arguments
    `dialog`: the rules with gallery, index and user, ready-made (`envs.factory.make_dialog`),
    which also says how many turns and images a turn there are, whether images may be shown again
    and how patient the user is. `action`, `candidates`: above. `reward`: above. `privileged`,
    `observe_slate`: above. `render_mode`: "rgb_array" draws the dialog so far, "human" opens a
    window with it, "ansi" gives its words. `imagine`: draws what the system believes is wanted,
    a picture uint8 (H, W, 3) of the images (K,) that score highest under what it asked, best
    first; `render` then shows it beneath each reference.

    ## Version History
    v0: first version.

    Raises:
        ValueError: an unknown action, reward or render mode.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 1}

    def __init__(
        self,
        dialog: Dialog,
        action: str = "query",
        candidates: int = 16,
        reward: str = "rank_percentile",
        privileged: bool = False,
        render_mode: str | None = None,
        observe_slate: bool = False,
        imagine: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown("render mode", render_mode, RENDER_MODES)
        self.dialog = dialog
        self.mode = ActionMode(action, candidates, observe_slate)
        self.reward_fn = REWARDS[reward]
        self.privileged = privileged
        self.render_mode = render_mode
        self.action_space = self.mode.space(dialog)
        self.observation_space = self.mode.observation_space(dialog)
        self.state: DialogState | None = None
        self.history: list[DialogState] = []
        self.imagine = imagine
        self.believed: list[np.ndarray | None] = []
        self._window: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start a dialog; see the class for the options."""
        super().reset(seed=seed)
        target, reference = draw_pair(self.np_random, len(self.dialog.gallery))
        target, reference = chosen_pair(options, target, reference, len(self.dialog.gallery))
        start = self.dialog.start(np.array([target]), np.array([reference]))
        self.state = self.dialog.listen(start, self.np_random)
        self.history = [self.state]
        self.believed = [None]
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Answer the user: show the next image and hear what is said of it.

        Raises:
            gymnasium.error.ResetNeeded: `reset` was not called, or the dialog has ended.
        """
        if self.state is None or self._over(self.state):
            raise gym.error.ResetNeeded("call reset() first: there is no dialog under way")
        before = self.state
        after = self.mode.apply(self.dialog, before, np.asarray(action)[None])
        terminated = bool(self.dialog.terminated(after)[0])
        if not terminated:
            after = self.dialog.listen(after, self.np_random)
        self.state = after
        self.history.append(after)
        if self.imagine is not None:
            asked = self.mode.asked(self.dialog, np.asarray(action)[None], after)
            most = min(BELIEVED, len(self.dialog.gallery))
            self.believed.append(self.imagine(self.dialog.index.search(asked, most)[0]))
        reward = float(self.reward_fn(before, after)[0])
        if self.render_mode == "human":
            self.render()
        truncated = not terminated and self._over(after)
        return self._observation(), reward, terminated, truncated, self._info()

    def render(self) -> Any:
        """The dialog so far: a picture (H, W, 3), its words, or a window (None)."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; pass one to gymnasium.make")
            return None
        if not self.history:
            raise gym.error.ResetNeeded("call reset() first: there is no dialog to render")
        from envs.history import draw_history, transcribe_history

        if self.render_mode == "ansi":
            return transcribe_history(self.dialog, self.history)
        believed = None if self.imagine is None else self.believed
        picture = draw_history(self.dialog, self.history, believed=believed)
        if self.render_mode == "rgb_array":
            return picture
        if self._window is None:
            from envs.window import Window

            self._window = Window("dialog")
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if one was opened."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _over(self, state: DialogState) -> bool:
        return bool(state.turn[0] >= self.dialog.max_turns or self.dialog.terminated(state)[0])

    def _observation(self) -> Observation:
        assert self.state is not None
        return {key: value[0] for key, value in self.mode.observe(self.dialog, self.state).items()}

    def _info(self) -> Info:
        assert self.state is not None
        table = info_table(self.dialog, self.state, self.privileged)
        return {key: values[0] for key, values in table.items()}


def chosen_pair(
    options: dict[str, Any] | None, target: int, reference: int, size: int
) -> tuple[int, int]:
    """The pair to start with: drawn, unless `reset` options name an image.

    Raises:
        ValueError: an option names no image of the gallery.
    """
    options = options or {}
    target = int(options.get("target", target))
    reference = int(options.get("reference", reference))
    for label, image in (("target", target), ("reference", reference)):
        if not 0 <= image < size:
            raise ValueError(f"expected a {label} between 0 and {size - 1}, got {image}")
    return target, reference


def info_table(dialog: Dialog, state: DialogState, privileged: bool) -> dict[str, Any]:
    """The info values of B dialogs, the same keys at every step; all numbers are finite."""
    table: dict[str, Any] = {
        "rank": state.rank.astype(np.float64),
        "percentile": state.percentile.astype(np.float64),
        "best_rank": state.best_rank.astype(np.float64),
        "image": state.reference.copy(),
        "caption": list(state.captions),
    }
    if dialog.slate > 1:
        table["slate"] = state.slate.copy()
    if dialog.patience is not None:
        table["stalled"] = state.stalled.copy()
    if privileged:
        table["target"] = state.target.copy()
    return table
