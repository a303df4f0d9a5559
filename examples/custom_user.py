"""A user of one's own: anything with `describe`.

`python -m examples.custom_user`
"""

from pathlib import Path

import numpy as np

from envs import Dialog, DialogRetrievalEnv, make_dialog
from user_simulator.base import Draws, User


class HastyUser:
    """Says what another user says, but often no more than the first few words of it.

    Args:
        user: whose words they are.
        share: how often the user is in a hurry.
        words: how many are said then.
    """

    def __init__(self, user: User, share: float = 0.5, words: int = 4):
        self.user = user
        self.share = share
        self.words = words

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """Captions (B) of targets (B,) seen from references (B,), all images by number."""
        said = self.user.describe(reference, target, rng)
        hurries = rng.random((len(said), 1))[:, 0] < self.share  # a row of chances per dialog
        return [
            " ".join(caption.split()[: self.words]) if hurried else caption
            for caption, hurried in zip(said, hurries, strict=True)
        ]


def main(root: Path | None = None) -> list[str]:
    """One dialog with the user; returns what was said."""
    usual: Dialog = make_dialog(root=root)
    env = DialogRetrievalEnv(usual.with_(user=HastyUser(usual.user)), render_mode="ansi")
    env.action_space.seed(0)
    env.reset(seed=3)
    for _ in range(5):
        env.step(env.action_space.sample())
    print(env.render())
    return [state.captions[0] for state in env.history]


if __name__ == "__main__":
    main()
