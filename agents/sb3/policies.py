"""Policies of Stable-Baselines3 whose action is a tracker's own answer: PPO, A2C and SAC."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from agents.sb3.features import DialogFeatures

CRITIC_WIDTH = 128
EDGE = 1 - 1e-6  # the largest mean that tanh can be asked for


class AnswerAndValue(nn.Module):
    """Splits features (B, A + C): the answer is the actor's, a small network of its own values.

    The critic's errors do not reach the tracker: a value that is wrong at first would spoil
    weights that are right.
    """

    def __init__(self, features_dim: int, actions: int):
        super().__init__()
        self.actions = actions
        self.latent_dim_pi = actions
        self.latent_dim_vf = CRITIC_WIDTH
        self.value = nn.Sequential(
            nn.LayerNorm(features_dim), nn.Linear(features_dim, CRITIC_WIDTH), nn.Tanh(),
            nn.Linear(CRITIC_WIDTH, CRITIC_WIDTH), nn.Tanh(),
        )  # fmt: skip

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor and the critic go by."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """The answer (B, A)."""
        return features[:, : self.actions]

    def forward_critic(self, features: Tensor) -> Tensor:
        """What the value is read from."""
        result: Tensor = self.value(features.detach())
        return result


class Answering:
    """Mixed into an actor-critic policy: nothing stands between the answer and the action."""

    mlp_extractor: Any
    action_net: Any

    def _build_mlp_extractor(self: Any) -> None:
        self.mlp_extractor = AnswerAndValue(self.features_dim, self.features_extractor.actions)

    def _build(self: Any, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = nn.Identity()
        self.optimizer = make_optimizer(self, lr_schedule)


def make_optimizer(policy: Any, lr_schedule: Schedule) -> torch.optim.Optimizer:
    """The policy's optimiser over what is not frozen."""
    learned = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = policy.optimizer_class(
        learned, lr=lr_schedule(1), **policy.optimizer_kwargs
    )
    return optimizer


class DialogPolicy(Answering, MultiInputActorCriticPolicy):
    """PPO's and A2C's: a Gaussian around the tracker's query, or a softmax over its scores.

    Args:
        args: as Stable-Baselines3 gives them.
        options: of `MultiInputActorCriticPolicy`; `features_extractor_kwargs` holds the `spec`
            and `words` of `DialogFeatures`.
    """

    def __init__(self, *args: Any, **options: Any):
        options = {"features_extractor_class": DialogFeatures, "ortho_init": False, **options}
        super().__init__(*args, **options)


class _AnswerMean(nn.Module):
    """The Gaussian's mean before tanh, such that after it the answer is what it was."""

    def __init__(self, actions: int):
        super().__init__()
        self.actions = actions

    def forward(self, features: Tensor) -> Tensor:
        return torch.atanh(features[:, : self.actions].clamp(-EDGE, EDGE))


class DialogActor(Actor):
    """SAC's actor: a squashed Gaussian around the tracker's query, its spread read off the dialog.

    The features must begin with the answer, in [-1, 1], as those of `DialogFeatures` do.
    """

    def __init__(self, *args: Any, log_std_init: float = -3.0, **options: Any):
        super().__init__(*args, **{**options, "net_arch": [], "log_std_init": log_std_init})
        self.mu = _AnswerMean(self.action_space.shape[0])
        assert isinstance(self.log_std, nn.Linear)
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, log_std_init)


class PatientAdam(torch.optim.Adam):
    """Adam that lets the first calls of `step` go by, and takes a share of its learning rate.

    SAC's actor climbs its critic from the first step on; while the critic knows nothing that
    leads away from a pretrained tracker. How many calls went by is part of the state, so that a
    resumed run goes on as it would have. Stable-Baselines3 gives actor and critics one learning
    rate; a new critic has to learn fast, a pretrained actor must not.

    Args:
        params, lr, options: Adam's.
        patience: calls that do nothing.
        share: of the learning rate, whatever it is set to.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, patience: int = 0, share: float = 1.0, **options: Any
    ):
        super().__init__(params, lr=lr, **options)
        for group in self.param_groups:
            group.setdefault("patience", patience)
            group.setdefault("share", share)

    def step(self, closure: Any = None) -> Any:
        """One step, unless it is too early."""
        if self.param_groups[0]["patience"] > 0:
            for group in self.param_groups:
                group["patience"] -= 1
            return None
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["share"]
        result = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result


class DialogSACPolicy(SACPolicy):
    """SAC's: `DialogActor`, and critics that read the same features without changing them.

    Args:
        args: as Stable-Baselines3 gives them.
        patience: gradient steps in which only the critics learn.
        share: of the critics' learning rate that is the actor's.
        options: of `SACPolicy`; `features_extractor_kwargs` holds the `spec` and `words` of
            `DialogFeatures`.
    """

    def __init__(self, *args: Any, patience: int = 0, share: float = 1.0, **options: Any):
        self.patience = patience
        self.share = share
        options = {
            "features_extractor_class": DialogFeatures,
            "share_features_extractor": True,
            **options,
        }
        super().__init__(*args, **options)

    def make_actor(self, features_extractor: Any = None) -> Actor:
        """The actor, with `DialogFeatures` of its own."""
        options = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return DialogActor(**options).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        learned = [part for part in self.actor.parameters() if part.requires_grad]
        self.actor.optimizer = PatientAdam(learned, lr_schedule(1), self.patience, self.share)
