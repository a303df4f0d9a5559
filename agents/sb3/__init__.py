"""Stable-Baselines3 and sb3-contrib: dialogs as their VecEnv, trackers as their policies."""

from agents.sb3.agent import SB3Agent, load_sb3, tracker_of
from agents.sb3.history import DialogHistory
from agents.sb3.models import ALGORITHMS, Method, make_dialogs, make_model, principal_space
from agents.sb3.policies import DialogPolicy, DialogSACPolicy
from agents.sb3.untrusted import read_model
from agents.sb3.vec_env import DialogVecEnv

__all__ = [
    "ALGORITHMS",
    "DialogHistory",
    "DialogPolicy",
    "DialogSACPolicy",
    "DialogVecEnv",
    "Method",
    "SB3Agent",
    "load_sb3",
    "make_dialogs",
    "make_model",
    "principal_space",
    "read_model",
    "tracker_of",
]
