"""Who speaks: users that describe a target image relative to a reference image.

Nothing here imports torch until a neural user is asked for: `NeuralUser` is loaded lazily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from user_simulator.attributes import AttributeUser
from user_simulator.base import Draws, RowDraws, SharedDraws, User
from user_simulator.judging import Judge, judge_of
from user_simulator.noisy import NoisyUser
from user_simulator.striking import StrikingUser

if TYPE_CHECKING:
    from user_simulator.captioner import NeuralUser

USERS = ("attribute", "neural", "striking")

__all__ = [
    "USERS",
    "AttributeUser",
    "Draws",
    "Judge",
    "NeuralUser",
    "NoisyUser",
    "RowDraws",
    "SharedDraws",
    "StrikingUser",
    "User",
    "judge_of",
]


def __getattr__(name: str) -> Any:
    if name == "NeuralUser":
        from user_simulator.captioner import NeuralUser

        return NeuralUser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
