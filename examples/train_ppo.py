"""PPO of Stable-Baselines3 around a tracker: the mean of its Gaussian is the composed query.

`python -m examples.train_ppo`. The command `train_sb3` does the same with evaluation and resume,
and starts from supervised weights with `--pretrained-model sl-N.pt`.
"""

from pathlib import Path

from agents.checkpoints import make_agent
from agents.sb3 import Method, make_dialogs, make_model, principal_space
from envs import make_dialog


def main(root: Path | None = None, turns: int = 100_000, out: Path = Path("ppo.zip")) -> Path:
    """Train for so many turns and save; then `benchmark --agents ppo.zip random`."""
    dialog = make_dialog(root=root)
    features = dialog.gallery.features

    # A tracker that knows nothing yet, in a space of 16 dimensions.
    spec = {"kind": "tracker", "composer": "tirg", "memory": "gru", "dim": 16}
    tracker = make_agent(spec, dialog.vocabulary, features.shape[1])
    principal_space(tracker, features)

    # The environment is searched in the tracker's own space; PPO learns what to ask of it.
    method = Method("ppo", learning_rate=1e-3, gamma=0.0, noise=1.0, target_kl=None)
    env = make_dialogs(dialog, tracker, method)
    model = make_model(env, tracker, spec, method)
    model.learn(turns)
    model.save(out)
    return out


if __name__ == "__main__":
    print(main())
