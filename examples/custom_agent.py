"""An agent of one's own in ten lines, in the same table as all others.

`python -m examples.custom_agent`, or with intervals, run files and a plot:
`benchmark --user attribute --agents examples.custom_agent:trained random image-only`
"""

from pathlib import Path

import numpy as np

from agents.baselines import ImageOnlyAgent, RandomAgent
from agents.evaluation import evaluation_pairs, run_dialogs
from agents.report import format_table, summarise
from envs import Dialog, make_dialog


class WordArithmetic:
    """Asks for the reference plus what the words of the dialog meant in training, on average."""

    def __init__(self, dialog: Dialog, examples: int = 10_000):
        rng, size = np.random.default_rng(0), len(dialog.gallery)
        reference, target = rng.integers(size, size=(2, examples))
        said = dialog.user.describe(reference, target, rng)
        self.words = np.eye(len(dialog.vocabulary), dtype=np.float32)
        change = dialog.gallery.features[target] - dialog.gallery.features[reference]
        bags = self.words[dialog.vocabulary.encode(said, 16)].sum(axis=1)
        self.meaning = np.linalg.lstsq(bags, change, rcond=None)[0]

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        heard = self.words[observation["caption"]].sum(axis=1) @ self.meaning  # (B, F)
        state = heard if state is None else state + heard
        return observation["reference"] + 10 * state, state


def trained(dialog: Dialog) -> WordArithmetic:
    """The agent for `benchmark`: learnt on the train split, whatever it will play on."""
    return WordArithmetic(make_dialog())


def main(root: Path | None = None, dialogs: int = 500) -> str:
    """Learn on the train split, play on the test split; `root` is a CSS folder."""
    test = make_dialog(root=root, split="test")
    agents = {
        "words": WordArithmetic(make_dialog(root=root)),
        "random": RandomAgent(len(test.gallery), np.random.default_rng(0)),
        "image-only": ImageOnlyAgent(test.gallery),
    }
    target, reference = evaluation_pairs(len(test.gallery), dialogs, seed=0)
    ranks = {
        name: run_dialogs(test, agent, target, reference).ranks for name, agent in agents.items()
    }
    table = format_table(summarise(ranks, len(test.gallery), rng=np.random.default_rng(0)))
    print(table)
    return table


if __name__ == "__main__":
    main()
