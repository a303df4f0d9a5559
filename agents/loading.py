"""Agents by name: built-in, checkpoint, Stable-Baselines3 zip, or anyone's own."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from agents.base import Agent
from agents.baselines import ImageOnlyAgent, OracleAgent, RandomAgent
from agents.belief import Weighing
from agents.checkpoints import load_checkpoint
from agents.planning import Plan, PlanningAgent
from envs.dialog import Dialog
from retrieval.devices import CPU, settle
from retrieval.errors import unknown
from user_simulator import User
from user_simulator.judging import judge_of

BUILT_IN = ("random", "image-only", "oracle")
THINKING = ("plan", "once", "bayes", "plan-bayes")
"""What may stand before a checkpoint, as in `plan:models/sl-12.pt`: see `agents.planning`, and of
the last two `agents.belief`."""


def named(given: str) -> tuple[str, str]:
    """Name and specification of `name=specification`, or of a specification alone."""
    name, equals, specification = given.partition("=")
    if equals:
        return name, specification
    before, rest = thinking(given)
    path = Path(rest)
    stem = path.stem if path.suffix in (".pt", ".zip") else rest
    return (f"{before}-{stem}" if before else stem), given


def thinking(specification: str) -> tuple[str, str]:
    """What stands before a checkpoint ("plan", "once" or ""), and the rest.

    Example:
        >>> thinking("plan:models/sl-12.pt")
        ('plan', 'models/sl-12.pt')
    """
    before, colon, rest = specification.partition(":")
    return (before, rest) if colon and before in THINKING else ("", specification)


def load_agent(
    specification: str,
    dialog: Dialog,
    seed: int = 0,
    device: torch.device = CPU,
    plan: Plan = Plan(),  # noqa: B008  it is frozen
    imagined: User | None = None,
    weighing: Weighing = Weighing(),  # noqa: B008  likewise
) -> Agent:
    """The agent that a specification stands for.

    Args:
        specification: "random", "image-only", "oracle", a `.pt` checkpoint ("plan:" before it
            looks ahead, "once:" shows nothing twice, "bayes:" also weighs what it heard,
            "plan-bayes:" looks ahead so; all are made for dialogs that play on after a find:
            `agents.planning`), a `.zip` of Stable-Baselines3, or `module:attribute`: an object
            with `predict`, or a class or function that makes one from the dialog.
        dialog: what it will play; its gallery and vocabulary must fit.
        seed: of agents that draw.
        device: where a checkpoint's agent computes.
        plan: how hard agents that look ahead think.
        imagined: the user they imagine; by default the dialog's own.
        weighing: how agents with "bayes" in front hear.

    Raises:
        ValueError: unknown, a plan without a checkpoint or in too small a gallery, of another
            vocabulary or feature size, or a zip that asks for what could run code (no checkpoint
            and no zip is unpickled freely; `module:attribute` imports, so name only what you
            trust).
        FileNotFoundError: no such checkpoint.
        ImportError: a model of sb3-contrib, which is missing.
    """
    rng = np.random.default_rng([seed, 13])
    if specification == "random":
        return RandomAgent(len(dialog.gallery), rng)
    if specification == "image-only":
        return ImageOnlyAgent(dialog.gallery)
    if specification == "oracle":
        return OracleAgent(
            dialog.gallery, dialog.vocabulary, rng, judge_of(dialog.user, dialog.gallery)
        )
    how, rest = thinking(specification)
    path = Path(rest)
    if how and path.suffix != ".pt":
        raise ValueError(f"expected a .pt checkpoint after {how}:, got {rest!r}")
    if path.suffix == ".pt":
        agent = load_checkpoint(path, dialog.vocabulary).agent
        agent.index(dialog.gallery.features[:2])  # refuses features of another size now
        agent = settle(agent, device)
        if not how:
            return agent
        if how in ("once", "bayes"):
            plan = replace(plan, top_k=1)
        imagining = dialog.with_(user=imagined or dialog.user)
        heard = weighing if how.endswith("bayes") else None
        return PlanningAgent(agent, imagining, plan, rng, plays_on=True, weighing=heard)
    if path.suffix == ".zip":
        return _of_sb3(path, dialog)
    if ":" in specification:
        return _imported(specification, dialog)
    ways = [f"{way}:FILE.pt" for way in THINKING]
    kinds = [*BUILT_IN, "a .pt or .zip file", *ways, "module:attribute"]
    raise unknown("agent", specification, kinds)


def _of_sb3(path: Path, dialog: Dialog) -> Agent:
    """A model of Stable-Baselines3; a tracker inside must know the dialog's words and features."""
    from agents.sb3 import load_sb3, tracker_of

    agent = load_sb3(path, len(dialog.gallery))
    tracker = tracker_of(agent.model)
    if tracker is not None:
        if tracker.vocabulary != dialog.vocabulary:
            raise ValueError(
                f"{path} knows another vocabulary ({len(tracker.vocabulary)} words) than the "
                f"environment ({len(dialog.vocabulary)} words); train it on this environment"
            )
        tracker.index(dialog.gallery.features[:2])  # refuses features of another size now
    return agent


def _imported(specification: str, dialog: Dialog) -> Agent:
    module_name, _, attribute = specification.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # one's own agent usually lies where one works
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import agent {specification!r}: {error}") from error
    finally:
        sys.path.pop(0)
    ready = hasattr(found, "predict") and not isinstance(found, type)
    agent = found(dialog) if callable(found) and not ready else found
    if not hasattr(agent, "predict"):
        raise ValueError(f"{specification!r} has no predict(); expected Stable-Baselines3's")
    return agent
