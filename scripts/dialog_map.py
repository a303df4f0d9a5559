"""The map of `results_dialogs`: its galleries, settings and agents, and how these are trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GALLERIES = {
    "css-3d": "--env dialog/CSS-v0",
    "css-2d": "--env dialog/CSS2D-v0",
    "catalog": "--dataset catalog --dataset-path {catalog}",
}
METRICS = ("percentile", "recall@1", "recall@5", "recall@10", "found", "bri")
START = "--epochs 1 --batch-size 64 --lr 1e-3 --schedule cosine --test-pairs 0"
GO_ON = "--epochs 1 --batch-size 64 --lr 2e-4 --schedule cosine --test-pairs 0"
CANDIDATES = 4
LOOK = f"--top-k {CANDIDATES} --weight 25"
LOOK_AT = {"catalog": "--outcome finding --images-rest"}
"""What is added to it for a gallery; chosen by trial (RESULTS.md, "What was tried")."""
DEFAULTS = "sl; by `train_rl` as it comes"


@dataclass(frozen=True)
class Beside:
    """Somebody to compare with who is made, or played, when asked for.

    Args:
        trains: "sl", "rl" or, where nothing more is trained, nothing: the agent that supervised
            training continued.
        flags: of that training.
        recipe: of it, before these.
        plays: flags of the benchmark.
    """

    trains: str = ""
    flags: str = ""
    recipe: str = GO_ON
    plays: str = ""


BESIDE = {
    "decodes": Beside("sl"),
    "hard": Beside("sl", "--loss hard_negatives"),
    "gallery": Beside("sl", "--loss gallery"),
    "candidates": Beside("rl", "--outcome target"),
    "rollouts": Beside("rl", "--rollouts 4"),
    "depth": Beside("rl", "--depth 1"),
    "pool": Beside("rl", "--pool 32"),
    "wide": Beside("rl", "--top-k 8"),
    "light": Beside("rl", "--weight 3"),
    "scst": Beside("rl", recipe=f"{GO_ON} --method self-critical"),
    "mmr": Beside(plays="--slate-by mmr"),
    "medoids": Beside(plays="--slate-by medoids"),
    "defaults": Beside("rl", recipe="--epochs 1 --test-pairs 0"),
}
"""Supervised training that hears as many captions, or goes on with another loss; training on the
same candidates without look-ahead; policy improvement with more roll-outs, one turn deep, with
candidates from further away, with more of them, with a light weight, or REINFORCE against the
greedy dialog instead; slates diversified by a rule; `train_rl` as it comes."""


@dataclass(frozen=True)
class Setting:
    """What makes the choice of what to show matter.

    Args:
        what: as the table says it.
        flags: of the dialogs, for training and playing.
        turns: T of both.
        begins: with the supervised start of which setting: with users who speak otherwise it is
            trained with them, one image at a time.
    """

    what: str
    flags: str = ""
    turns: int = 5
    begins: str = "plain"

    def with_(self, other: Setting) -> Setting:
        """These users in another setting of the plain ones."""
        return Setting(
            f"{self.what}, {other.what}", f"{self.flags} {other.flags}", self.turns, self.begins
        )


SETTINGS = {
    "plain": Setting("one image, neural user"),
    "noisy": Setting("words wrong with p = 0.3", "--noise 0.3", begins="noisy"),
    "slate": Setting("slates of 4", "--slate 4"),
    "no-repeat": Setting("never repeats", "--never-repeat"),
    "impatient": Setting("leaves after 2 turns without progress", "--patience 2"),
    "striking": Setting("names the most striking difference", "--user striking", begins="striking"),
    "attribute": Setting("reads the attributes", "--user attribute", begins="attribute"),
    "attribute-noisy": Setting(
        "reads the attributes, words wrong with p = 0.3",
        "--user attribute --noise 0.3",
        begins="attribute-noisy",
    ),
    "ten-turns": Setting("ten turns", turns=10),
}
USERS = ("plain", "noisy", "impatient", "striking", "attribute")
SHOWN = ("slate", "no-repeat")
SETTINGS |= {
    f"{user}-{shown}": SETTINGS[user].with_(SETTINGS[shown])
    for user in USERS[1:]
    for shown in SHOWN
}


@dataclass(frozen=True)
class Cell:
    """One gallery, setting and seed."""

    gallery: str
    setting: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its agents and figures lie."""
        return out / self.gallery / self.setting / f"seed-{self.seed}"


def captions(turns: int) -> int:
    """Captions that a dialog of policy improvement costs, for one of a supervised dialog.

    At each of T turns the K candidates are played on for the turns that are left, or for one.
    """
    ahead = CANDIDATES * sum(max(1, turns - 1 - turn) for turn in range(turns))
    return -(-(turns + ahead) // turns)
