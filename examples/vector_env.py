"""The batch environment by hand: many dialogs in one step, no library of agents.

`python -m examples.vector_env`
"""

from pathlib import Path

import gymnasium as gym
import numpy as np


def main(root: Path | None = None, dialogs: int = 64, turns: int = 20) -> float:
    """Play at random, and note the target's rank percentile when each dialog ends."""
    env = gym.make_vec("envs:dialog/CSS-v0", num_envs=dialogs, action="candidate", root=root)
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)  # dialog b has the seed 0 + b
    print({key: array.shape for key, array in observation.items()})  # each with a leading B
    print("the first user says:", info["caption"][0])

    last, earned = [], np.zeros(dialogs)
    for _ in range(turns):
        action = env.action_space.sample()  # (B,) one of the 16 images most like the reference
        _, rewards, terminated, truncated, info = env.step(action)
        earned += rewards
        ended = terminated | truncated  # those dialogs have begun anew within the same step
        if ended.any():
            last.extend(info["final_info"]["percentile"][ended])
    print(f"{len(last)} dialogs ended, at a rank percentile of {100 * np.mean(last):.1f}")
    print(f"reward per turn: {earned.mean() / turns:.3f}")
    return float(np.mean(last))


if __name__ == "__main__":
    main()
