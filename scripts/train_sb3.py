"""Train with Stable-Baselines3: train_sb3 --algo ppo --pretrained-model models/sl-12.pt"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import DialogArgs, dialog_of, run, writable

if TYPE_CHECKING:
    from agents.sb3 import Method
    from agents.tracker import DialogTracker
    from envs.dialog import Dialog


@dataclass(frozen=True)
class Args(DialogArgs):
    """PPO, A2C, SAC, RecurrentPPO or MaskablePPO around a tracker; saves `{algo}-{epoch}.zip`."""

    algo: str = "ppo"
    """`ppo`, `a2c`, `sac`, or of sb3-contrib `recurrent-ppo` and `maskable-ppo`."""
    pretrained_model: Path | None = None
    """The supervised checkpoint (`sl-N.pt`) whose weights the policy begins with."""
    composer: str = "tirg"
    """Composition model of a policy that begins from scratch."""
    memory: str = "gru"
    """Its memory over turns: `gru` or `none`."""
    dim: int = 16
    """Size of its queries: chance finds its way in few dimensions sooner."""
    action: str | None = None
    """`query` (a Gaussian around the tracker's query) or `candidate` (a softmax over the images
    nearest to the one on show); by default what the algorithm takes, `query` if it takes both."""
    candidates: int = 16
    """Candidates to choose among (K)."""
    reward: str = "log_rank_gain"
    """What a turn is worth; see `envs.rewards`."""
    gamma: float | None = None
    """What an outcome is worth one turn earlier; by default 0.5 from a pretrained model, 0 from
    scratch, where what later turns bring is noise at first."""
    noise: float | None = None
    """Length of the noise around a query of length 1 at first; by default 0.5 from a pretrained
    model, 1 from scratch."""
    lr: float | None = None
    """Adam's learning rate; by default 3e-5 (SAC's actor: 3e-6) from a pretrained model, 1e-3 from
    scratch. SAC's critics learn at 1e-3 at least."""
    num_envs: int = 64
    """Dialogs played side by side."""
    turns_per_epoch: int = 20_480
    """Turns played in an epoch, over all dialogs."""
    epochs: int = 10
    """Epochs in all."""
    train_turns: int = 5
    """Turns of training dialogs (T)."""
    test_turns: int = 5
    """Turns of test dialogs; at most those of training dialogs."""
    test_pairs: int = 512
    """Held-out dialogs played after each epoch; 0 plays none."""
    seed: int = 0
    """Fixes the initial weights, the dialogs, the users' words and the exploration."""
    model_folder: Path = Path("models/")
    """Receives models, `{algo}-metrics.json` and TensorBoard's `logs`."""
    resume: bool = False
    """Go on from the last model in the folder, to the same numbers."""
    overwrite: bool = False
    """Start anew where the folder already holds models."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: train(args))


def train(args: Args) -> None:
    """Train as the arguments say."""
    from agents.sb3 import make_dialogs, make_model, read_model, tracker_of
    from agents.sb3.sessions import last_model, learn_epochs, restore_replay

    method = method_of(args)
    if args.device != "cpu":
        raise ValueError(
            f"train_sb3 works on the CPU, where small policies are at home; got {args.device}; "
            "leave --device out"
        )
    if args.test_turns > args.train_turns:
        raise ValueError(
            f"the policy reads dialogs of up to {args.train_turns} turns, got --test-turns "
            f"{args.test_turns}; give at least as many --train-turns"
        )
    done = last_model(args.model_folder, args.algo, args.resume, args.overwrite)
    dialog = dialog_of(args, "train", args.train_turns)
    if done is None:
        tracker, spec = new_tracker(args, dialog)
        model = make_model(make_dialogs(dialog, tracker, method), tracker, spec, method)
        first = 0
    else:
        before = tracker_of(read_model(done))
        if before is None:
            raise ValueError(f"{done} has no tracker inside; it was not trained by train_sb3")
        model = read_model(done, make_dialogs(dialog, before, method))
        restore_replay(model, done)
        first = int(done.stem.rpartition("-")[2]) + 1
    writable(args.model_folder)
    learn_epochs(
        model, args.algo, range(first, args.epochs), args.turns_per_epoch, args.seed,
        args.model_folder, dialog_of(args, "test", args.test_turns) if args.test_pairs else None,
        args.test_pairs,
    )  # fmt: skip
    print(f"models in {args.model_folder}: {args.algo}-0.zip ... {args.algo}-{args.epochs - 1}.zip")


def method_of(args: Args) -> Method:
    """The method that the arguments stand for."""
    from agents.sb3 import Method

    from_scratch = args.pretrained_model is None
    action = args.action or ("candidate" if args.algo == "maskable-ppo" else "query")
    noise = args.noise if args.noise is not None else (1.0 if from_scratch else 0.5)
    careful = 3e-6 if args.algo == "sac" else 3e-5  # a critic leads straight where it is wrong
    rate = args.lr if args.lr is not None else (1e-3 if from_scratch else careful)
    gamma = args.gamma if args.gamma is not None else (0.0 if from_scratch else 0.5)
    return Method(
        args.algo, action, args.candidates, args.reward, args.num_envs, rate, gamma, noise,
        None if from_scratch else 0.05, seed=args.seed,
    )  # fmt: skip


def new_tracker(args: Args, dialog: Dialog) -> tuple[DialogTracker, dict[str, Any]]:
    """The tracker to begin with, and its specification."""
    import torch

    from agents.checkpoints import load_checkpoint, make_agent
    from agents.sb3 import principal_space

    if args.pretrained_model is not None:
        start = load_checkpoint(args.pretrained_model, dialog.vocabulary)
        start.agent.index(dialog.gallery.features[:2])  # refuses features of another size now
        return start.agent, start.spec
    spec = {"kind": "tracker", "composer": args.composer, "memory": args.memory, "dim": args.dim}
    torch.manual_seed(args.seed)
    tracker = make_agent(spec, dialog.vocabulary, dialog.gallery.features.shape[1])
    principal_space(tracker, dialog.gallery.features)
    return tracker.eval(), spec


if __name__ == "__main__":
    main()
