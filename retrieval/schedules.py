"""How the learning rate goes over a training: pure functions of the step, so a resumed run
needs no schedule of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

from retrieval.errors import unknown

Schedule = Callable[[int, int], float]
"""The factor on the learning rate for a step (from 0) of so many."""

WARM_UP = 0.3  # of a one-cycle schedule
LINEAR_WARM_UP = 0.1


def step_decay(every: int) -> Schedule:
    """A tenth after every so many steps, as google/tirg: the step that counts a multiple of
    `every` (from 1) already has the lower rate."""

    def factor(step: int, total: int) -> float:
        return float(0.1 ** ((step + 1) // every))

    return factor


def one_cycle(step: int, total: int) -> float:
    """From 1/25 up to 1 over the first 30 %, then down to 4e-6, along cosines.

    Smith and Topin, "Super-Convergence", 2018, as `torch.optim.lr_scheduler.OneCycleLR` has it.
    """
    top = WARM_UP * total - 1
    if step <= top:
        return _cosine(1 / 25, 1.0, step / top)
    return _cosine(1.0, 1 / 25e4, (step - top) / (total - 1 - top))


def linear(step: int, total: int) -> float:
    """From 0 up to 1 over the first tenth, then down to 0 along lines (ComqueryFormer)."""
    warm = LINEAR_WARM_UP * total
    return step / warm if step < warm else (total - step) / (total - warm)


def cosine(step: int, total: int) -> float:
    """From 1 down to 0 along a cosine. Loshchilov and Hutter, SGDR, ICLR 2017, one cycle."""
    return _cosine(1.0, 0.0, step / total)


def constant(step: int, total: int) -> float:
    """Always 1."""
    return 1.0


SCHEDULES = ("step", "one_cycle", "cosine", "linear", "constant")


def make_schedule(name: str, decay_every: int) -> Schedule:
    """A schedule by name; `decay_every` is for "step" alone.

    Raises:
        ValueError: an unknown name, or a decay every 0 steps.
    """
    if name == "step":
        if decay_every < 1:
            raise ValueError(
                f"expected a learning_rate_decay_frequency of 1 or more, got {decay_every}"
            )
        return step_decay(decay_every)
    plain: dict[str, Schedule] = {
        "one_cycle": one_cycle,
        "cosine": cosine,
        "linear": linear,
        "constant": constant,
    }
    if name not in plain:
        raise unknown("schedule", name, SCHEDULES)
    return plain[name]


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
