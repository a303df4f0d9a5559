"""Models of Stable-Baselines3 around a tracker, by the name of their algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.sb3.history import DialogHistory
from agents.sb3.policies import DialogPolicy, DialogSACPolicy
from agents.sb3.untrusted import contrib
from agents.sb3.vec_env import DialogVecEnv
from agents.tracker import DialogTracker
from envs.dialog import Dialog
from envs.factory import make_vector_env
from retrieval.errors import unknown

ALGORITHMS = ("ppo", "a2c", "sac", "recurrent-ppo", "maskable-ppo")
CRITIC_RATE = 1e-3
"""Learning rate that SAC's critics have at least: they begin at chance, whoever the actor is."""
_ACTIONS: dict[str, tuple[str, ...]] = {"sac": ("query",), "maskable-ppo": ("candidate",)}
_ON_POLICY: dict[str, Any] = {"gae_lambda": 0.9, "max_grad_norm": 0.5}
_CLIPPED: dict[str, Any] = {**_ON_POLICY, "batch_size": 256, "n_epochs": 4, "n_steps": 20}


@dataclass(frozen=True)
class Method:
    """How to train with Stable-Baselines3.

    Args:
        algorithm: a name of `ALGORITHMS`.
        action: "query" or "candidate"; SAC takes queries alone, MaskablePPO candidates alone.
        candidates: K of the latter.
        reward: a name of `envs.rewards.REWARDS`.
        num_envs: dialogs played side by side (B).
        learning_rate: of actor and critic; SAC's critics learn at 1e-3 where that is more.
        gamma: what a turn's outcome is worth one turn earlier.
        noise: standard deviation of the whole Gaussian around the query at first, as a share of
            the query's length (each of its D numbers gets noise / sqrt(D)).
        target_kl: the PPOs end a round of learning once the policy has moved this far (in nats),
            None never: around a pretrained query in many dimensions, where little noise is
            shared by many numbers, a small step of the weights is a long way for the policy.
        patience: gradient steps of SAC in which only the critics learn.
        buffer: transitions that SAC remembers.
        seed: fixes initial weights, dialogs, users' words and exploration.
        options: further keywords of the algorithm's class.

    Raises:
        ValueError: an unknown algorithm, or an action that it cannot take.
    """

    algorithm: str = "ppo"
    action: str = "query"
    candidates: int = 16
    reward: str = "log_rank_gain"
    num_envs: int = 64
    learning_rate: float = 1e-4
    gamma: float = 0.5
    noise: float = 0.5
    target_kl: float | None = 0.05
    patience: int = 500
    buffer: int = 20_000
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise unknown("algorithm", self.algorithm, ALGORITHMS)
        actions = _ACTIONS.get(self.algorithm, ("query", "candidate"))
        if self.action not in actions:
            raise ValueError(
                f"{self.algorithm} takes the action {' or '.join(actions)}, got {self.action}"
            )
        if self.noise <= 0:
            raise ValueError(f"expected noise above 0 to explore with, got {self.noise}")


def make_dialogs(dialog: Dialog, tracker: DialogTracker, method: Method) -> VecEnv:
    """The environment to train in: searched in the tracker's own space.

    All but RecurrentPPO see the whole dialog at every turn (`DialogHistory`).

    Raises:
        ValueError: candidates where slates are shown: a tracker has one score per candidate, not
            one per candidate and place.
    """
    if method.action == "candidate" and dialog.slate > 1:
        raise ValueError(
            f"the action 'candidate' shows one image, and these dialogs show {dialog.slate}; use "
            "action='query', whose best matches fill the slate"
        )
    own = dialog.with_(index=tracker.index(dialog.gallery.features))
    venv = DialogVecEnv(
        make_vector_env(
            method.num_envs, own, method.action, method.candidates, reward=method.reward
        )
    )
    return venv if method.algorithm == "recurrent-ppo" else DialogHistory(venv)


def make_model(
    env: VecEnv, tracker: DialogTracker, spec: dict[str, Any], method: Method
) -> BaseAlgorithm:
    """An untrained model whose actions are the tracker's.

    Args:
        env: of `make_dialogs`.
        tracker: whose weights the policy begins with.
        spec: what `agents.checkpoints.make_agent` made it from.
        method: the algorithm and its settings.

    Raises:
        ImportError: the algorithm is of sb3-contrib, which is missing.
    """
    policy_options: dict[str, Any] = {
        "features_extractor_kwargs": {"spec": spec, "words": list(tracker.vocabulary.words[3:])}
    }
    if method.action == "query":
        assert env.action_space.shape is not None
        spread = method.noise / np.sqrt(env.action_space.shape[0])
        policy_options["log_std_init"] = float(np.log(spread))
    algorithm, policy, options = _parts(method)
    rate = method.learning_rate
    if method.algorithm == "sac":
        rate = max(rate, CRITIC_RATE)
        policy_options |= {"patience": method.patience, "share": method.learning_rate / rate}
    model = algorithm(
        policy=policy, env=env, learning_rate=rate, gamma=method.gamma,
        seed=method.seed, device="cpu", policy_kwargs=policy_options,
        **{**options, **method.options},
    )  # fmt: skip
    weights = tracker.state_dict()
    for module in model.policy.modules():  # SAC's target critics have a tracker too
        if isinstance(module, DialogTracker):
            module.load_state_dict(weights)
    return model


def _parts(method: Method) -> tuple[Any, Any, dict[str, Any]]:
    """Class, policy and keywords of an algorithm."""
    clipped = {**_CLIPPED, "target_kl": method.target_kl}
    if method.algorithm == "ppo":
        return PPO, DialogPolicy, clipped
    if method.algorithm == "a2c":
        return A2C, DialogPolicy, {**_ON_POLICY, "n_steps": 5, "normalize_advantage": True}
    if method.algorithm == "sac":
        return SAC, DialogSACPolicy, {
            "buffer_size": method.buffer, "learning_starts": 0, "batch_size": 64,
            "gradient_steps": 4, "ent_coef": 1e-3,
        }  # fmt: skip
    if method.algorithm == "recurrent-ppo":
        contributed = contrib("RecurrentPPO")
        from agents.sb3.contrib import DialogRecurrentPolicy

        return contributed, DialogRecurrentPolicy, clipped
    contributed = contrib("MaskablePPO")
    from agents.sb3.contrib import DialogMaskablePolicy

    return contributed, DialogMaskablePolicy, clipped


@torch.no_grad()
def principal_space(tracker: DialogTracker, features: np.ndarray) -> None:
    """Turn a new tracker's image space to the gallery's principal axes, in place.

    The space of the index stays as it is while Stable-Baselines3 trains, so a tracker that was
    never trained needs one that keeps what is similar similar. The first D principal axes of the
    features (N, F) do, and D may be small, which a Gaussian policy wants: the noise of an
    estimate by trial and error grows with D.

    Raises:
        ValueError: fewer features than axes.
    """
    layer = tracker.get_submodule("image")
    if not isinstance(layer, torch.nn.Linear) or layer.out_features > layer.in_features:
        raise ValueError(
            f"expected an image space of at most {features.shape[1]} dimensions, the size of the "
            f"features, got {tracker.dim}; give a smaller --dim"
        )
    mean = features.mean(axis=0)
    axes = np.linalg.svd(features - mean, full_matrices=False)[2][: layer.out_features]  # (D, F)
    layer.weight.copy_(torch.from_numpy(axes))
    layer.bias.copy_(torch.from_numpy(-axes @ mean))
