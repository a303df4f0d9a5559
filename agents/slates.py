"""Baselines for slates: any agent that asks by query, with a rule for what is shown of its best."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.base import Agent
from envs.actions import ActionMode
from envs.dialog import Observation
from envs.slates import SlateRule


class SlateAgent:
    """An agent whose queries are answered by slates chosen in a way of its own.

    The words, the query and so the ranks are the agent's; only what is shown differs. Agents that
    choose their slates themselves need no such help: they act by "image", "candidate" or
    "queries" (`ActionMode`).

    Args:
        agent: asks by query.
        slate_by: "greedy", "mmr", "medoids", or a rule (`envs.slates.SlateRule`).

    Raises:
        ValueError: the agent chooses its slates itself.
    """

    def __init__(self, agent: Agent, slate_by: str | SlateRule):
        if not asks_by_query(agent):
            raise ValueError("expected an agent that asks by query; this one chooses what to show")
        self.agent = agent
        self.slate_by = slate_by
        for name in ("index", "mode"):
            if hasattr(agent, name):
                setattr(self, name, getattr(agent, name))

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The agent's own queries (B, D) and state."""
        return self.agent.predict(observation, state, episode_start, deterministic)


def asks_by_query(agent: Agent) -> bool:
    """Whether what is shown for an agent's actions is left to a rule that is not its own."""
    mode: ActionMode = getattr(agent, "mode", ActionMode())
    return mode.name == "query" and not hasattr(agent, "slate_by")
